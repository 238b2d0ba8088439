package odp

import (
	"net/netip"
	"strconv"
	"strings"
)

func (p *parser) actions(list item, depth int) (out []Action, err error) {
	if depth > maxActionNesting {
		return nil, p.fail(list, "nested too deep")
	}
	items, err := p.split(list)
	if err != nil {
		return nil, err
	}
	if len(items) == 1 && items[0].s == "drop" {
		return nil, nil
	}
	for _, it := range items {
		a, err := p.action(it, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func (p *parser) action(it item, depth int) (Action, error) {
	name, args, ok := p.call(it)
	if !ok || it.s == "pop_nsh()" {
		return p.plainAction(it)
	}
	switch name {
	case "recirc", "trunc", "meter", "drop":
		return p.numberAction(name, args)
	case "clone":
		list, err := p.actions(args, depth+1)
		return Clone(list), err
	case "set":
		return p.set(args)
	case "push_vlan":
		return p.pushVLAN(args)
	case "push_mpls", "add_mpls", "pop_mpls":
		return p.mplsAction(name, args)
	case "push_eth":
		f, err := p.key("eth", args, 0)
		eth, _ := f.value.(Ethernet)
		return PushEth(eth), err
	case "push_nsh":
		nsh, _, err := p.nsh(args)
		return PushNSH(nsh), err
	case "hash":
		return p.hash(args)
	case "userspace":
		return p.userspace(args)
	case "ct":
		return p.ct(args)
	case "sample", "check_pkt_len", "dec_ttl":
		return p.branch(name, args, depth)
	case "psample":
		return p.psample(args)
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "action"), 10, 14)
	if err != nil || !strings.HasPrefix(name, "action") {
		return nil, p.fail(it, "no such action")
	}
	data, err := p.hex(args)
	return UnknownAction{Type: uint16(n), Data: data}, err
}

func (p *parser) plainAction(it item) (Action, error) {
	switch it.s {
	case "pop_vlan":
		return PopVLAN{}, nil
	case "pop_eth":
		return PopEth{}, nil
	case "pop_nsh", "pop_nsh()":
		return PopNSH{}, nil
	case "ct_clear":
		return CTClear{}, nil
	case "ct":
		return CT{}, nil
	case "drop":
		return nil, p.fail(it, "drop can only stand alone")
	}
	n, err := p.port(it)
	return Output(n), err
}

func (p *parser) numberAction(name string, args item) (Action, error) {
	n, err := p.uint(args, 32)
	switch name {
	case "recirc":
		return Recirc(n), err
	case "trunc":
		return Trunc(n), err
	case "meter":
		return Meter(n), err
	}
	return Drop(n), err
}

// set is an unmasked Set if every bit is given or the key cannot be masked.
func (p *parser) set(args item) (Action, error) {
	name, inner, ok := p.call(args)
	if !ok {
		return nil, p.fail(args, "a key is needed")
	}
	f, err := p.key(name, inner, 0)
	if err != nil {
		return nil, err
	}
	if _, tunnel := f.value.(Tunnel); tunnel {
		return Set{f.value}, nil
	}
	if f.mask == nil {
		return nil, p.fail(args, "it sets nothing")
	}
	v, _ := keyPayload(exactMask(f.value))
	m, _ := keyPayload(f.mask)
	if string(v) == string(m) {
		return Set{f.value}, nil
	}
	return setMasked(f.value, f.mask), nil
}

// fields calls f for each name=value, flag or name(args) in a list.
func (p *parser) fields(args item, f func(name string, value item) error) error {
	items, err := p.split(args)
	for _, it := range items {
		name, value, ok := assign(it)
		if n, inner, called := p.call(it); called && (!ok || len(n) < len(name)) {
			name, value = n, inner
		} else if !ok {
			name, value = it.s, item{"", it.at}
		}
		if err == nil {
			err = f(name, value)
		}
	}
	return err
}

func (p *parser) pushVLAN(args item) (Action, error) {
	a := PushVLAN{Type: TypeVLAN}
	var id, pcp uint64
	err := p.fields(args, func(name string, v item) (err error) {
		var n uint64
		switch name {
		case "tpid":
			n, err = p.uint(v, 16)
			a.Type = EtherType(n)
		case "vid":
			id, err = p.uint(v, 12)
		case "pcp":
			pcp, err = p.uint(v, 3)
		default:
			err = p.fail(v, "no such field of push_vlan")
		}
		return err
	})
	a.TCI = Tag(uint16(id), uint8(pcp))
	return a, err
}

func (p *parser) mplsAction(name string, args item) (Action, error) {
	var lse LSE
	var typ uint64
	layer3 := false
	err := p.fields(args, func(name string, v item) (err error) {
		if bits, shift, ok := lsePart(name); ok {
			n, err := p.uint(v, bits)
			lse |= LSE(n << shift)
			return err
		}
		switch name {
		case "eth_type":
			typ, err = p.uint(v, 16)
		case "layer3":
			layer3 = true
		default:
			err = p.fail(v, "no such field of an MPLS action")
		}
		return err
	})
	switch name {
	case "pop_mpls":
		return PopMPLS(typ), err
	case "push_mpls":
		return PushMPLS{Entry: lse, Type: EtherType(typ)}, err
	}
	return AddMPLS{Entry: lse, Type: EtherType(typ), Layer3: layer3}, err
}

func (p *parser) hash(args item) (Action, error) {
	name, inner, ok := p.call(args)
	if !ok {
		return nil, p.fail(args, "a hash algorithm is needed")
	}
	basis, err := p.uint(inner, 32)
	switch {
	case name == "l4":
		return Hash{HashL4, uint32(basis)}, err
	case name == "sym_l4":
		return Hash{HashSymL4, uint32(basis)}, err
	}
	n, numErr := strconv.ParseUint(strings.TrimPrefix(name, "alg"), 10, 32)
	if numErr != nil {
		return nil, p.fail(args, "no such hash algorithm")
	}
	return Hash{HashAlgorithm(n), uint32(basis)}, err
}

func (p *parser) userspace(args item) (Action, error) {
	var a Userspace
	err := p.fields(args, func(name string, v item) (err error) {
		var n uint64
		switch name {
		case "pid":
			n, err = p.uint(v, 32)
			a.PID = uint32(n)
		case "userdata":
			a.Data, err = p.hex(v)
		case "actions":
			a.Actions = true
		case "tunnel_out_port":
			a.TunnelPort, err = p.port(v)
			a.HasTunnel = true
		default:
			err = p.unknownAttr(name, v, &a.Unknown)
		}
		return err
	})
	return a, err
}

func (p *parser) unknownAttr(name string, v item, to *[]Attr) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "attr"), 10, 14)
	if err != nil {
		return p.fail(v, "no such field")
	}
	data, err := p.hex(v)
	*to = append(*to, Attr{Type: uint16(n), Data: data})
	return err
}

// branch reads the actions that contain lists of actions.
func (p *parser) branch(name string, args item, depth int) (Action, error) {
	var sample Sample
	var check CheckPktLen
	var ttl DecTTL
	err := p.fields(args, func(field string, v item) (err error) {
		switch name + " " + field {
		case "sample sample":
			if sample.Probability, err = parsePercentage(strings.TrimSuffix(v.s, "%")); err != nil {
				err = p.fail(v, "not a percentage")
			}
		case "sample actions":
			sample.Actions, err = p.actions(v, depth+1)
		case "check_pkt_len size":
			n, uerr := p.uint(v, 16)
			check.Len, err = uint16(n), uerr
		case "check_pkt_len gt":
			check.Greater, err = p.actions(v, depth+1)
		case "check_pkt_len le":
			check.LessEqual, err = p.actions(v, depth+1)
		case "dec_ttl le_1":
			var list []Action
			list, err = p.actions(v, depth+1)
			ttl = list
		default:
			err = p.fail(v, "no such field of "+name)
		}
		return err
	})
	switch name {
	case "sample":
		return sample, err
	case "dec_ttl":
		return ttl, err
	}
	return check, err
}

func (p *parser) psample(args item) (Action, error) {
	var a PSample
	err := p.fields(args, func(name string, v item) (err error) {
		switch name {
		case "group":
			n, uerr := p.uint(v, 32)
			a.Group, err = uint32(n), uerr
		case "cookie":
			a.Cookie, err = p.hex(v)
		default:
			err = p.fail(v, "no such field of psample")
		}
		return err
	})
	return a, err
}

func (p *parser) ct(args item) (Action, error) {
	var a CT
	err := p.fields(args, func(name string, v item) (err error) {
		switch name {
		case "commit":
			a.Commit = true
		case "force_commit":
			a.Commit, a.ForceCommit = true, true
		case "zone":
			n, uerr := p.uint(v, 16)
			a.Zone, err = uint16(n), uerr
		case "mark":
			n, m, nerr := p.number(v, 32)
			a.Mark, a.MarkMask, err = CTMark(n), CTMark(m), nerr
		case "label":
			err = p.withMask(v, a.Labels[:], a.LabelsMask[:], p.label)
		case "helper":
			a.Helper = v.s
		case "timeout":
			a.Timeout = v.s
		case "eventmask":
			n, uerr := p.uint(v, 32)
			a.Events, a.HasEvents, err = uint32(n), true, uerr
		case "nat":
			a.NAT = new(NAT)
			err = p.fields(v, func(name string, v item) error { return p.natField(a.NAT, name, v) })
		default:
			err = p.unknownAttr(name, v, &a.Unknown)
		}
		return err
	})
	return a, err
}

func (p *parser) natField(n *NAT, name string, v item) error {
	switch name {
	case "src", "dst":
		n.Src, n.Dst = name == "src", name == "dst"
		return p.natRange(n, v)
	case "persistent":
		n.Persistent = true
	case "hash":
		n.Hash = true
	case "random":
		n.Random = true
	default:
		return p.unknownAttr(name, v, &n.Unknown)
	}
	return nil
}

// natRange reads 10.0.0.1-10.0.0.9:100-200 or [fd00::1-fd00::9]:100-200; each part may be missing.
func (p *parser) natRange(n *NAT, v item) error {
	if v.s == "" {
		return nil
	}
	ips, ports := v.s, ""
	if inner, rest, ok := strings.Cut(strings.TrimPrefix(v.s, "["), "]"); ok {
		ips, ports = inner, strings.TrimPrefix(rest, ":")
	} else if strings.Count(v.s, ":") == 1 {
		ips, ports, _ = strings.Cut(v.s, ":")
	}
	if lo, hi, both := strings.Cut(ips, "-"); lo != "" {
		min, err := netip.ParseAddr(lo)
		max := min
		if err == nil && both {
			max, err = netip.ParseAddr(hi)
		}
		if err != nil || min.Zone()+max.Zone() != "" {
			return p.fail(v, "not a range of addresses")
		}
		n.MinIP = min
		if both {
			n.MaxIP = max
		}
	}
	if lo, hi, both := strings.Cut(ports, "-"); lo != "" {
		min, err := p.uint(item{lo, v.at}, 16)
		if err == nil && both {
			var max uint64
			max, err = p.uint(item{hi, v.at}, 16)
			n.MaxPort = uint16(max)
		}
		n.MinPort = uint16(min)
		return err
	}
	return nil
}

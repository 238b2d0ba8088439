package odp

import (
	"encoding/hex"
	"math"
	"strconv"
)

// actions writes a list; an empty one is "drop".
func (p *printer) actions(list []Action) {
	if len(list) == 0 {
		p.str("drop")
		return
	}
	for _, a := range list {
		p.sep()
		p.action(a)
	}
}

func (p *printer) nested(name string, list []Action) {
	p.str(name + "(")
	p.actions(list)
	p.str(")")
}

func (p *printer) action(a Action) {
	switch a := a.(type) {
	case Output:
		p.port(uint32(a))
	case Recirc:
		p.printf("recirc(%s)", appendHex(nil, uint64(a)))
	case Trunc:
		p.printf("trunc(%d)", uint32(a))
	case Meter:
		p.printf("meter(%d)", uint32(a))
	case Drop:
		p.printf("drop(%d)", uint32(a))
	case PopVLAN:
		p.str("pop_vlan")
	case PopEth:
		p.str("pop_eth")
	case PopNSH:
		p.str("pop_nsh()")
	case CTClear:
		p.str("ct_clear")
	case Clone:
		p.nested("clone", a)
	case DecTTL:
		p.str("dec_ttl(")
		p.nested("le_1", a)
		p.str(")")
	case Set:
		p.str("set(")
		p.setKey(a.Key, nil, true)
		p.str(")")
	case SetMasked:
		p.str("set(")
		p.setKey(a.value, a.mask, false)
		p.str(")")
	case Hash:
		p.hash(a)
	case UnknownAction:
		p.printf("action%d(%s)", a.Type, hex.EncodeToString(a.Data))
	default:
		p.biggerAction(a)
	}
}

// percentage writes a share of 2^32-1 with as many digits as tell it from all others, at least one.
func percentage(share uint32) (text string) {
	for digits := 1; digits < 10; digits++ {
		text = strconv.FormatFloat(float64(share)*100/math.MaxUint32, 'f', digits, 64)
		if again, err := parsePercentage(text); err == nil && again == share {
			break
		}
	}
	return text
}

func parsePercentage(s string) (uint32, error) {
	share, err := strconv.ParseFloat(s, 64)
	if err == nil && !(share >= 0 && share <= 100) {
		err = strconv.ErrRange
	}
	return uint32(math.Round(share / 100 * math.MaxUint32)), err
}

// setKey writes what is set; parts that are not set are left out however verbose the rest is.
func (p *printer) setKey(k, mask Key, exact bool) {
	verbose := p.Verbose
	p.Verbose = exact
	p.key(k, mask, exact)
	p.Verbose = verbose
}

func (p *printer) hash(a Hash) {
	switch a.Algorithm {
	case HashL4:
		p.printf("hash(l4(%d))", a.Basis)
	case HashSymL4:
		p.printf("hash(sym_l4(%d))", a.Basis)
	default:
		p.printf("hash(alg%d(%d))", uint32(a.Algorithm), a.Basis)
	}
}

func (p *printer) biggerAction(a Action) {
	switch a := a.(type) {
	case PushVLAN:
		p.str("push_vlan(")
		if a.Type != TypeVLAN {
			p.printf("tpid=0x%04x,", uint16(a.Type))
		}
		p.printf("vid=%d,pcp=%d)", uint16(a.TCI)&0xfff, uint16(a.TCI)>>13)
	case PushMPLS:
		p.str("push_mpls(")
		p.lse(a.Entry)
		p.printf(",eth_type=%#x)", uint16(a.Type))
	case AddMPLS:
		p.str("add_mpls(")
		p.lse(a.Entry)
		p.printf(",eth_type=%#x", uint16(a.Type))
		if a.Layer3 {
			p.str(",layer3")
		}
		p.str(")")
	case PopMPLS:
		p.printf("pop_mpls(eth_type=%#x)", uint16(a))
	case PushEth:
		p.printf("push_eth(src=%s,dst=%s)", a.Src, a.Dst)
	case PushNSH:
		p.str("push_nsh(")
		p.nsh(NSH(a), NSH(a).exactMask())
		p.str(")")
	case Userspace:
		p.userspace(a)
	case Sample:
		p.printf("sample(sample=%s%%,", percentage(a.Probability))
		p.nested("actions", a.Actions)
		p.str(")")
	case CheckPktLen:
		p.printf("check_pkt_len(size=%d,", a.Len)
		p.nested("gt", a.Greater)
		p.str(",")
		p.nested("le", a.LessEqual)
		p.str(")")
	case PSample:
		p.printf("psample(group=%d", a.Group)
		if len(a.Cookie) > 0 {
			p.printf(",cookie=0x%s", hex.EncodeToString(a.Cookie))
		}
		p.str(")")
	case CT:
		p.ct(a)
	}
}

func (p *printer) userspace(a Userspace) {
	p.printf("userspace(pid=%d", a.PID)
	if len(a.Data) > 0 {
		p.printf(",userdata(%s)", hex.EncodeToString(a.Data))
	}
	if a.Actions {
		p.str(",actions")
	}
	if a.HasTunnel {
		p.str(",tunnel_out_port=")
		p.port(a.TunnelPort)
	}
	p.unknown(a.Unknown)
	p.str(")")
}

func (p *printer) unknown(attrs []Attr) {
	for _, a := range attrs {
		p.printf(",attr%d(%s)", a.Type, hex.EncodeToString(a.Data))
	}
}

func (p *printer) ct(a CT) {
	p.str("ct(")
	item := func(show bool, format string, args ...any) {
		if show {
			p.sep()
			p.printf(format, args...)
		}
	}
	item(a.Commit && !a.ForceCommit, "commit")
	item(a.ForceCommit, "force_commit")
	item(a.Zone != 0, "zone=%d", a.Zone)
	item(a.MarkMask != 0, "mark=%s/%s", appendHex(nil, uint64(a.Mark)), appendHex(nil, uint64(a.MarkMask)))
	item(a.LabelsMask != CTLabels{}, "label=%s/%s", labelString(a.Labels[:]), labelString(a.LabelsMask[:]))
	item(a.Helper != "", "helper=%s", a.Helper)
	item(a.Timeout != "", "timeout=%s", a.Timeout)
	item(a.HasEvents, "eventmask=%#x", a.Events)
	if a.NAT != nil {
		p.sep()
		p.nat(*a.NAT)
	}
	if len(p.b) > 0 && p.b[len(p.b)-1] == '(' && len(a.Unknown) == 0 {
		p.b = p.b[:len(p.b)-1] // ct without arguments is written without parentheses
		return
	}
	p.unknown(a.Unknown)
	p.str(")")
}

func (p *printer) nat(n NAT) {
	p.str("nat")
	if !n.Src && !n.Dst && !n.Persistent && !n.Hash && !n.Random && len(n.Unknown) == 0 {
		return
	}
	p.str("(")
	if n.Src || n.Dst {
		p.str(map[bool]string{true: "src", false: "dst"}[n.Src])
		p.natRange(n)
	}
	for _, f := range [...]struct {
		set  bool
		name string
	}{{n.Persistent, "persistent"}, {n.Hash, "hash"}, {n.Random, "random"}} {
		if f.set {
			p.sep()
			p.str(f.name)
		}
	}
	p.unknown(n.Unknown)
	p.str(")")
}

func (p *printer) natRange(n NAT) {
	if !n.MinIP.IsValid() && n.MinPort == 0 {
		return
	}
	p.str("=")
	six := n.MinIP.Is6() && (n.MinPort != 0)
	if n.MinIP.IsValid() {
		if six {
			p.str("[")
		}
		p.str(n.MinIP.String())
		if n.MaxIP.IsValid() && n.MaxIP != n.MinIP {
			p.str("-" + n.MaxIP.String())
		}
		if six {
			p.str("]")
		}
	}
	if n.MinPort != 0 {
		p.printf(":%d", n.MinPort)
		if n.MaxPort != 0 && n.MaxPort != n.MinPort {
			p.printf("-%d", n.MaxPort)
		}
	}
}

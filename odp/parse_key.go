package odp

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

func (p *parser) match(list item, depth int) (m Match, err error) {
	items, err := p.split(list)
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		name, args, ok := p.call(it)
		if !ok {
			return nil, p.fail(it, "a key with parentheses is needed")
		}
		f, err := p.key(name, args, depth)
		if err != nil {
			return nil, err
		}
		if f.keyType() == keyEtherType && f.mask == nil && f.value == EtherType(0) {
			continue // eth_type(0/0x0000) is how "any" is written
		}
		m = append(m, f)
	}
	return m, nil
}

// key reads one key with its mask.
func (p *parser) key(name string, args item, depth int) (Field, error) {
	if typ, l, ok := layoutNamed(name); ok {
		return p.fixedKey(typ, l, args)
	}
	switch name {
	case "tunnel":
		return p.tunnel(args)
	case "mpls":
		return p.mpls(args)
	case "nsh":
		v, m, err := p.nsh(args)
		return Masked(v, m), err
	case "encap":
		if depth >= maxKeyNesting {
			return Field{}, p.fail(args, "nested too deep")
		}
		inner, err := p.match(args, depth+1)
		return Inside(inner), err
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(name, "key"), 10, 14); err == nil && strings.HasPrefix(name, "key") {
		return p.unknownKey(uint16(n), args)
	}
	return Field{}, p.fail(item{at: args.at - 1 - len(name)}, "no such key")
}

func (p *parser) unknownKey(typ uint16, args item) (Field, error) {
	text, wild := strings.CutSuffix(args.s, "/0")
	v, m, err := p.hexes(item{text, args.at})
	if err != nil {
		return Field{}, err
	}
	if wild {
		m = zeros(len(v))
	}
	// A tool that is older than this package writes known keys like this too.
	k, kErr := decodeKey(typ, v, 0)
	kMask, maskErr := decodeKey(typ, m, 0)
	if kErr != nil || maskErr != nil || len(v) != len(m) {
		return Field{}, p.fail(args, "not a value of this key")
	}
	return Masked(k, kMask), nil
}

// layoutNamed returns the attribute of fixed size with this name.
func layoutNamed(name string) (uint16, layout, bool) {
	for typ := range uint16(keyIPv6ExtHdrs + 1) {
		if l, ok := layoutOf(typ); ok && l.name == name {
			return typ, l, true
		}
	}
	return 0, layout{}, false
}

func (p *parser) fixedKey(typ uint16, l layout, args item) (Field, error) {
	v, m := make([]byte, l.size), make([]byte, l.size)
	items, err := p.split(args)
	if err != nil {
		return Field{}, err
	}
	if typ == keyVLAN {
		v[0], m[0] = byte(vlanPresent>>8), byte(vlanPresent>>8)
	}
	if f := l.fields()[0]; f.name == "" {
		if err := p.value(f.kind, args, items, v, m); err != nil {
			return Field{}, err
		}
		items = nil
	}
	for _, it := range items {
		name, value, ok := assign(it)
		f, known := fieldNamed(l.fields(), name)
		if !ok || !known {
			return Field{}, p.fail(it, "no such field of "+l.name)
		}
		if err := p.value(f.kind, value, nil, v[f.at:f.at+f.len], m[f.at:f.at+f.len]); err != nil {
			return Field{}, err
		}
	}
	return Masked(l.decode(v), l.decode(m)), nil
}

func fieldNamed(fields []fieldLayout, name string) (fieldLayout, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return fieldLayout{}, false
}

// value reads a field into v and its mask into m. For kinds that are lists, items are the parts of it.
func (p *parser) value(kind fieldKind, it item, items []item, v, m []byte) error {
	switch kind {
	case macAddr, ip4Addr, ip6Addr:
		return p.address(it, v, m)
	case tcpFlags:
		value, mask, err := p.flags(tcpFlagNames(), it, 0xffff)
		binary.BigEndian.PutUint16(v, uint16(value))
		binary.BigEndian.PutUint16(m, uint16(mask))
		return err
	case ctStates:
		value, mask, err := p.flags(ctStateNames(), it, uint32(ctStateAll))
		binary.NativeEndian.PutUint32(v, value)
		binary.NativeEndian.PutUint32(m, mask)
		return err
	case label128:
		return p.withMask(it, v, m, p.label)
	case vlanTag:
		return p.vlan(items, v, m)
	case packetNS:
		return p.packetType(items, v, m)
	case fragment:
		return p.withMask(it, v, m, p.frag)
	case number:
		return p.withMask(it, v, m, func(it item, b []byte) error {
			n, err := p.port(it)
			binary.NativeEndian.PutUint32(b, n)
			return err
		})
	}
	return p.withMask(it, v, m, func(it item, b []byte) error {
		n, err := p.uint(it, 8*len(b))
		putUint(b, n, kind == hexHost)
		return err
	})
}

// withMask reads value and mask alike; a missing mask is all ones.
func (p *parser) withMask(it item, v, m []byte, read func(item, []byte) error) error {
	value, mask := masked(it)
	if err := read(value, v); err != nil {
		return err
	}
	if mask.s == "" {
		copy(m, ones(len(m)))
		return nil
	}
	return read(mask, m)
}

func putUint(b []byte, n uint64, host bool) {
	var big [8]byte
	binary.BigEndian.PutUint64(big[:], n)
	copy(b, big[8-len(b):])
	if host {
		switch len(b) {
		case 2:
			binary.NativeEndian.PutUint16(b, uint16(n))
		case 4:
			binary.NativeEndian.PutUint32(b, uint32(n))
		}
	}
}

func (p *parser) address(it item, v, m []byte) error {
	return p.withMask(it, v, m, func(it item, b []byte) error {
		if len(b) == 6 {
			mac, err := ParseMAC(it.s)
			if err != nil {
				return p.fail(it, "not an Ethernet address")
			}
			copy(b, mac[:])
			return nil
		}
		a, err := netip.ParseAddr(it.s)
		if err != nil || a.BitLen() != 8*len(b) {
			return p.fail(it, "not an IP address of this kind")
		}
		copy(b, a.AsSlice())
		return nil
	})
}

func (p *parser) frag(it item, b []byte) error {
	for i, name := range [...]string{"no", "first", "later"} {
		if it.s == name {
			b[0] = byte(i)
			return nil
		}
	}
	n, err := p.uint(it, 8)
	b[0] = byte(n)
	return err
}

func (p *parser) label(it item, b []byte) error {
	raw, err := p.hex(item{strings.TrimPrefix(it.s, "0x"), it.at})
	if err != nil || len(raw) > 16 {
		return p.fail(it, "not a label of 128 bits")
	}
	big := make([]byte, 16)
	copy(big[16-len(raw):], raw)
	hi, lo := binary.BigEndian.Uint64(big), binary.BigEndian.Uint64(big[8:])
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		hi, lo = lo, hi
	}
	binary.NativeEndian.PutUint64(b, lo)
	binary.NativeEndian.PutUint64(b[8:], hi)
	return nil
}

func (p *parser) vlan(items []item, v, m []byte) error {
	tci, mask := uint16(vlanPresent), uint16(vlanPresent)
	for _, it := range items {
		name, value, _ := assign(it)
		shift, bits, ok := uint(0), 0, true
		switch name {
		case "vid":
			bits = 12
		case "pcp":
			shift, bits = 13, 3
		case "cfi":
			shift, bits = 12, 1
		case "tci":
			bits = 16
		default:
			ok = false
		}
		if !ok {
			return p.fail(it, "no such field of vlan")
		}
		val, msk := masked(value)
		n, err := p.uint(val, bits)
		if err != nil {
			return err
		}
		all := uint64(1)<<bits - 1
		k := all
		if msk.s != "" {
			if k, err = p.uint(msk, bits); err != nil {
				return err
			}
		}
		tci = tci&^uint16(all<<shift) | uint16(n<<shift)
		mask |= uint16(k << shift)
	}
	binary.BigEndian.PutUint16(v, tci)
	binary.BigEndian.PutUint16(m, mask)
	return nil
}

func (p *parser) packetType(items []item, v, m []byte) error {
	copy(m, ones(len(m)))
	for _, it := range items {
		name, value, _ := assign(it)
		n, err := p.uint(value, 16)
		switch {
		case err != nil:
			return err
		case name == "ns":
			binary.BigEndian.PutUint16(v, uint16(n))
		case name == "id":
			binary.BigEndian.PutUint16(v[2:], uint16(n))
		default:
			return p.fail(it, "no such field of packet_type")
		}
	}
	return nil
}

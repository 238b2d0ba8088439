package odp

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// number reads value/mask, a number of so many bits.
func (p *parser) number(it item, bits int) (v, m uint64, err error) {
	value, mask := masked(it)
	if v, err = p.uint(value, bits); err != nil {
		return 0, 0, err
	}
	if mask.s == "" {
		return v, 1<<bits - 1, nil
	}
	m, err = p.uint(mask, bits)
	return v, m, err
}

func (p *parser) tunnel(args item) (Field, error) {
	var v, m Tunnel
	items, err := p.split(args)
	if err != nil {
		return Field{}, err
	}
	for _, it := range items {
		if name, inner, ok := p.call(it); ok && !strings.Contains(name, "=") {
			err = p.tunnelOption(name, inner, &v, &m)
		} else if name, value, ok := assign(it); ok {
			err = p.tunnelField(name, value, &v, &m)
		} else if it.s == "ipv4_info_bridge" {
			v.InfoBridge = true
		} else {
			err = p.fail(it, "no such field of tunnel")
		}
		if err != nil {
			return Field{}, err
		}
	}
	if v.ID != 0 {
		v.Flags |= TunnelKey
	}
	if m.ID != 0 {
		m.Flags |= TunnelKey
	}
	return Masked(v, m), nil
}

func (p *parser) tunnelField(name string, it item, v, m *Tunnel) (err error) {
	var n, mask uint64
	switch name {
	case "tun_id":
		v.ID, m.ID, err = p.number(it, 64)
		v.Flags |= TunnelKey
	case "src", "ipv6_src":
		v.Src, m.Src, err = p.tunnelAddr(it)
	case "dst", "ipv6_dst":
		v.Dst, m.Dst, err = p.tunnelAddr(it)
	case "tos":
		n, mask, err = p.number(it, 8)
		v.TOS, m.TOS = uint8(n), uint8(mask)
	case "ttl":
		n, mask, err = p.number(it, 8)
		v.TTL, m.TTL = uint8(n), uint8(mask)
	case "tp_src":
		n, mask, err = p.number(it, 16)
		v.SrcPort, m.SrcPort = uint16(n), uint16(mask)
	case "tp_dst":
		n, mask, err = p.number(it, 16)
		v.DstPort, m.DstPort = uint16(n), uint16(mask)
	default:
		err = p.fail(it, "no such field of tunnel")
	}
	return err
}

func (p *parser) tunnelAddr(it item) (v, m netip.Addr, err error) {
	value, mask := masked(it)
	if v, err = netip.ParseAddr(value.s); err != nil || v.Zone() != "" {
		return v, m, p.fail(value, "not an IP address")
	}
	if mask.s == "" {
		return v, onesLike(v), nil
	}
	if m, err = netip.ParseAddr(mask.s); err != nil || m.BitLen() != v.BitLen() {
		return v, m, p.fail(mask, "not a mask of this kind")
	}
	return v, m, nil
}

// tunnelOption reads an option and its mask. With /0 behind it the mask has nothing of it.
func (p *parser) tunnelOption(name string, it item, v, m *Tunnel) error {
	if name == "flags" {
		return p.tunnelPart(name, it, v, m)
	}
	text, wild := strings.CutSuffix(it.s, "/0")
	if wild && strings.Contains(text, "=") && !strings.HasSuffix(text, ")") && !strings.HasSuffix(text, "}") {
		text, wild = it.s, false // it belongs to a part of the option
	}
	before := *m
	err := p.tunnelPart(name, item{text, it.at}, v, m)
	if wild {
		*m = before
	}
	return err
}

func (p *parser) tunnelPart(name string, it item, v, m *Tunnel) error {
	switch name {
	case "flags":
		fv, fm, err := p.flags(tunnelFlagNames(), it, uint32(tunnelAll))
		key := v.Flags & TunnelKey &^ TunnelFlags(fm) // that there is an identifier says so too
		v.Flags, m.Flags = TunnelFlags(fv)|key, TunnelFlags(fm)
		return err
	case "geneve":
		return p.geneve(it, v, m)
	case "vxlan":
		if inner, args, ok := p.call(it); ok && inner == "gbp" {
			return p.gbp(args, v, m)
		}
	case "erspan":
		return p.erspan(it, v, m)
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(name, "tun"), 10, 14); err == nil {
		data, mask, err := p.hexes(it)
		v.Unknown = append(v.Unknown, Attr{Type: uint16(n), Data: data})
		m.Unknown = append(m.Unknown, Attr{Type: uint16(n), Data: mask})
		return err
	}
	return p.fail(it, "no such field of tunnel")
}

// hexes reads bytes and their mask; without one it is all ones.
func (p *parser) hexes(it item) (v, m []byte, err error) {
	value, mask := masked(it)
	if v, err = p.hex(value); err != nil {
		return nil, nil, err
	}
	if value.s == it.s {
		return v, ones(len(v)), nil
	}
	m, err = p.hex(mask)
	return v, m, err
}

// erspan reads bytes, or what erspanText writes.
func (p *parser) erspan(it item, v, m *Tunnel) (err error) {
	if !strings.Contains(it.s, "=") {
		v.ERSPAN, m.ERSPAN, err = p.hexes(it)
		return err
	}
	v.ERSPAN, m.ERSPAN = make([]byte, erspanLen), ones(erspanLen)
	return p.fields(it, func(name string, value item) error {
		n, mask, err := p.number(value, map[string]int{"ver": 32, "idx": 32, "dir": 1, "hwid": 6}[name])
		for b, bits := range map[*[]byte]uint64{&v.ERSPAN: n, &m.ERSPAN: mask} {
			switch b := *b; name {
			case "ver":
				binary.NativeEndian.PutUint32(b, uint32(bits))
			case "idx":
				binary.BigEndian.PutUint32(b[4:], uint32(bits))
			case "dir":
				b[11] = b[11]&^8 | byte(bits)<<3
			case "hwid":
				b[10], b[11] = b[10]&^3|byte(bits>>4), b[11]&0xf|byte(bits)<<4
			default:
				err = p.fail(value, "no such field of erspan")
			}
		}
		return err
	})
}

func (p *parser) gbp(args item, v, m *Tunnel) error {
	items, err := p.split(args)
	if err != nil {
		return err
	}
	v.VXLAN, m.VXLAN = true, true
	for _, it := range items {
		name, value, _ := assign(it)
		bits, shift := 16, 0
		if name == "flags" {
			bits, shift = 8, 16
		} else if name != "id" {
			return p.fail(it, "no such field of gbp")
		}
		n, mask, err := p.number(value, bits)
		if err != nil {
			return err
		}
		v.GBP |= uint32(n) << shift
		m.GBP |= uint32(mask) << shift
	}
	return nil
}

func (p *parser) geneve(it item, v, m *Tunnel) error {
	if !strings.HasPrefix(it.s, "{") {
		opts, mask, err := p.hexes(it)
		if err == nil && (len(opts)%4 != 0 || len(opts) > 252) {
			err = p.fail(it, "options of a wrong length")
		}
		v.Geneve, m.Geneve = opts, mask
		return err
	}
	for rest := it; rest.s != ""; {
		end := strings.IndexByte(rest.s, '}')
		if rest.s[0] != '{' || end < 0 {
			return p.fail(rest, "an option in braces is needed")
		}
		if err := p.geneveOption(item{rest.s[1:end], rest.at + 1}, v, m); err != nil {
			return err
		}
		rest = item{strings.TrimPrefix(rest.s[end+1:], ","), rest.at + end + 1}
	}
	return nil
}

func (p *parser) geneveOption(opt item, v, m *Tunnel) error {
	items, err := p.split(opt)
	if err != nil {
		return err
	}
	var class, classMask, typ, typeMask, length, lengthMask uint64
	var data, mask []byte
	fill := byte(0xff) // of the mask
	for _, it := range items {
		name, value, named := assign(it)
		switch {
		case named && name == "class":
			class, classMask, err = p.number(value, 16)
		case named && name == "type":
			typ, typeMask, err = p.number(value, 8)
		case named && name == "len":
			val, msk := masked(value)
			length, err = p.uint(val, 8)
			if lengthMask = 0x1f; msk.s != "" && err == nil {
				lengthMask, err = p.uint(msk, 8)
			}
		case !named:
			val, msk := masked(it)
			data, err = p.hex(val)
			if mask = ones(len(data)); msk.s != "" && err == nil {
				fill = 0 // leading zeros are not written
				mask, err = p.hex(msk)
			}
		default:
			err = p.fail(it, "no such field of an option")
		}
		if err != nil {
			return err
		}
	}
	if length > 124 || length%4 != 0 || len(data) > int(length) || len(mask) > int(length) {
		return p.fail(opt, "the option has a wrong length")
	}
	grow := func(b []byte, fill byte) []byte {
		out := make([]byte, int(length)-len(b), length)
		for i := range out {
			out[i] = fill
		}
		return append(out, b...)
	}
	v.Geneve = AppendGeneveOption(v.Geneve, uint16(class), uint8(typ), grow(data, 0))
	at := len(m.Geneve) + 3
	m.Geneve = AppendGeneveOption(m.Geneve, uint16(classMask), uint8(typeMask), grow(mask, fill))
	m.Geneve[at] = uint8(lengthMask)
	return nil
}

func (p *parser) mpls(args item) (Field, error) {
	items, err := p.split(args)
	if err != nil {
		return Field{}, err
	}
	v, m := MPLS{0}, MPLS{0}
	for _, it := range items {
		name, value, _ := assign(it)
		index := 0
		bits, shift, ok := lsePart(name)
		if !ok {
			n, err := strconv.ParseUint(strings.TrimPrefix(name, "lse"), 10, 8)
			if err != nil || n >= maxLabels {
				return Field{}, p.fail(it, "no such field of mpls")
			}
			index, bits = int(n), 32
		}
		n, mask, err := p.number(value, bits)
		if err != nil {
			return Field{}, err
		}
		for len(v) <= index {
			v, m = append(v, 0), append(m, 0)
		}
		v[index] |= LSE(n << shift)
		m[index] |= LSE(mask << shift)
	}
	return Masked(v, m), nil
}

func (p *parser) nsh(args item) (v, m NSH, err error) {
	items, err := p.split(args)
	if err != nil {
		return v, m, err
	}
	value, mask := v.flat(), m.flat()
	var md2 []byte
	for _, it := range items {
		name, text, _ := assign(it)
		f, known := fieldNamed(nshFields(), name)
		switch {
		case name == "md2":
			md2, err = p.hex(text)
		case known:
			var n, bits uint64
			n, bits, err = p.number(text, 8*f.len)
			putUint(value[f.at:f.at+f.len], n, false)
			putUint(mask[f.at:f.at+f.len], bits, false)
		default:
			err = p.fail(it, "no such field of nsh")
		}
		if err != nil {
			return v, m, err
		}
	}
	v, m = unflattenNSH(value), unflattenNSH(mask)
	v.MD2 = md2
	return v, m, nil
}

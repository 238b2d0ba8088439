package odp

import (
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
			err = p.tunnelPart(name, inner, &v, &m)
		} else if name, value, ok := assign(it); ok {
			err = p.tunnelField(name, value, &v, &m)
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

func (p *parser) tunnelPart(name string, it item, v, m *Tunnel) error {
	switch name {
	case "flags":
		fv, fm, err := p.flags(tunnelFlagNames(), it, uint32(tunnelAll))
		key := v.Flags & TunnelKey
		v.Flags, m.Flags = TunnelFlags(fv)|key, TunnelFlags(fm)
		return err
	case "geneve":
		return p.geneve(it, v, m)
	case "vxlan":
		if inner, args, ok := p.call(it); ok && inner == "gbp" {
			return p.gbp(args, v, m)
		}
	case "erspan":
		value, mask := masked(it)
		var err error
		if v.ERSPAN, err = p.hex(value); err != nil {
			return err
		}
		m.ERSPAN = ones(len(v.ERSPAN))
		if mask.s != "" {
			m.ERSPAN, err = p.hex(mask)
		}
		return err
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(name, "tun"), 10, 14); err == nil {
		data, err := p.hex(it)
		v.Unknown = append(v.Unknown, Attr{Type: uint16(n), Data: data})
		m.Unknown = append(m.Unknown, Attr{Type: uint16(n), Data: ones(len(data))})
		return err
	}
	return p.fail(it, "no such field of tunnel")
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
	var class, classMask, typ, typeMask, length uint64
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
			length, err = p.uint(value, 8)
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
	m.Geneve[at] = 0xff // the length of an option is always matched
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
		index, bits, shift := 0, 0, 0
		switch name {
		case "label":
			bits, shift = 20, 12
		case "tc":
			bits, shift = 3, 9
		case "bos":
			bits, shift = 1, 8
		case "ttl":
			bits = 8
		case "lse0", "lse1", "lse2":
			index, bits = int(name[3]-'0'), 32
		default:
			return Field{}, p.fail(it, "no such field of mpls")
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
	for _, it := range items {
		name, value, _ := assign(it)
		if name == "md2" {
			v.MD2, err = p.hex(value)
		} else {
			err = p.nshField(name, value, &v, &m)
		}
		if err != nil {
			return v, m, err
		}
	}
	return v, m, nil
}

func (p *parser) nshField(name string, it item, v, m *NSH) error {
	bits := 8
	switch name {
	case "spi":
		bits = 24
	case "c1", "c2", "c3", "c4":
		bits = 32
	}
	n, mask, err := p.number(it, bits)
	if err != nil {
		return err
	}
	switch name {
	case "flags":
		v.Flags, m.Flags = uint8(n), uint8(mask)
	case "ttl":
		v.TTL, m.TTL = uint8(n), uint8(mask)
	case "mdtype":
		v.MDType, m.MDType = uint8(n), uint8(mask)
	case "np":
		v.NextProto, m.NextProto = uint8(n), uint8(mask)
	case "spi":
		v.SPI, m.SPI = uint32(n), uint32(mask)
	case "si":
		v.SI, m.SI = uint8(n), uint8(mask)
	case "c1", "c2", "c3", "c4":
		i := name[1] - '1'
		v.Context[i], m.Context[i] = uint32(n), uint32(mask)
	default:
		return p.fail(it, "no such field of nsh")
	}
	return nil
}

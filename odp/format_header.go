package odp

import (
	"encoding/hex"
	"net/netip"
)

// part writes name=value with a mask, unless it is wildcarded and not to be seen.
func (p *printer) part(name string, v, m, all uint64, asHex bool) {
	if m == 0 && !p.Verbose {
		return
	}
	p.sep()
	p.str(name + "=")
	if asHex {
		p.b = appendHex(p.b, v)
	} else {
		p.printf("%d", v)
	}
	p.mask(m == all, m)
}

func (p *printer) tunnel(k, m Tunnel, exact bool) {
	if exact {
		m = k.exactMask()
	}
	p.str("tunnel(")
	if k.Flags&TunnelKey != 0 || k.ID != 0 {
		p.part("tun_id", k.ID, m.ID, 1<<64-1, true)
	}
	p.tunnelAddr("src", "ipv6_src", k.Src, m.Src)
	p.tunnelAddr("dst", "ipv6_dst", k.Dst, m.Dst)
	if k.TOS != 0 || m.TOS != 0 && !exact {
		p.part("tos", uint64(k.TOS), uint64(m.TOS), 0xff, true)
	}
	p.part("ttl", uint64(k.TTL), uint64(m.TTL), 0xff, false)
	if k.SrcPort != 0 {
		p.part("tp_src", uint64(k.SrcPort), uint64(m.SrcPort), 0xffff, false)
	}
	if k.DstPort != 0 {
		p.part("tp_dst", uint64(k.DstPort), uint64(m.DstPort), 0xffff, false)
	}
	p.tunnelOptions(k, m, exact)
	p.sep()
	p.str("flags(")
	p.flags(tunnelFlagNames(), uint32(k.Flags), uint32(m.Flags), exact || m.Flags == tunnelAll)
	p.str("))")
}

func (p *printer) tunnelAddr(v4, v6 string, a, mask netip.Addr) {
	if !a.IsValid() || !p.Verbose && zeroAddr(mask) {
		return
	}
	p.sep()
	if a.Is4() {
		p.str(v4 + "=")
	} else {
		p.str(v6 + "=")
	}
	if !mask.IsValid() {
		mask = zeroLike(a)
	}
	p.masked(mask == onesLike(a), a.String(), mask.String())
}

func zeroLike(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (p *printer) tunnelOptions(k, m Tunnel, exact bool) {
	if len(k.Geneve) > 0 {
		p.sep()
		p.str("geneve(")
		p.geneve(k.Geneve, m.Geneve, exact)
		p.str(")")
	}
	if k.VXLAN {
		p.sep()
		p.str("vxlan(gbp(")
		p.part("id", uint64(k.GBP&0xffff), uint64(m.GBP&0xffff), 0xffff, false)
		p.part("flags", uint64(k.GBP>>16&0xff), uint64(m.GBP>>16&0xff), 0xff, true)
		p.str("))")
	}
	if len(k.ERSPAN) > 0 {
		p.sep()
		p.printf("erspan(%s", hex.EncodeToString(k.ERSPAN))
		if !exact {
			p.printf("/%s", hex.EncodeToString(m.ERSPAN))
		}
		p.str(")")
	}
	if k.InfoBridge {
		p.sep()
		p.str("ipv4_info_bridge")
	}
	for _, a := range k.Unknown {
		p.sep()
		p.printf("tun%d(%s)", a.Type, hex.EncodeToString(a.Data))
	}
}

// geneve writes options as {class=0x102,type=0x80,len=4,0xa}. Masks are written where they are not exact.
func (p *printer) geneve(opts, mask []byte, exact bool) {
	for len(opts) >= 4 {
		n := min(4+4*int(opts[3]&0x1f), len(opts))
		m := zeros(n)
		if exact {
			m = ones(n)
		} else if len(mask) >= n {
			m, mask = mask[:n], mask[n:]
		}
		p.str("{")
		p.printf("class=%#x", be16(opts))
		p.mask(be16(m) == 0xffff, uint64(be16(m)))
		p.printf(",type=%#x", opts[2])
		p.mask(m[2] == 0xff, uint64(m[2]))
		p.printf(",len=%d", n-4)
		if n > 4 {
			p.printf(",0x%s", trimHex(opts[4:n]))
			if !allOnes(m[4:n]) {
				p.printf("/0x%s", trimHex(m[4:n]))
			}
		}
		p.str("}")
		opts = opts[n:]
	}
}

func zeros(n int) []byte { return make([]byte, n) }

// trimHex returns hex digits without leading zeros.
func trimHex(b []byte) string {
	s := hex.EncodeToString(b)
	for len(s) > 1 && s[0] == '0' {
		s = s[1:]
	}
	return s
}

func (p *printer) nsh(k, m NSH) {
	p.part("flags", uint64(k.Flags), uint64(m.Flags), 0xff, false)
	p.part("ttl", uint64(k.TTL), uint64(m.TTL), 0xff, false)
	p.part("mdtype", uint64(k.MDType), uint64(m.MDType), 0xff, false)
	p.part("np", uint64(k.NextProto), uint64(m.NextProto), 0xff, false)
	p.part("spi", uint64(k.SPI), uint64(m.SPI), 0xffffff, true)
	p.part("si", uint64(k.SI), uint64(m.SI), 0xff, false)
	for i, name := range [...]string{"c1", "c2", "c3", "c4"} {
		if k.MDType == 1 || m.Context[i] != 0 {
			p.part(name, uint64(k.Context[i]), uint64(m.Context[i]), 1<<32-1, true)
		}
	}
	if len(k.MD2) > 0 {
		p.sep()
		p.str("md2=0x" + hex.EncodeToString(k.MD2))
	}
}

func (p *printer) mpls(k, m MPLS) {
	p.str("mpls(")
	for len(m) < len(k) {
		m = append(m, 0)
	}
	switch {
	case len(k) == 1 && m[0] == 1<<32-1:
		p.lse(k[0])
	case len(k) == 1: // with all masks or none
		v, mask := k[0], m[0]
		p.printf("label=%d/%#x,tc=%d/%x,ttl=%d/0x%x,bos=%d/%x", v.Label(), mask.Label(), v.TC(), mask.TC(), v.TTL(), mask.TTL(),
			bit(v.Bottom()), bit(mask.Bottom()))
	default:
		for i := range k {
			p.part("lse"+string(rune('0'+i)), uint64(k[i]), uint64(m[i]), 1<<32-1, true)
		}
	}
	p.str(")")
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// lse writes a label without masks.
func (p *printer) lse(l LSE) {
	p.printf("label=%d,tc=%d,ttl=%d,bos=%d", l.Label(), l.TC(), l.TTL(), bit(l.Bottom()))
}

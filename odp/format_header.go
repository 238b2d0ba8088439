package odp

import (
	"encoding/hex"
	"fmt"
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
	// A number of 0 is not written where the kernel has none, unless that is matched.
	number := func(name string, v, m, all uint64, asHex bool) {
		if v != 0 || m != 0 && !exact {
			p.part(name, v, m, all, asHex)
		}
	}
	p.str("tunnel(")
	if k.Flags&TunnelKey != 0 {
		p.part("tun_id", k.ID, m.ID, 1<<64-1, true)
	} else {
		number("tun_id", k.ID, m.ID, 1<<64-1, true)
	}
	p.tunnelAddr("src", "ipv6_src", k.Src, m.Src)
	p.tunnelAddr("dst", "ipv6_dst", k.Dst, m.Dst)
	number("tos", uint64(k.TOS), uint64(m.TOS), 0xff, true)
	p.part("ttl", uint64(k.TTL), uint64(m.TTL), 0xff, false)
	number("tp_src", uint64(k.SrcPort), uint64(m.SrcPort), 0xffff, false)
	number("tp_dst", uint64(k.DstPort), uint64(m.DstPort), 0xffff, false)
	p.tunnelOptions(k, m)
	p.sep()
	p.str("flags(")
	p.flags(tunnelFlagNames(), uint32(k.Flags), uint32(m.Flags), exact || m.Flags == tunnelAll)
	p.str("))")
}

func (p *printer) tunnelAddr(v4, v6 string, a, mask netip.Addr) {
	if !a.IsValid() && !zeroAddr(mask) {
		a = zeroLike(mask)
	}
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

// tunnelOptions writes options with the masks of their parts. One of which the mask has nothing at all, not even that it is there, is
// written as an exact one, and /0 behind it.
func (p *printer) tunnelOptions(k, m Tunnel) {
	option := func(there, matched bool, write func()) {
		if !there || !matched && !p.Verbose {
			return
		}
		p.sep()
		write()
		if !matched {
			p.str("/0")
		}
		p.str(")")
	}
	all := k.exactMask()
	option(len(k.Geneve) > 0, len(m.Geneve) > 0, func() {
		p.str("geneve(")
		p.geneve(k.Geneve, m.Geneve)
	})
	option(k.VXLAN, m.VXLAN, func() {
		mask := all.GBP
		if m.VXLAN {
			mask = m.GBP
		}
		p.str("vxlan(gbp(")
		p.part("id", uint64(k.GBP&0xffff), uint64(mask&0xffff), 0xffff, false)
		p.part("flags", uint64(k.GBP>>16), uint64(mask>>16), 0xff, true)
		p.str(")")
	})
	option(len(k.ERSPAN) > 0, len(m.ERSPAN) > 0, func() {
		p.str("erspan(")
		if text, ok := erspanText(k.ERSPAN); ok && allOnes(m.ERSPAN) && len(m.ERSPAN) > 0 {
			p.str(text)
		} else {
			p.hexes(k.ERSPAN, either(m.ERSPAN, all.ERSPAN))
		}
	})
	if k.InfoBridge {
		p.sep()
		p.str("ipv4_info_bridge")
	}
	for i, a := range k.Unknown {
		mask := all.Unknown[i].Data
		if i < len(m.Unknown) {
			mask = m.Unknown[i].Data
		}
		option(true, i < len(m.Unknown), func() {
			p.printf("tun%d(", a.Type)
			p.hexes(a.Data, mask)
		})
	}
}

func either(a, b []byte) []byte {
	if len(a) > 0 {
		return a
	}
	return b
}

// hexes writes bytes with their mask.
func (p *printer) hexes(v, m []byte) {
	p.masked(len(v) == len(m) && allOnes(m), hex.EncodeToString(v), hex.EncodeToString(m))
}

// erspanText writes struct erspan_metadata, if it holds nothing but what the notation has names for.
func erspanText(v []byte) (text string, ok bool) {
	if len(v) != erspanLen {
		return "", false
	}
	switch he32(v) {
	case 1:
		return "ver=1,idx=" + string(appendHex(nil, uint64(be32(v[4:])))), allZero(v[8:])
	case 2:
		hwid := uint64(v[10]&3)<<4 | uint64(v[11]>>4)
		return fmt.Sprintf("ver=2,dir=%d,hwid=%s", v[11]>>3&1, appendHex(nil, hwid)), allZero(v[4:10]) && v[10]&^3|v[11]&7 == 0
	}
	return "", false
}

// geneve writes options as {class=0x102,type=0x80,len=4,0xa}, with masks where they are not exact; options that do not fit together, or
// their masks, as mere digits. No mask is an exact one.
func (p *printer) geneve(opts, mask []byte) {
	if !wellFormed(opts) || len(mask) > 0 && len(mask) != len(opts) {
		p.str("0x")
		p.hexes(opts, either(mask, ones(len(opts))))
		return
	}
	mask = either(mask, geneveMask(opts))
	for len(opts) > 0 {
		n := 4 + 4*int(opts[3])
		m := mask[:n]
		p.printf("{class=%#x", be16(opts))
		p.mask(be16(m) == 0xffff, uint64(be16(m)))
		p.printf(",type=%#x", opts[2])
		p.mask(m[2] == 0xff, uint64(m[2]))
		p.printf(",len=%d", n-4)
		p.mask(m[3] == 0x1f, uint64(m[3]))
		if n > 4 {
			p.printf(",0x%s", trimHex(opts[4:n]))
			if !allOnes(m[4:n]) {
				p.printf("/0x%s", trimHex(m[4:n]))
			}
		}
		p.str("}")
		opts, mask = opts[n:], mask[n:]
	}
}

// wellFormed reports whether options are as long together as they say, and have no reserved bits set.
func wellFormed(opts []byte) bool {
	for len(opts) >= 4 && opts[3] < 32 && len(opts) >= 4+4*int(opts[3]) {
		opts = opts[4+4*int(opts[3]):]
	}
	return len(opts) == 0
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
	v, mask := k.flat(), m.flat()
	for _, f := range nshFields() {
		fv, fm := v[f.at:f.at+f.len], mask[f.at:f.at+f.len]
		if f.at < nshBaseLen || k.MDType == 1 || !allZero(fm) {
			p.part(f.name, bigUint(fv), bigUint(fm), 1<<(8*f.len)-1, f.kind == hexBE)
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
		for i := range k { // all of them, so that it can be seen how many there are
			p.sep()
			p.printf("lse%d=%s", i, appendHex(nil, uint64(k[i])))
			p.mask(m[i] == 1<<32-1, uint64(m[i]))
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

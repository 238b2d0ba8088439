package odp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/overweave/overweave/odp/internal/nla"
)

// printer writes keys and actions.
type printer struct {
	Notation
	b                     []byte
	valueBytes, maskBytes nla.Encoder // of the key that is being written
}

// payload returns the bytes of a key, in memory that is used again; nothing if it cannot be encoded.
func payload(e *nla.Encoder, k Key) []byte {
	*e = nla.Encoder{B: e.B[:0]}
	if k.appendPayload(e); e.Err != nil {
		return nil
	}
	return e.B
}

func (p *printer) str(s string) { p.b = append(p.b, s...) }

func (p *printer) printf(format string, args ...any) { p.b = fmt.Appendf(p.b, format, args...) }

// sep writes a comma unless the last character opens a list.
func (p *printer) sep() {
	if n := len(p.b); n > 0 && p.b[n-1] != '(' && p.b[n-1] != ',' && p.b[n-1] != ' ' {
		p.b = append(p.b, ',')
	}
}

func (p *printer) match(m Match) {
	for _, f := range m {
		p.field(f)
	}
	_, typed := m.field(keyEtherType)
	if _, ether := m.field(keyEthernet); ether && !typed {
		p.sep()
		p.str("eth_type(0/0x0000)")
	}
}

func (p *printer) field(f Field) {
	if f.value == nil {
		return
	}
	t := f.value.keyType()
	if f.mask == nil && !p.Verbose && t != keyEthernet && t != keyEncap {
		return
	}
	p.sep()
	p.key(f.value, f.mask, false)
}

// key writes a key with its mask. With exact, the mask is not looked at.
func (p *printer) key(k, mask Key, exact bool) {
	if k == nil {
		return
	}
	l, fixed := layoutOf(k.keyType())
	if fixed {
		p.fixedKey(l, k, mask, exact)
		return
	}
	switch k := k.(type) {
	case Tunnel:
		m, _ := mask.(Tunnel)
		p.tunnel(k, m, exact)
	case NSH:
		m, _ := mask.(NSH)
		if exact {
			m = k.exactMask()
		}
		p.str("nsh(")
		p.nsh(k, m)
		p.str(")")
	case MPLS:
		m, _ := mask.(MPLS)
		if exact {
			m, _ = exactMask(k).(MPLS)
		}
		p.mpls(k, m)
	case Encap:
		p.encap(k, mask, exact)
	case UnknownKey:
		m := ones(len(k.Data))
		u, ok := mask.(UnknownKey)
		if ok && !exact {
			m = u.Data
		}
		p.printf("key%d(", k.Type)
		p.hexes(k.Data, m)
		if !ok && !exact {
			p.str("/0")
		}
		p.str(")")
	}
}

func allOnes(b []byte) bool {
	for _, v := range b {
		if v != 0xff {
			return false
		}
	}
	return true
}

func (p *printer) encap(k Encap, mask Key, exact bool) {
	p.str("encap(")
	m, _ := mask.(Encap)
	if exact {
		m, _ = exactMask(k).(Encap)
	}
	for _, f := range pair(k, m) {
		p.field(f)
	}
	p.str(")")
}

func (p *printer) fixedKey(l layout, k, mask Key, exact bool) {
	if exact {
		mask = exactMask(k)
	}
	v := payload(&p.valueBytes, k)
	var wildcard [40]byte // of the longest key
	m := wildcard[:l.size]
	if mask != nil {
		m = payload(&p.maskBytes, mask)
	}
	if len(v) != l.size || len(m) != l.size { // a key that cannot be encoded
		p.printf("%s(?)", l.name)
		return
	}
	p.str(l.name + "(")
	for _, f := range l.fields() {
		fv, fm := v[f.at:f.at+f.len], m[f.at:f.at+f.len]
		if !p.Verbose && allZero(fm) && f.kind != vlanTag {
			continue
		}
		if f.kind == fragment && allZero(fm) && allZero(fv) {
			continue
		}
		p.sep()
		if f.name != "" {
			p.str(f.name + "=")
		}
		p.fieldValue(f.kind, fv, fm)
	}
	p.str(")")
}

// fieldValue writes the field's value and, if it is not exact, its mask.
func (p *printer) fieldValue(kind fieldKind, v, m []byte) {
	exact := allOnes(m)
	switch kind {
	case decimal:
		p.b = strconv.AppendUint(p.b, bigUint(v), 10)
		p.mask(exact, bigUint(m))
	case hexBE:
		p.b = appendHex(p.b, bigUint(v))
		p.mask(exact || len(m) == 4 && be32(m) == 0xfffff, bigUint(m))
	case hexHost:
		p.b = appendHex(p.b, hostUint(v))
		p.mask(exact, hostUint(m))
	case number:
		p.port(he32(v))
		p.mask(exact, hostUint(m))
	case hex4:
		if allZero(v) { // what ovs-dpctl writes for a missing EtherType
			p.printf("0/0x%04x", be16(m))
			return
		}
		p.printf("0x%04x", be16(v))
		if !exact {
			p.printf("/0x%04x", be16(m))
		}
	case macAddr:
		p.masked(exact, MAC(v).String(), MAC(m).String())
	case ip4Addr, ip6Addr:
		a, _ := netip.AddrFromSlice(v)
		mask, _ := netip.AddrFromSlice(m)
		p.masked(exact, a.String(), mask.String())
	case fragment:
		p.frag(v[0])
		p.mask(exact, uint64(m[0]))
	case tcpFlags:
		if allZero(m) {
			p.b = appendHex(p.b, uint64(be16(v)))
			p.mask(false, 0)
			return
		}
		p.flags(tcpFlagNames(), uint32(be16(v)), uint32(be16(m)), be16(m)&0xfff == 0xfff)
	case ctStates:
		p.ctState(he32(v), he32(m))
	case label128:
		p.masked(exact, labelString(v), labelString(m))
	case vlanTag:
		p.vlan(be16(v), be16(m))
	case packetNS:
		p.printf("ns=%d,id=%#x", be16(v), be16(v[2:]))
	}
}

func (p *printer) mask(exact bool, m uint64) {
	if !exact {
		p.b = appendHex(append(p.b, '/'), m)
	}
}

func (p *printer) masked(exact bool, v, m string) {
	p.str(v)
	if !exact {
		p.str("/" + m)
	}
}

func (p *printer) port(n uint32) {
	if p.PortName != nil {
		if name := p.PortName(n); name != "" {
			p.str(name)
			return
		}
	}
	p.b = strconv.AppendUint(p.b, uint64(n), 10)
}

func (p *printer) frag(v uint8) {
	switch Frag(v) {
	case FragNone:
		p.str("no")
	case FragFirst:
		p.str("first")
	case FragLater:
		p.str("later")
	default:
		p.b = appendHex(p.b, uint64(v))
	}
}

// flags writes a|b if all bits are matched, else +a-b, or numbers if that would leave out bits that are set and not matched.
func (p *printer) flags(names []flagName, v, m uint32, exact bool) {
	if p.Verbose && !exact && v&^m != 0 {
		p.b = appendHex(append(appendHex(p.b, uint64(v)), '/'), uint64(m))
		return
	}
	start := len(p.b)
	known := uint32(0)
	for _, f := range names {
		known |= f.bit
		switch {
		case m&f.bit == 0 && !exact:
		case exact && v&f.bit != 0:
			if len(p.b) > start {
				p.str("|")
			}
			p.str(f.name)
		case exact:
		case v&f.bit != 0:
			p.str("+" + f.name)
		default:
			p.str("-" + f.name)
		}
	}
	for _, rest := range [...]struct {
		sign string
		bits uint32
	}{{"+", v & m &^ known}, {"-", m &^ v &^ known}} {
		switch {
		case rest.bits == 0 || exact && rest.sign == "-":
			continue
		case exact && len(p.b) > start:
			p.str("|")
		case !exact:
			p.str(rest.sign)
		}
		p.b = appendHex(p.b, uint64(rest.bits))
	}
	if len(p.b) == start && exact {
		p.str("0")
	}
}

func (p *printer) ctState(v, m uint32) {
	exact := m == uint32(ctStateAll)
	if p.Verbose {
		p.b = appendHex(p.b, uint64(v))
		p.mask(exact, uint64(m))
		return
	}
	p.flags(ctStateNames(), v, m, exact)
}

func (p *printer) vlan(v, m uint16) {
	part := func(name string, v, m, all uint16) {
		if !p.Verbose && m == 0 {
			return
		}
		p.sep()
		p.printf("%s=%d", name, v)
		if m != all {
			p.printf("/0x%x", m)
		}
	}
	part("vid", v&0xfff, m&0xfff, 0xfff)
	part("pcp", v>>13, m>>13, 7)
	if v&uint16(vlanPresent) == 0 {
		p.sep()
		p.str("cfi=0")
	}
}

func bigUint(b []byte) (v uint64) {
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

func hostUint(b []byte) uint64 {
	switch len(b) {
	case 2:
		return uint64(he16(b))
	case 4:
		return uint64(he32(b))
	}
	return he64(b)
}

// labelString writes 16 bytes as the number that they are to this machine.
func labelString(b []byte) string {
	hi, lo := he64(b[8:]), he64(b[:8])
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		hi, lo = lo, hi
	}
	if hi != 0 {
		return fmt.Sprintf("%#x%016x", hi, lo)
	}
	return string(appendHex(nil, lo))
}

package odp

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/overweave/overweave/odp/internal/nla"
)

// TunnelFlags are the flag bits of a tunnel key.
type TunnelFlags uint8

// Tunnel flags.
const (
	TunnelKey  TunnelFlags = 1 << iota // ID counts even if it is 0
	TunnelDF                           // outer "don't fragment"
	TunnelCSum                         // outer checksum
	TunnelOAM                          // control packet
	tunnelAll  = TunnelKey | TunnelDF | TunnelCSum | TunnelOAM
)

const (
	gbpAll    = 0xffffff // bits of the group policy
	erspanLen = 12
)

// Tunnel is the outside of a packet that came through a tunnel port or, in a [Set] action, of a packet about to leave by one.
// IPv4 and IPv6 are told apart by the addresses. As a mask, a flag is matched, set or not, if its bit is set. A Set needs Dst.
type Tunnel struct {
	ID               uint64 // VNI or key; it counts if it is not 0 or if Flags has TunnelKey
	Src, Dst         netip.Addr
	TOS, TTL         uint8
	Flags            TunnelFlags
	SrcPort, DstPort uint16 // outer UDP ports
	Geneve           []byte // options as they travel: see AppendGeneveOption
	VXLAN            bool   // GBP counts
	GBP              uint32 // VXLAN group policy: 8 bits of flags, and 16 bits of the group below
	ERSPAN           []byte // the 12 bytes of struct erspan_metadata, or nothing
	InfoBridge       bool   // Set only, with nothing but ID: the device itself knows the addresses (Linux 5.1)
	Unknown          []Attr // attributes of newer kernels
}

// AppendGeneveOption appends one option to b, for Tunnel.Geneve. The data is padded to 4 bytes and may be up to 124 bytes long;
// what is beyond that is cut off.
func AppendGeneveOption(b []byte, class uint16, typ uint8, data []byte) []byte {
	data = data[:min(len(data), 124)]
	b = binary.BigEndian.AppendUint16(b, class)
	b = append(b, typ, uint8((len(data)+3)/4))
	b = append(b, data...)
	for n := len(data); n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}

func (Tunnel) keyType() uint16 { return keyTunnel }

func (k Tunnel) appendPayload(e *nla.Encoder) {
	if k.ID != 0 || k.Flags&TunnelKey != 0 {
		m := e.Begin(tunID)
		e.B = binary.BigEndian.AppendUint64(e.B, k.ID)
		e.End(m)
	}
	if k.InfoBridge {
		e.Flag(tunInfoBridge)
		return
	}
	appendTunnelAddr(e, tunIPv4Src, tunIPv6Src, k.Src)
	appendTunnelAddr(e, tunIPv4Dst, tunIPv6Dst, k.Dst)
	if k.TOS != 0 {
		e.U8(tunTOS, k.TOS)
	}
	e.U8(tunTTL, k.TTL)
	for _, f := range [...]struct {
		bit TunnelFlags
		typ uint16
	}{{TunnelDF, tunDF}, {TunnelCSum, tunCSum}, {TunnelOAM, tunOAM}} {
		if k.Flags&f.bit != 0 {
			e.Flag(f.typ)
		}
	}
	if k.SrcPort != 0 {
		e.BE16(tunSrcPort, k.SrcPort)
	}
	if k.DstPort != 0 {
		e.BE16(tunDstPort, k.DstPort)
	}
	k.appendOptions(e)
}

func (k Tunnel) appendOptions(e *nla.Encoder) {
	if len(k.Geneve) > 0 {
		e.Bytes(tunGeneve, k.Geneve)
	}
	if k.VXLAN {
		m := e.Begin(tunVXLAN)
		e.U32(vxlanGBP, k.GBP)
		e.End(m)
	}
	if len(k.ERSPAN) > 0 {
		e.Bytes(tunERSPAN, k.ERSPAN)
	}
	for _, a := range k.Unknown {
		e.Bytes(a.Type, a.Data)
	}
}

// appendTunnelAddr appends an address, as the kernel does, if it is not zero.
func appendTunnelAddr(e *nla.Encoder, v4, v6 uint16, a netip.Addr) {
	if !zeroAddr(a.Unmap()) {
		appendAddr(e, v4, v6, a)
	}
}

func appendAddr(e *nla.Encoder, v4, v6 uint16, a netip.Addr) {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		e.Bytes(v4, b[:])
	} else if a.IsValid() {
		b := a.As16()
		e.Bytes(v6, b[:])
	}
}

// decode sets k to what a nest holds. Slices in k are then parts of p.
func (k *Tunnel) decode(p []byte) error {
	*k = Tunnel{}
	it := nla.Iterate(p)
	for it.Next() {
		want, known := tunnelSize(it.Type())
		if known && want >= 0 && len(it.Data()) != want {
			return &DecodeError{What: "key tunnel", Reason: "attribute of a wrong length"}
		}
		if known {
			if err := k.decodeAttr(it.Type(), it.Data()); err != nil {
				return err
			}
		} else {
			k.Unknown = append(k.Unknown, Attr{Type: it.Type(), Data: it.Data()})
		}
	}
	if it.Err() != nil {
		return &DecodeError{What: "key tunnel", Reason: it.Err().Error()}
	}
	return nil
}

// tunnelSize returns the length of an attribute's payload, -1 if it varies.
func tunnelSize(typ uint16) (n int, known bool) {
	switch typ {
	case tunID:
		return 8, true
	case tunIPv4Src, tunIPv4Dst:
		return 4, true
	case tunTOS, tunTTL:
		return 1, true
	case tunDF, tunCSum, tunOAM, tunPad, tunInfoBridge:
		return 0, true
	case tunSrcPort, tunDstPort:
		return 2, true
	case tunIPv6Src, tunIPv6Dst:
		return 16, true
	case tunGeneve, tunVXLAN, tunERSPAN:
		return -1, true
	}
	return 0, false
}

func (k *Tunnel) decodeAttr(typ uint16, d []byte) error {
	switch typ {
	case tunID:
		k.ID = binary.BigEndian.Uint64(d)
		k.Flags |= TunnelKey
	case tunIPv4Src:
		k.Src = get4(d)
	case tunIPv4Dst:
		k.Dst = get4(d)
	case tunIPv6Src:
		k.Src = getIP6(d)
	case tunIPv6Dst:
		k.Dst = getIP6(d)
	case tunTOS:
		k.TOS = d[0]
	case tunTTL:
		k.TTL = d[0]
	case tunDF:
		k.Flags |= TunnelDF
	case tunCSum:
		k.Flags |= TunnelCSum
	case tunOAM:
		k.Flags |= TunnelOAM
	case tunSrcPort:
		k.SrcPort = be16(d)
	case tunDstPort:
		k.DstPort = be16(d)
	case tunGeneve:
		if len(d)%4 != 0 || len(d) > 252 {
			return &DecodeError{What: "key tunnel", Reason: "geneve options of a wrong length"}
		}
		k.Geneve = d
	case tunVXLAN:
		return k.decodeVXLAN(d)
	case tunERSPAN:
		k.ERSPAN = d
	case tunInfoBridge:
		k.InfoBridge = true
	}
	return nil
}

func (k *Tunnel) decodeVXLAN(p []byte) error {
	it := nla.Iterate(p)
	for it.Next() {
		if it.Type() == vxlanGBP && len(it.Data()) == 4 {
			k.VXLAN, k.GBP = true, he32(it.Data())&gbpAll
		}
	}
	if it.Err() != nil {
		return &DecodeError{What: "key tunnel", Reason: it.Err().Error()}
	}
	return nil
}

// geneveMask returns the mask of whole options, without the bits beside their lengths that are reserved.
func geneveMask(opts []byte) []byte {
	m := ones(len(opts))
	for at := 3; at < len(opts); at += 4 + 4*int(opts[at]&0x1f) {
		m[at] = 0x1f
	}
	return m
}

func (k Tunnel) exactMask() Tunnel {
	m := Tunnel{
		ID: math.MaxUint64, Src: onesLike(k.Src), Dst: onesLike(k.Dst), TOS: 0xff, TTL: 0xff, Flags: tunnelAll,
		SrcPort: 0xffff, DstPort: 0xffff, Geneve: geneveMask(k.Geneve), VXLAN: k.VXLAN, ERSPAN: ones(len(k.ERSPAN)),
	}
	if k.VXLAN {
		m.GBP = gbpAll
	}
	for _, a := range k.Unknown {
		m.Unknown = append(m.Unknown, Attr{Type: a.Type, Data: ones(len(a.Data))})
	}
	return m
}

func (k Tunnel) isZero() bool {
	return k.ID == 0 && k.TOS|k.TTL == 0 && k.Flags == 0 && k.SrcPort|k.DstPort == 0 && k.GBP == 0 && !k.InfoBridge &&
		zeroAddr(k.Src) && zeroAddr(k.Dst) && allZero(k.Geneve) && allZero(k.ERSPAN) && len(k.Unknown) == 0
}

// mismatch returns what is wrong with a tunnel and its mask in a match, "" if nothing is.
func (k Tunnel) mismatch(m Tunnel) string {
	options := func(v, m []byte) bool { return len(m) == 0 || len(m) == len(v) }
	address := func(a, m netip.Addr) bool { return !a.IsValid() || !m.IsValid() || a.BitLen() == m.BitLen() }
	switch {
	case k.InfoBridge || m.InfoBridge:
		return "ipv4_info_bridge is for actions"
	case !address(k.Src, m.Src) || !address(k.Dst, m.Dst):
		return "an address and its mask are of two families"
	case !options(k.Geneve, m.Geneve) || !options(k.ERSPAN, m.ERSPAN) || m.VXLAN && !k.VXLAN:
		return "options and their masks differ in length"
	case len(m.Unknown) > 0 && !slices.EqualFunc(k.Unknown, m.Unknown, func(a, b Attr) bool { return a.Type == b.Type }):
		return "attributes and their masks differ"
	}
	return ""
}

func zeroAddr(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }

// ones returns n bytes 0xff.
func ones(n int) []byte {
	if n == 0 {
		return nil
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = 0xff
	}
	return p
}

// onesLike returns the mask of a whole address of the family of a.
func onesLike(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return a
	}
	m, _ := netip.AddrFromSlice(ones(a.BitLen() / 8))
	return m
}

// NetMask returns the mask that matches the addresses of a prefix: 255.255.255.0 for 10.0.0.0/24.
func NetMask(p netip.Prefix) netip.Addr {
	ones := onesLike(p.Addr())
	masked, err := ones.Prefix(p.Bits())
	if err != nil {
		return netip.Addr{}
	}
	return masked.Addr()
}

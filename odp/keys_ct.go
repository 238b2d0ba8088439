package odp

import (
	"encoding/binary"
	"net/netip"

	"github.com/overweave/overweave/odp/internal/nla"
)

// CTState is what connection tracking knows of a packet, after a [CT] action.
type CTState uint32

// The bits of CTState.
const (
	CTNew         CTState = 1 << iota // begins a connection
	CTEstablished                     // part of one
	CTRelated                         // belongs to one, as an ICMP error does
	CTReply                           // in the direction opposite to the first packet
	CTInvalid                         // could not be tracked
	CTTracked                         // went through a CT action
	CTSrcNAT                          // its source was translated
	CTDstNAT                          // its destination was translated

	ctStateAll CTState = 0xff
)

type (
	// CTZone is the zone in which a packet was tracked.
	CTZone uint16

	// CTMark is the mark of a packet's connection.
	CTMark uint32

	// CTLabels are 128 bits of a packet's connection, as the kernel keeps them: bit 0 is the lowest bit of the first byte.
	CTLabels [16]byte
)

// CTTupleIPv4 is the source and destination of the first packet of a connection, over IPv4.
type CTTupleIPv4 struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
}

// CTTupleIPv6 is the source and destination of the first packet of a connection, over IPv6.
type CTTupleIPv6 CTTupleIPv4

func (CTState) keyType() uint16     { return keyCTState }
func (CTZone) keyType() uint16      { return keyCTZone }
func (CTMark) keyType() uint16      { return keyCTMark }
func (CTLabels) keyType() uint16    { return keyCTLabels }
func (CTTupleIPv4) keyType() uint16 { return keyCTTupleIPv4 }
func (CTTupleIPv6) keyType() uint16 { return keyCTTupleIPv6 }

func (k CTState) appendPayload(e *nla.Encoder)  { put32(e, uint32(k)) }
func (k CTZone) appendPayload(e *nla.Encoder)   { put16(e, uint16(k)) }
func (k CTMark) appendPayload(e *nla.Encoder)   { put32(e, uint32(k)) }
func (k CTLabels) appendPayload(e *nla.Encoder) { e.B = append(e.B, k[:]...) }

func (k CTTupleIPv4) appendPayload(e *nla.Encoder) {
	put4(e, k.Src)
	put4(e, k.Dst)
	putBE16(e, k.SrcPort, k.DstPort)
	e.B = append(e.B, k.Proto, 0, 0, 0)
}

func (k CTTupleIPv6) appendPayload(e *nla.Encoder) {
	putIP6(e, k.Src)
	putIP6(e, k.Dst)
	putBE16(e, k.SrcPort, k.DstPort)
	e.B = append(e.B, k.Proto, 0, 0, 0)
}

func decodeCTTupleIPv4(p []byte) CTTupleIPv4 {
	return CTTupleIPv4{Src: get4(p[:4]), Dst: get4(p[4:8]), SrcPort: be16(p[8:]), DstPort: be16(p[10:]), Proto: p[12]}
}

func decodeCTTupleIPv6(p []byte) CTTupleIPv6 {
	return CTTupleIPv6{Src: getIP6(p[:16]), Dst: getIP6(p[16:32]), SrcPort: be16(p[32:]), DstPort: be16(p[34:]), Proto: p[36]}
}

// MPLS is a stack of one to three MPLS label stack entries, the outermost first.
type MPLS []LSE

// LSE is an entry of an MPLS label stack, as it travels: label in the upper 20 bits, then 3 bits of traffic class, the bottom of
// stack bit, and 8 bits of time to live.
type LSE uint32

// NewLSE makes an entry of its parts.
func NewLSE(label uint32, tc uint8, bottom bool, ttl uint8) LSE {
	l := LSE(label&0xfffff)<<12 | LSE(tc&7)<<9 | LSE(ttl)
	if bottom {
		l |= 0x100
	}
	return l
}

// Label returns the 20 bits of the label.
func (l LSE) Label() uint32 { return uint32(l >> 12) }

// TC returns the traffic class, 0 to 7.
func (l LSE) TC() uint8 { return uint8(l>>9) & 7 }

// Bottom reports whether no entry follows.
func (l LSE) Bottom() bool { return l&0x100 != 0 }

// TTL returns the time to live.
func (l LSE) TTL() uint8 { return uint8(l) }

// lsePart returns where the notation's part of an entry is.
func lsePart(name string) (bits, shift int, ok bool) {
	switch name {
	case "label":
		return 20, 12, true
	case "tc":
		return 3, 9, true
	case "bos":
		return 1, 8, true
	case "ttl":
		return 8, 0, true
	}
	return 0, 0, false
}

func (MPLS) keyType() uint16 { return keyMPLS }

func (k MPLS) appendPayload(e *nla.Encoder) {
	for _, l := range k {
		e.B = binary.BigEndian.AppendUint32(e.B, uint32(l))
	}
}

// maxLabels bounds an MPLS key; the kernel knows three.
const maxLabels = 16

func decodeMPLS(p []byte) (Key, error) {
	if len(p) == 0 || len(p)%4 != 0 || len(p) > 4*maxLabels {
		return nil, &DecodeError{What: "key mpls", Reason: "not a stack of labels"}
	}
	k := make(MPLS, len(p)/4)
	for i := range k {
		k[i] = LSE(be32(p[4*i:]))
	}
	return k, nil
}

// NSH is a network service header (RFC 8300).
type NSH struct {
	Flags     uint8
	TTL       uint8
	MDType    uint8 // 1: Context is there, 2: MD2 may be
	NextProto uint8
	SPI       uint32 // service path identifier, 24 bits
	SI        uint8  // service index
	Context   [4]uint32
	MD2       []byte // variable metadata, in PushNSH only
}

func (NSH) keyType() uint16 { return keyNSH }

const (
	nshBaseLen = 8
	nshLen     = nshBaseLen + 16 // with a context
)

// flat returns the header as it travels, and the context behind it.
func (k NSH) flat() []byte {
	b := []byte{k.Flags, k.TTL, k.MDType, k.NextProto}
	b = binary.BigEndian.AppendUint32(b, k.SPI<<8|uint32(k.SI))
	for _, c := range k.Context {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	return b
}

func unflattenNSH(b []byte) NSH {
	k := NSH{Flags: b[0], TTL: b[1], MDType: b[2], NextProto: b[3], SPI: be32(b[4:]) >> 8, SI: b[7]}
	for i := range k.Context {
		k.Context[i] = be32(b[nshBaseLen+4*i:])
	}
	return k
}

func (k NSH) appendPayload(e *nla.Encoder) {
	b := k.flat()
	e.Bytes(nshBase, b[:nshBaseLen])
	switch {
	case len(k.MD2) > 0:
		e.Bytes(nshMD2, k.MD2)
	case k.MDType == 1 || k.Context != [4]uint32{}:
		e.Bytes(nshMD1, b[nshBaseLen:])
	}
}

func decodeNSH(p []byte) (Key, error) {
	var flat [nshLen]byte
	var md2 []byte
	it := nla.Iterate(p)
	for it.Next() {
		d := it.Data()
		switch {
		case it.Type() == nshBase && len(d) == nshBaseLen:
			copy(flat[:], d)
		case it.Type() == nshMD1 && len(d) == nshLen-nshBaseLen:
			copy(flat[nshBaseLen:], d)
		case it.Type() == nshMD2:
			md2 = d
		case it.Type() > nshMD2:
			return UnknownKey{Type: keyNSH, Data: p}, nil
		default:
			return nil, short("key nsh", it.Type())
		}
	}
	if it.Err() != nil {
		return nil, &DecodeError{What: "key nsh", Reason: it.Err().Error()}
	}
	k := unflattenNSH(flat[:])
	k.MD2 = md2
	return k, nil
}

func (k NSH) exactMask() NSH {
	mask := NSH{Flags: 0xff, TTL: 0xff, MDType: 0xff, NextProto: 0xff, SPI: 0xffffff, SI: 0xff}
	if k.MDType == 1 {
		mask.Context = [4]uint32{1<<32 - 1, 1<<32 - 1, 1<<32 - 1, 1<<32 - 1}
	}
	return mask
}

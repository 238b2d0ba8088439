package odp

import (
	"encoding/binary"
	"net/netip"

	"github.com/overweave/overweave/odp/internal/nla"
)

type (
	// Priority is the packet's queueing priority (skb priority).
	Priority uint32

	// InPort is the number of the port by which a packet came in. It is always matched exactly.
	InPort uint32

	// SkbMark is the packet's mark, as set by the packet filter or by a flow.
	SkbMark uint32

	// DPHash is the hash that a [Hash] action computed, 0 before.
	DPHash uint32

	// RecircID tells the stages of a packet's way apart: it is 0 for a packet that came in, and the number given to a [Recirc]
	// action afterwards.
	RecircID uint32

	// EtherType is the type field of an Ethernet frame, in host order: 0x0800 is IPv4. It is matched exactly or not at all. In a
	// match, [TypeLLC] stands for frames that have none.
	EtherType uint16

	// TCPFlags are the 12 flag bits of a TCP header.
	TCPFlags uint16

	// PacketType says that a packet has no Ethernet header: it is what a match contains instead of [Ethernet] for packets
	// of layer 3. It does not travel to the kernel.
	PacketType struct {
		Namespace uint16 // 1: packets named by an EtherType
		ID        uint16
	}

	// IPv6ExtHdrs are bits for the extension headers of an IPv6 packet: 1 no next header, 2 ESP, 4 AH, 8 destination options,
	// 0x10 fragment, 0x20 routing, 0x40 hop-by-hop, 0x80 repeated, 0x100 out of order. Since Linux 5.18.
	IPv6ExtHdrs uint16
)

// EtherTypes that the datapath looks behind.
const (
	TypeIPv4   EtherType = 0x0800
	TypeARP    EtherType = 0x0806
	TypeRARP   EtherType = 0x8035
	TypeVLAN   EtherType = 0x8100
	TypeQinQ   EtherType = 0x88a8
	TypeIPv6   EtherType = 0x86dd
	TypeMPLS   EtherType = 0x8847
	TypeMPLSMC EtherType = 0x8848
	TypeNSH    EtherType = 0x894f
)

// TypeLLC in a match is for frames with a length instead of an EtherType: IEEE 802.2, as spanning tree uses it. The kernel says so
// by leaving the key out and having its mask.
const TypeLLC EtherType = 0

// IP protocols that the datapath looks behind.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// Ethernet holds the addresses of a frame.
type Ethernet struct{ Src, Dst MAC }

// VLAN is the tag control information of a VLAN tag, with bit 0x1000 set if there is a tag: see [Tag]. What follows the tag is
// matched by [Inside]; the tag's own type (0x8100 or 0x88a8) is the EtherType beside it.
type VLAN uint16

// vlanPresent is the bit of a VLAN key that says that there is a tag.
const vlanPresent VLAN = 0x1000

// Tag returns the VLAN key of a tag with the given identifier (0..4095) and priority (0..7).
func Tag(id uint16, priority uint8) VLAN {
	return vlanPresent | VLAN(id&0xfff) | VLAN(priority&7)<<13
}

// Frag says whether an IP packet is a fragment.
type Frag uint8

// Kinds of fragments. A later one has no ports.
const (
	FragNone Frag = iota
	FragFirst
	FragLater
)

// IPv4 holds fields of an IPv4 header. An invalid address counts as 0.0.0.0.
type IPv4 struct {
	Src, Dst netip.Addr
	Proto    uint8
	TOS      uint8
	TTL      uint8
	Frag     Frag
}

// IPv6 holds fields of an IPv6 header. An invalid address counts as ::.
type IPv6 struct {
	Src, Dst netip.Addr
	Label    uint32 // 20 bits
	Proto    uint8
	TClass   uint8
	HopLimit uint8
	Frag     Frag
}

type (
	// TCP holds the ports of a TCP segment.
	TCP struct{ Src, Dst uint16 }
	// UDP holds the ports of a UDP datagram.
	UDP struct{ Src, Dst uint16 }
	// SCTP holds the ports of an SCTP packet.
	SCTP struct{ Src, Dst uint16 }
	// ICMP holds type and code of an ICMP message for IPv4.
	ICMP struct{ Type, Code uint8 }
	// ICMPv6 holds type and code of an ICMP message for IPv6.
	ICMPv6 struct{ Type, Code uint8 }
)

// ARP holds an ARP message for IPv4. Op is at most 255.
type ARP struct {
	SenderIP, TargetIP   netip.Addr
	Op                   uint16
	SenderMAC, TargetMAC MAC
}

// ND holds a neighbour solicitation or advertisement (ICMPv6 type 135 or 136).
type ND struct {
	Target               netip.Addr
	SourceMAC, TargetMAC MAC // link-layer address options
}

func (Priority) keyType() uint16    { return keyPriority }
func (InPort) keyType() uint16      { return keyInPort }
func (SkbMark) keyType() uint16     { return keySkbMark }
func (DPHash) keyType() uint16      { return keyDPHash }
func (RecircID) keyType() uint16    { return keyRecircID }
func (EtherType) keyType() uint16   { return keyEtherType }
func (TCPFlags) keyType() uint16    { return keyTCPFlags }
func (PacketType) keyType() uint16  { return keyPacketType }
func (IPv6ExtHdrs) keyType() uint16 { return keyIPv6ExtHdrs }
func (Ethernet) keyType() uint16    { return keyEthernet }
func (VLAN) keyType() uint16        { return keyVLAN }
func (IPv4) keyType() uint16        { return keyIPv4 }
func (IPv6) keyType() uint16        { return keyIPv6 }
func (TCP) keyType() uint16         { return keyTCP }
func (UDP) keyType() uint16         { return keyUDP }
func (SCTP) keyType() uint16        { return keySCTP }
func (ICMP) keyType() uint16        { return keyICMP }
func (ICMPv6) keyType() uint16      { return keyICMPv6 }
func (ARP) keyType() uint16         { return keyARP }
func (ND) keyType() uint16          { return keyND }

func (k Priority) appendPayload(e *nla.Encoder)    { put32(e, uint32(k)) }
func (k InPort) appendPayload(e *nla.Encoder)      { put32(e, uint32(k)) }
func (k SkbMark) appendPayload(e *nla.Encoder)     { put32(e, uint32(k)) }
func (k DPHash) appendPayload(e *nla.Encoder)      { put32(e, uint32(k)) }
func (k RecircID) appendPayload(e *nla.Encoder)    { put32(e, uint32(k)) }
func (k EtherType) appendPayload(e *nla.Encoder)   { putBE16(e, uint16(k)) }
func (k TCPFlags) appendPayload(e *nla.Encoder)    { putBE16(e, uint16(k)) }
func (k PacketType) appendPayload(e *nla.Encoder)  { putBE16(e, k.Namespace, k.ID) }
func (k IPv6ExtHdrs) appendPayload(e *nla.Encoder) { put16(e, uint16(k)) }
func (k VLAN) appendPayload(e *nla.Encoder)        { putBE16(e, uint16(k)) }
func (k TCP) appendPayload(e *nla.Encoder)         { putBE16(e, k.Src, k.Dst) }
func (k UDP) appendPayload(e *nla.Encoder)         { putBE16(e, k.Src, k.Dst) }
func (k SCTP) appendPayload(e *nla.Encoder)        { putBE16(e, k.Src, k.Dst) }
func (k ICMP) appendPayload(e *nla.Encoder)        { e.B = append(e.B, k.Type, k.Code) }
func (k ICMPv6) appendPayload(e *nla.Encoder)      { e.B = append(e.B, k.Type, k.Code) }

func (k Ethernet) appendPayload(e *nla.Encoder) {
	e.B = append(e.B, k.Src[:]...)
	e.B = append(e.B, k.Dst[:]...)
}

func (k IPv4) appendPayload(e *nla.Encoder) {
	put4(e, k.Src)
	put4(e, k.Dst)
	e.B = append(e.B, k.Proto, k.TOS, k.TTL, uint8(k.Frag))
}

func (k IPv6) appendPayload(e *nla.Encoder) {
	putIP6(e, k.Src)
	putIP6(e, k.Dst)
	e.B = binary.BigEndian.AppendUint32(e.B, k.Label&0xfffff)
	e.B = append(e.B, k.Proto, k.TClass, k.HopLimit, uint8(k.Frag))
}

func (k ARP) appendPayload(e *nla.Encoder) {
	put4(e, k.SenderIP)
	put4(e, k.TargetIP)
	putBE16(e, k.Op)
	e.B = append(e.B, k.SenderMAC[:]...)
	e.B = append(e.B, k.TargetMAC[:]...)
	e.B = append(e.B, 0, 0)
}

func (k ND) appendPayload(e *nla.Encoder) {
	putIP6(e, k.Target)
	e.B = append(e.B, k.SourceMAC[:]...)
	e.B = append(e.B, k.TargetMAC[:]...)
}

func put16(e *nla.Encoder, v uint16) { e.B = binary.NativeEndian.AppendUint16(e.B, v) }
func put32(e *nla.Encoder, v uint32) { e.B = binary.NativeEndian.AppendUint32(e.B, v) }

func putBE16(e *nla.Encoder, vs ...uint16) {
	for _, v := range vs {
		e.B = binary.BigEndian.AppendUint16(e.B, v)
	}
}

// put4 appends an IPv4 address. An invalid address is all zero; one of the other family is the caller's mistake.
func put4(e *nla.Encoder, a netip.Addr) {
	switch a = a.Unmap(); {
	case a.Is4():
		b := a.As4()
		e.B = append(e.B, b[:]...)
	case a.IsValid():
		e.Fail(&FlowError{Field: a.String(), Reason: "an IPv4 address is needed"})
	default:
		e.B = append(e.B, 0, 0, 0, 0)
	}
}

// putIP6 appends an IPv6 address. An invalid address is all zero; one of the other family is the caller's mistake.
func putIP6(e *nla.Encoder, a netip.Addr) {
	if a.Is4() {
		e.Fail(&FlowError{Field: a.String(), Reason: "an IPv6 address is needed"})
		return
	}
	b := netip.IPv6Unspecified().As16()
	if a.IsValid() {
		b = a.As16()
	}
	e.B = append(e.B, b[:]...)
}

func get4(p []byte) netip.Addr   { return netip.AddrFrom4([4]byte(p)) }
func getIP6(p []byte) netip.Addr { return netip.AddrFrom16([16]byte(p)) }

func decodeEthernet(p []byte) Ethernet { return Ethernet{Src: MAC(p[:6]), Dst: MAC(p[6:12])} }

func decodeIPv4(p []byte) IPv4 {
	return IPv4{Src: get4(p[:4]), Dst: get4(p[4:8]), Proto: p[8], TOS: p[9], TTL: p[10], Frag: Frag(p[11])}
}

func decodeIPv6(p []byte) IPv6 {
	return IPv6{
		Src: getIP6(p[:16]), Dst: getIP6(p[16:32]), Label: be32(p[32:]) & 0xfffff,
		Proto: p[36], TClass: p[37], HopLimit: p[38], Frag: Frag(p[39]),
	}
}

func decodeARP(p []byte) ARP {
	return ARP{SenderIP: get4(p[:4]), TargetIP: get4(p[4:8]), Op: be16(p[8:]), SenderMAC: MAC(p[10:16]), TargetMAC: MAC(p[16:22])}
}

func decodeND(p []byte) ND {
	return ND{Target: getIP6(p[:16]), SourceMAC: MAC(p[16:22]), TargetMAC: MAC(p[22:28])}
}

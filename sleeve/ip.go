package sleeve

import (
	"encoding/binary"
	"math/bits"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd

	ipv4MinHeader  = 20
	ipv6Header     = 40
	minEthernet    = 60 // shorter frames are padded
	protocolICMP   = 1
	protocolICMPv6 = 58
	flagDF         = 0x4000
	flagMF         = 0x2000
	offsetMask     = 0x1fff
)

func etherType(frame []byte) uint16 { return binary.BigEndian.Uint16(frame[overlay.HeaderLen-2:]) }

// ipv4 is a checked view of the IPv4 packet in a frame.
type ipv4 struct {
	packet []byte // all of the frame behind the Ethernet header and VLAN tags
	header int    // length with options
}

// parseIPv4 returns the packet of a frame whose type, without VLAN tags, is IPv4 and whose header is whole. Its total length may
// still be more than there is; see payload.
func parseIPv4(frame []byte) (p ipv4, ok bool) {
	if len(frame) < overlay.HeaderLen || etherType(frame) != etherTypeIPv4 {
		return p, false
	}
	return parseIPv4At(frame, overlay.HeaderLen)
}

// parseIPv4At is parseIPv4 for a packet whose place is known.
func parseIPv4At(frame []byte, at int) (p ipv4, ok bool) {
	p.packet = frame[at:]
	if len(p.packet) < ipv4MinHeader {
		return p, false
	}
	p.header = int(p.packet[0]&15) * 4
	ok = p.packet[0]>>4 == 4 && p.header >= ipv4MinHeader && p.header <= len(p.packet)
	return p, ok
}

func (p ipv4) dontFragment() bool { return p.packet[6]&(flagDF>>8) != 0 }

func (p ipv4) flags() uint16 { return binary.BigEndian.Uint16(p.packet[6:]) }

// payload returns what the total length covers behind the header, without the padding of the frame. A length of zero, which
// segmentation offload leaves behind, stands for all there is.
func (p ipv4) payload() (b []byte, ok bool) {
	n := int(binary.BigEndian.Uint16(p.packet[2:]))
	if n == 0 {
		n = len(p.packet)
	}
	if n < p.header || n > len(p.packet) {
		return nil, false
	}
	return p.packet[p.header:n], true
}

// isIPv6 reports whether a frame holds an IPv6 packet whose header is whole.
func isIPv6(frame []byte) bool {
	return len(frame) >= overlay.HeaderLen+ipv6Header && etherType(frame) == etherTypeIPv6 && frame[overlay.HeaderLen]>>4 == 6
}

// sum adds up b as big-endian words, for Internet checksums (RFC 1071), and folds what it has to 17 bits. s has to be less
// than 1<<31.
func sum(b []byte, s uint32) uint32 {
	wide, carry := uint64(s), uint64(0)
	for ; len(b) >= 32; b = b[32:] { // 2^16 is 1 in this arithmetic, and so is 2^64
		wide, carry = bits.Add64(wide, binary.BigEndian.Uint64(b), carry)
		wide, carry = bits.Add64(wide, binary.BigEndian.Uint64(b[8:]), carry)
		wide, carry = bits.Add64(wide, binary.BigEndian.Uint64(b[16:]), carry)
		wide, carry = bits.Add64(wide, binary.BigEndian.Uint64(b[24:]), carry)
	}
	wide = wide>>32 + wide&0xffffffff + carry
	for ; len(b) >= 2; b = b[2:] {
		wide += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		wide += uint64(b[0]) << 8
	}
	wide = wide>>32 + wide&0xffffffff
	wide = wide>>16 + wide&0xffff
	return uint32(wide>>16 + wide&0xffff)
}

func checksum(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// fragments cuts an IPv4 packet into pieces that fit an MTU; section 13 of the sleeve specification, RFC 791.
type fragments struct {
	frame  []byte
	at     int // offset of the packet in it
	ip     ipv4
	rest   []byte
	offset uint16 // of rest, in units of 8 bytes, with the flags of the original
	piece  int    // bytes in each fragment, a multiple of 8
}

// newFragments fails if the packet contradicts its frame, would end beyond the largest packet, or cannot be cut that small. The MTU
// is that of frames without VLAN tags.
func newFragments(frame []byte, mtu int) (f fragments, ok bool) {
	at, v6, ok := ipOffset(frame)
	if !ok || v6 {
		return f, false
	}
	ip, ok := parseIPv4At(frame, at)
	if !ok {
		return f, false
	}
	payload, ok := ip.payload()
	piece := (mtu - tagsBefore(at) - ip.header) &^ 7
	f = fragments{frame: frame, at: at, ip: ip, rest: payload, offset: ip.flags(), piece: piece}
	ok = ok && f.piece > 0 && int(f.offset&offsetMask)*8+len(payload) <= maxIP
	return f, ok
}

// appendNext appends the next fragment, a whole frame; more is false if there is none left.
func (f *fragments) appendNext(b []byte) (_ []byte, more bool) {
	if f.rest == nil {
		return b, false
	}
	start, header := len(b), f.at+f.ip.header
	n, offset := len(f.rest), f.offset
	if n > f.piece {
		n, offset = f.piece, offset|flagMF
	}
	b = append(b, f.frame[:header]...)
	b = append(b, f.rest[:n]...)
	h := b[start+f.at : start+header]
	binary.BigEndian.PutUint16(h[2:], uint16(f.ip.header+n))
	binary.BigEndian.PutUint16(h[6:], offset)
	putChecksum(h)
	if short := minEthernet - (len(b) - start); short > 0 {
		b = append(b, make([]byte, short)...)
	}
	f.offset += uint16(n / 8)
	f.rest = f.rest[n:]
	if len(f.rest) == 0 {
		f.rest = nil
	}
	return b, true
}

// putChecksum fills in the checksum of an IPv4 header.
func putChecksum(h []byte) {
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], checksum(sum(h, 0)))
}

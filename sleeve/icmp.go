package sleeve

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	icmpHeader      = 8
	icmpHopLimit    = 64
	minIPv6MTU      = 1280
	minIPv6Answer   = overlay.HeaderLen + ipv6Header + icmpHeader
	unreachable     = 3 // ICMP type
	needFragments   = 4 // its code
	packetTooBig    = 2 // ICMPv6 type
	firstICMPv6Info = 128
)

// appendTooBig appends the frame that tells the sender of one that is too big what fits: for an IPv4 packet "fragmentation
// needed" (section 12 of the sleeve specification, RFC 1191), for an IPv6 packet "packet too big" (RFC 4443, 3.2). ok is
// false if the sender is not to be told.
func appendTooBig(b, frame []byte, mtu int) (_ []byte, ok bool) {
	if len(frame) < overlay.HeaderLen || overlay.MAC(frame[0:6]).IsGroup() || overlay.MAC(frame[6:12]).IsGroup() {
		return b, false
	}
	at, v6, ok := ipOffset(frame)
	if !ok {
		return b, false
	}
	mtu -= tagsBefore(at)
	if v6 {
		if !answerable6(frame[at:]) {
			return b, false
		}
		return appendPacketTooBig(appendReverse(b, frame[:at]), frame[at:], mtu), true
	}
	p, ok := parseIPv4At(frame, at)
	if !ok || !answerable4(p) {
		return b, false
	}
	return appendFragmentationNeeded(appendReverse(b, frame[:at]), p, mtu), true
}

// appendReverse appends the Ethernet header of an answer, with the VLAN tags of what it answers.
func appendReverse(b, header []byte) []byte {
	b = append(b, header[6:12]...)
	b = append(b, header[0:6]...)
	return append(b, header[12:]...)
}

// answerable4 follows RFC 1122, 3.2.2: no answers to ICMP errors, later fragments, and packets that are not between two
// hosts.
func answerable4(p ipv4) bool {
	if p.flags()&offsetMask != 0 || len(p.packet) < p.header+8 {
		return false
	}
	if p.packet[9] == protocolICMP {
		switch p.packet[p.header] {
		case 3, 4, 5, 11, 12: // the errors
			return false
		}
	}
	src, dst := p.packet[12:16], p.packet[16:20]
	return oneHost4(src) && oneHost4(dst)
}

func oneHost4(addr []byte) bool { return addr[0] != 0 && addr[0] < 224 }

func appendFragmentationNeeded(b []byte, p ipv4, mtu int) []byte {
	quote := p.packet[:p.header+8]
	start := len(b)
	b = append(b, 0x45, p.packet[1])
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4MinHeader+icmpHeader+len(quote)))
	b = append(b, 0, 0, 0, 0, icmpHopLimit, protocolICMP, 0, 0)
	b = append(b, p.packet[16:20]...)
	b = append(b, p.packet[12:16]...)
	putChecksum(b[start:])

	start = len(b)
	b = append(b, unreachable, needFragments, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(mtu))
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[start+2:], checksum(sum(b[start:], 0)))
	return b
}

// answerable6 follows RFC 4443, 2.4: no answers to ICMPv6 errors and to what is not from a host. It does not look behind
// extension headers.
func answerable6(packet []byte) bool {
	src, dst := packet[8:24], packet[24:40]
	if src[0] == 0xff || dst[0] == 0xff || allZero(src) {
		return false
	}
	return packet[6] != protocolICMPv6 || len(packet) > ipv6Header && packet[ipv6Header] >= firstICMPv6Info
}

func appendPacketTooBig(b, packet []byte, mtu int) []byte {
	quote := packet[:min(len(packet), minIPv6MTU-ipv6Header-icmpHeader)]
	length := icmpHeader + len(quote)
	start := len(b)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, protocolICMPv6, icmpHopLimit)
	b = append(b, packet[24:40]...)
	b = append(b, packet[8:24]...)
	pseudo := sum(b[start+8:], uint32(length)+protocolICMPv6)

	start = len(b)
	b = append(b, packetTooBig, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(mtu))
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[start+2:], checksum(sum(b[start:], pseudo)))
	return b
}

package fastdp

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// Frames of a self-test, section 4 of fastdp2.md: an IPv4 packet with a TCP segment, in a frame without addresses.
const (
	testIP      = overlay.HeaderLen // offsets in a frame
	testTCP     = testIP + ipv4HeaderMin
	testPayload = testTCP + tcpHeaderMin

	tcpHeaderMin = 20
	tcpChecksum  = 16 // offset in the header
	tcpACK       = 0x10
	dontFragment = 0x4000
	testTTL      = 64
	testPort     = 9 // of a service that throws everything away
)

// testAddress is the dummy address of IPv4, RFC 7600: it is nobody's.
var testAddress = [4]byte{192, 0, 0, 8}

// testFrame returns the frame of a self-test as a station would give it to its interface, and the length of payload to which it
// is to be cut: two segments that fill the MTU. The checksum of TCP covers the pseudo header alone; the rest is left to others.
func testFrame(p probe, mtu int) (frame []byte, segment int) {
	const headers = testPayload - testIP
	segment = min(mtu-headers, (maxFrame-headers)/testParts)
	frame = make([]byte, testPayload, testPayload+testParts*segment)
	for part := range testParts {
		p.part = byte(part + 1)
		frame = p.appendTo(frame, segment)
	}
	binary.BigEndian.PutUint16(frame[12:], uint16(odp.TypeIPv4))
	ip, tcp := frame[testIP:testTCP], frame[testTCP:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(frame)-testIP))
	binary.BigEndian.PutUint16(ip[6:], dontFragment)
	ip[8], ip[9] = testTTL, odp.ProtoTCP
	copy(ip[12:], testAddress[:])
	copy(ip[16:], testAddress[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	binary.BigEndian.PutUint16(tcp, testPort)
	binary.BigEndian.PutUint16(tcp[2:], testPort)
	tcp[12], tcp[13] = tcpHeaderMin/4<<4, tcpACK
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], fold(pseudoSum(ip, len(tcp))))
	return frame, segment
}

// parseTest reads a segment of a self-test; ok is false if it is none. Its checksums may be wrong: see isIntact.
func parseTest(frame []byte) (p probe, ok bool) {
	if len(frame) < testPayload || !unaddressed(frame) || odp.EtherType(binary.BigEndian.Uint16(frame[12:])) != odp.TypeIPv4 {
		return probe{}, false
	}
	p, ok = readProbe(frame[testPayload:])
	return p, ok && p.kind == kindTest
}

// isIntact reports whether a segment of a self-test is as its receiver wants it.
func isIntact(frame []byte) bool {
	ip, tcp := frame[testIP:testTCP], frame[testTCP:]
	return ip[0] == 0x45 && ip[9] == odp.ProtoTCP && int(binary.BigEndian.Uint16(ip[2:])) == len(frame)-testIP &&
		fold(sum(ip)) == 0xffff && fold(pseudoSum(ip, len(tcp))+sum(tcp)) == 0xffff
}

// sum adds up the words of b for the Internet checksum, RFC 1071.
func sum(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// pseudoSum adds up the pseudo header of a TCP segment of some length.
func pseudoSum(ip []byte, length int) uint32 {
	return sum(ip[12:20]) + odp.ProtoTCP + uint32(length)
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

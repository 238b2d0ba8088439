package overlay

import (
	"encoding/binary"
	"math/bits"
)

// sum adds up b as big-endian words on top of s, for Internet checksums (RFC 1071); an odd last byte counts as the upper
// half of a word. It takes eight bytes at a time, with the carries added at the end around.
func sum(b []byte, s uint64) uint64 {
	var carry uint64
	for len(b) >= 32 {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[8:]), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[16:]), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	s, carry = bits.Add64(s, binary.BigEndian.Uint64(tail[:]), carry)
	s, carry = bits.Add64(s, 0, carry)
	return s + carry
}

// fold makes the 16-bit sum of a 64-bit one.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

// putChecksum writes the checksum that completes a sum. Zero, which means "none" in UDP, is written as its other form.
func putChecksum(b []byte, s uint64) {
	c := ^fold(s)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b, c)
}

// putHeaderChecksum fills in the checksum of an IPv4 header.
func putHeaderChecksum(h []byte) {
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(h, 0)))
}

// CompleteChecksum computes the checksum of a frame from the offset at to its end, and puts it skip bytes behind that,
// where the sum of the pseudo header is. The error wraps ErrSegments if that is not within the frame.
func CompleteChecksum(frame []byte, at, skip int) error {
	if at < HeaderLen || skip < 0 || at+skip+2 > len(frame) {
		return ErrSegments
	}
	putChecksum(frame[at+skip:], sum(frame[at:], 0))
	return nil
}

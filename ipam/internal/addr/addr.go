// Package addr does the arithmetic of addresses: 128 bits, unsigned, so that rings of IPv4 and of IPv6 are one code.
// An IPv4 address is its 32-bit number, with the first octet most significant.
package addr

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
)

// Addr is an address, or a number of addresses. The zero Addr is 0. Addrs compare with == and [Addr.Less].
type Addr struct{ hi, lo uint64 }

// From64 returns v as an Addr.
func From64(v uint64) Addr { return Addr{lo: v} }

// FromNetip returns the number of a. Four-in-six addresses count as IPv4; zones are ignored.
func FromNetip(a netip.Addr) Addr {
	a = a.Unmap()
	if a.Is4() {
		raw := a.As4()
		return Addr{lo: uint64(binary.BigEndian.Uint32(raw[:]))}
	}
	raw := a.As16()
	return Addr{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}
}

// Netip returns a as an address of IPv4 (of which it keeps the low 32 bits) or of IPv6.
func (a Addr) Netip(is4 bool) netip.Addr {
	if is4 {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], uint32(a.lo))
		return netip.AddrFrom4(raw)
	}
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], a.hi)
	binary.BigEndian.PutUint64(raw[8:], a.lo)
	return netip.AddrFrom16(raw)
}

// Words returns the number as two words, the high one first.
func (a Addr) Words() [2]uint64 { return [2]uint64{a.hi, a.lo} }

// FromWords returns what Words has given.
func FromWords(w [2]uint64) Addr { return Addr{w[0], w[1]} }

// String writes numbers below 2^32 as IPv4 addresses and others as IPv6 addresses.
func (a Addr) String() string { return a.Netip(a.hi == 0 && a.lo <= math.MaxUint32).String() }

// Uint64 returns a, or the largest uint64 if a is larger.
func (a Addr) Uint64() uint64 {
	if a.hi != 0 {
		return math.MaxUint64
	}
	return a.lo
}

// IsZero reports whether a is 0.
func (a Addr) IsZero() bool { return a == Addr{} }

// Less reports whether a is smaller than b.
func (a Addr) Less(b Addr) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// Compare returns -1, 0 or 1 as a is smaller than, equal to, or larger than b.
func (a Addr) Compare(b Addr) int {
	switch {
	case a.Less(b):
		return -1
	case a == b:
		return 0
	}
	return 1
}

// Add returns a + b, modulo 2^128.
func (a Addr) Add(b Addr) Addr {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return Addr{hi, lo}
}

// Sub returns a - b, modulo 2^128.
func (a Addr) Sub(b Addr) Addr {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return Addr{hi, lo}
}

// Next returns a + 1, modulo 2^128.
func (a Addr) Next() Addr { return a.Add(Addr{lo: 1}) }

// Half returns a / 2, rounded down.
func (a Addr) Half() Addr { return Addr{a.hi >> 1, a.lo>>1 | a.hi<<63} }

// Min returns the smaller of a and b.
func Min(a, b Addr) Addr {
	if b.Less(a) {
		return b
	}
	return a
}

// Max returns the larger of a and b.
func Max(a, b Addr) Addr {
	if a.Less(b) {
		return b
	}
	return a
}

// pow2 returns 2^k, for k below 128.
func pow2(k int) Addr {
	if k < 64 {
		return Addr{lo: 1 << k}
	}
	return Addr{hi: 1 << (k - 64)}
}

// alignUp returns the smallest multiple of 2^k that is not smaller than a; ok is false if there is none in 128 bits.
func (a Addr) alignUp(k int) (up Addr, ok bool) {
	mask := pow2(k).Sub(Addr{lo: 1})
	sum := a.Add(mask)
	return Addr{sum.hi &^ mask.hi, sum.lo &^ mask.lo}, !sum.Less(a)
}

// bitLen returns the number of bits needed for a; 0 for 0.
func (a Addr) bitLen() int {
	if a.hi != 0 {
		return 64 + bits.Len64(a.hi)
	}
	return bits.Len64(a.lo)
}

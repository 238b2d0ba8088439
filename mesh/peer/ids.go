package peer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// UID tells two runs of one peer apart, and two hosts that were given the same name. It is drawn anew at each start.
// The zero UID belongs to peers that are known by name only.
type UID uint64

// NewUID draws a random UID, never zero.
func NewUID() UID {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process first
		if u := UID(binary.LittleEndian.Uint64(b[:])); u != 0 {
			return u
		}
	}
}

// ParseUID reads the decimal form of the handshake.
func ParseUID(s string) (UID, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("invalid peer UID %q: want a decimal number of 64 bits", s)
	}
	return UID(v), nil
}

// String returns the decimal form.
func (u UID) String() string { return strconv.FormatUint(uint64(u), 10) }

// ShortID stands for a peer in the tunnel keys of the kernel datapath. It has 12 bits. Two peers may hold the same one
// for a while; the one with the lower name owns it.
type ShortID uint16

// MaxShortID is the largest ShortID.
const MaxShortID ShortID = 1<<12 - 1

// ErrInvalidShortID is wrapped by errors about short ids that do not parse or have more than 12 bits.
var ErrInvalidShortID = errors.New("invalid short peer id")

// ParseShortID reads the decimal form of the handshake.
func ParseShortID(s string) (ShortID, error) {
	v, err := strconv.ParseUint(s, 10, 12)
	if err != nil {
		return 0, fmt.Errorf("%w %q: want a decimal number from 0 to %d", ErrInvalidShortID, s, MaxShortID)
	}
	return ShortID(v), nil
}

// RandomShortID draws one of the 4096, all alike likely.
func RandomShortID() ShortID {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process first
	return ShortID(binary.LittleEndian.Uint16(b[:])) & MaxShortID
}

// String returns the decimal form.
func (s ShortID) String() string { return strconv.FormatUint(uint64(s), 10) }

package ipsec

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/overweave/overweave/mesh/peer"
)

// The payload of InitSARemote (section 3).
const (
	messageSize = 64
	nonceSize   = 32
	spiAt       = nonceSize
	flagsAt     = spiAt + 4 // new peers only; 2.8 ignores it
	minSPI      = 256       // those below are reserved
)

// flagRenew asks the other end for a new key. Sent to peers that said they rekey only.
const flagRenew = 1 << 0

var errMessage = errors.New("malformed key announcement")

// announcement is "to send to me use this SPI, and the key that this nonce makes".
type announcement struct {
	nonce [nonceSize]byte
	spi   uint32
	flags byte
}

func (a announcement) append(b []byte) []byte {
	b = append(b, a.nonce[:]...)
	b = binary.BigEndian.AppendUint32(b, a.spi)
	b = append(b, a.flags)
	return append(b, make([]byte, messageSize-flagsAt-1)...)
}

// parseAnnouncement reads what came from the other end. What is behind the flags is ignored.
func parseAnnouncement(b []byte) (a announcement, err error) {
	if len(b) != messageSize {
		return a, fmt.Errorf("%w: %d bytes, want %d", errMessage, len(b), messageSize)
	}
	a = announcement{nonce: [nonceSize]byte(b), spi: binary.BigEndian.Uint32(b[spiAt:]), flags: b[flagsAt]}
	if a.spi < minSPI {
		return a, fmt.Errorf("%w: reserved SPI %d", errMessage, a.spi)
	}
	return a, nil
}

// KeySize is the length of the key of an association in bytes: AES-256, and the salt of GCM.
const KeySize = 36

// Key is the key of an association. Its text forms hide it.
type Key [KeySize]byte

// Format hides the key whatever the verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("ipsec.Key(hidden)")) }

// MarshalText hides the key in JSON and in structured logs.
func (Key) MarshalText() ([]byte, error) { return []byte("ipsec.Key(hidden)"), nil }

// deriveKey makes the key of the direction to a receiver (section 2.1).
func deriveKey(session *[32]byte, nonce [nonceSize]byte, receiver peer.Name) (Key, error) {
	info := binary.BigEndian.AppendUint64(nil, uint64(receiver))
	out, err := hkdf.Key(sha256.New, session[:], nonce[:], string(info), KeySize)
	if err != nil {
		return Key{}, fmt.Errorf("derive key: %w", err)
	}
	return Key(out), nil
}

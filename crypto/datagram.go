package crypto

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/nacl/secretbox"
)

// DatagramOverhead is what sealing adds to a datagram, in bytes: its number and the seal.
const DatagramOverhead = 8 + Overhead

// ErrReplay is returned for a datagram that came before, or is too old to tell.
var ErrReplay = errors.New("crypto: datagram replayed or too old")

// Channel keeps two rows of numbers apart, so that datagrams that take different ways do not wait for each other. It is the
// first bit of a datagram's number.
type Channel uint8

const (
	// Fragmentable datagrams may be cut by the network.
	Fragmentable Channel = 0
	// DontFragment datagrams may not.
	DontFragment Channel = 1

	channelBit = 1 << 63
)

// DatagramSealer seals one direction. It is safe for concurrent use.
type DatagramSealer struct {
	key   hidden
	nonce nonce
	next  [2]atomic.Uint64
}

// NewDatagramSealer starts at number 0 on both channels. initiator says whether this end, the sender, dialled. There must
// never be two of the same key and initiator: they would use the same nonces, and what they sealed could be read and forged.
func NewDatagramSealer(k Key, initiator bool) *DatagramSealer {
	return &DatagramSealer{key: hide(k), nonce: newNonce(initiator, false)}
}

// Seal appends number, seal and sealed payload to dst, DatagramOverhead bytes more than the payload; the two must not
// overlap.
func (s *DatagramSealer) Seal(dst []byte, ch Channel, payload []byte) []byte {
	number := s.next[ch].Add(1) - 1
	if ch == DontFragment {
		number |= channelBit
	}
	n := s.nonce
	n.setNumber(number)
	dst = binary.BigEndian.AppendUint64(dst, number)
	return secretbox.Seal(dst, payload, (*[24]byte)(&n), s.key())
}

// DatagramOpener opens one direction and refuses replays. It is safe for concurrent use.
type DatagramOpener struct {
	key   hidden
	nonce nonce

	mu      sync.Mutex // guards windows
	windows [2]Window
}

// NewDatagramOpener starts with nothing seen. initiator says whether the other end, the sender, dialled.
func NewDatagramOpener(k Key, initiator bool) *DatagramOpener {
	return &DatagramOpener{key: hide(k), nonce: newNonce(initiator, false)}
}

// Open appends the payload to dst; it must not overlap with datagram. The error is ErrOpen or ErrReplay; either leaves the
// opener as it was.
func (o *DatagramOpener) Open(dst, datagram []byte) (payload []byte, ch Channel, err error) {
	if len(datagram) < DatagramOverhead {
		return dst, 0, ErrOpen
	}
	number := binary.BigEndian.Uint64(datagram)
	n := o.nonce
	n.setNumber(number)
	out, ok := secretbox.Open(dst, datagram[8:], (*[24]byte)(&n), o.key())
	if !ok {
		return dst, 0, ErrOpen
	}
	if number&channelBit != 0 {
		ch = DontFragment
	}
	o.mu.Lock()
	fresh := o.windows[ch].Accept(number &^ channelBit)
	o.mu.Unlock()
	if !fresh {
		return dst, ch, ErrReplay
	}
	return out, ch, nil
}

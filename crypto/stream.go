package crypto

import (
	"errors"

	"golang.org/x/crypto/nacl/secretbox"
)

// Overhead is what sealing adds to a message or to a datagram's payload, in bytes.
const Overhead = secretbox.Overhead

// ErrOpen is wrapped by errors about what does not open: another key, another password, or bytes changed on the way.
var ErrOpen = errors.New("crypto: sealed message does not open")

// StreamSealer seals one direction of a stream. The message number is part of the seal but not of the message, so messages
// have to be sent in the order they were sealed. It is not safe for concurrent use.
type StreamSealer struct {
	key   hidden
	nonce nonce
	next  uint64
}

// NewStreamSealer starts at message 0. initiator says whether this end, the sender, dialled. There must never be two of the
// same key and initiator: they would use the same nonces, and what they sealed could be read and forged.
func NewStreamSealer(k Key, initiator bool) *StreamSealer {
	return &StreamSealer{key: hide(k), nonce: newNonce(initiator, true)}
}

// Seal appends the sealed message to dst, Overhead bytes longer than the message; the two must not overlap.
func (s *StreamSealer) Seal(dst, message []byte) []byte {
	s.nonce.setNumber(s.next)
	s.next++
	return secretbox.Seal(dst, message, (*[24]byte)(&s.nonce), s.key())
}

// StreamOpener opens one direction of a stream. It is not safe for concurrent use.
type StreamOpener struct {
	key   hidden
	nonce nonce
	next  uint64
}

// NewStreamOpener starts at message 0. initiator says whether the other end, the sender, dialled.
func NewStreamOpener(k Key, initiator bool) *StreamOpener {
	return &StreamOpener{key: hide(k), nonce: newNonce(initiator, true)}
}

// Open appends the message to dst; it must not overlap with sealed. After an error, ErrOpen, the stream is out of step and
// of no more use.
func (o *StreamOpener) Open(dst, sealed []byte) ([]byte, error) {
	o.nonce.setNumber(o.next)
	out, ok := secretbox.Open(dst, sealed, (*[24]byte)(&o.nonce), o.key())
	if !ok {
		return dst, ErrOpen
	}
	o.next++
	return out, nil
}

package crypto

import "encoding/binary"

// nonce is the 24-byte nonce of a secretbox. Its first byte keeps directions and uses of one session key apart, its last
// eight hold a number; nothing of it is sent except the number of datagrams.
type nonce [24]byte

const (
	fromInitiator = 1 << 7 // the sender dialled the connection
	inStream      = 1 << 6 // a message of the stream, not a datagram
)

func newNonce(initiator, stream bool) (n nonce) {
	if initiator {
		n[0] |= fromInitiator
	}
	if stream {
		n[0] |= inStream
	}
	return n
}

func (n *nonce) setNumber(v uint64) { binary.BigEndian.PutUint64(n[16:], v) }

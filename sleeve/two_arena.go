package sleeve

import "crypto/cipher"

// arena is what datagrams are opened into, one behind the other. What was opened last stands behind what is kept: it is gone
// with the next one, but for as much of it as is kept.
type arena struct {
	kept []byte
}

func newArena(size int) arena { return arena{kept: make([]byte, 0, size)} }

// room is for how many bytes there is room.
func (a *arena) room() int { return cap(a.kept) - len(a.kept) }

// peek opens a datagram and returns what it holds.
func (a *arena) peek(aead cipher.AEAD, nonce, sealed, header []byte) ([]byte, error) {
	out, err := aead.Open(a.kept, nonce, sealed, header)
	if err != nil {
		return nil, err
	}
	return out[len(a.kept):], nil
}

// keep keeps the first n bytes of what was opened last; so what was behind them comes to be what was opened last.
func (a *arena) keep(n int) { a.kept = a.kept[:len(a.kept)+n] }

// size is how much is kept.
func (a *arena) size() int { return len(a.kept) }

// from returns what is kept from an offset on.
func (a *arena) from(start int) []byte { return a.kept[start:len(a.kept):len(a.kept)] }

// reset lets go of all.
func (a *arena) reset() { a.kept = a.kept[:0] }

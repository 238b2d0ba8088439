package ipam

import (
	"bytes"
	"encoding/gob"
	"fmt"

	"github.com/overweave/overweave/mesh/gossip"
)

// Gob is used here only, and for streams of one value within bounds: a message is as long as the carrier's
// [gossip.MaxMessage] at most, checked again here, and what was stored is not longer than maxStored.

// maxStored is more than the largest ring takes in a store, in bytes.
const maxStored = 64 << 20

func encode(v any) []byte {
	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(v); err != nil {
		panic(fmt.Sprintf("ipam: encode %T: %v", v, err)) // our own types, into memory: cannot fail
	}
	return buf.Bytes()
}

// decode reads a message.
func decode(b []byte, v any) error { return decodeBounded(b, v, gossip.MaxMessage) }

// decodeStored reads a value of a store.
func decodeStored(b []byte, v any) error { return decodeBounded(b, v, maxStored) }

func decodeBounded(b []byte, v any, most int) error {
	if len(b) > most {
		return fmt.Errorf("%w: %d bytes", errTooLong, len(b))
	}
	return gob.NewDecoder(bytes.NewReader(b)).Decode(v)
}

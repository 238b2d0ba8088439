package dns

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	// An entry as gob has it costs its texts and at most wireOverhead bytes; the type definitions of a message and its
	// time take less than wireHeader.
	wireOverhead = 48
	wireHeader   = 512
	// wireLeast is less than any entry takes that could be valid: a peer's name, an address and two letters.
	wireLeast = 16
	// countAbove is the size, in bytes, from which a message's entries are counted before they are given memory.
	countAbove = 64 << 10
)

var errMalformed = errors.New("malformed name message")

// The gob types of section 2.1 of the name specification. Names of fields count on the wire, names of types do not.
type (
	wireMessage struct {
		Timestamp int64
		Entries   []wireEntry
	}
	wireEntry struct {
		ContainerID string
		Origin      uint64
		Addr        uint64 // 32 bits, but one entry that exceeds them must not cost the message
		Hostname    string
		Version     int64
		Tombstone   int64
	}
)

// encode returns messages that hold the entries in the order given, usually one: more if one would be larger than a
// carrier takes. No entries make one message too.
func encode(at int64, entries []Entry) [][]byte {
	var out [][]byte
	for {
		m, size, n := wireMessage{Timestamp: at}, wireHeader, 0
		for ; n < len(entries); n++ {
			size += len(entries[n].Hostname) + len(entries[n].Owner) + wireOverhead
			if size > gossip.MaxMessage {
				break
			}
			m.Entries = append(m.Entries, entries[n].wire())
		}
		var buf bytes.Buffer
		_ = gob.NewEncoder(&buf).Encode(m) // a plain struct into memory: cannot fail
		out = append(out, buf.Bytes())
		if entries = entries[n:]; len(entries) == 0 {
			return out
		}
	}
}

func (e Entry) wire() wireEntry {
	addr := e.Addr.As4()
	return wireEntry{
		ContainerID: e.Owner,
		Origin:      uint64(e.Origin),
		Addr:        uint64(binary.BigEndian.Uint32(addr[:])),
		Hostname:    e.Hostname,
		Version:     e.Version,
		Tombstone:   e.Tombstone,
	}
}

// entry checks an entry that came in at a time, in Unix seconds.
func (w wireEntry) entry(now int64) (Entry, bool) {
	origin, err := peer.FromUint64(w.Origin)
	switch {
	case err != nil, w.Addr >= 1<<32, len(w.ContainerID) > maxOwner, len(w.Hostname) > maxHostname,
		!strings.HasSuffix(w.Hostname, "."), w.Version < 0, w.Version >= maxVersion(now), w.Tombstone < 0:
		return Entry{}, false
	}
	var addr [4]byte
	binary.BigEndian.PutUint32(addr[:], uint32(w.Addr))
	return Entry{w.Hostname, origin, w.ContainerID, netip.AddrFrom4(addr), w.Version, w.Tombstone}, true
}

// decode reads a message that came from the network at a time, in Unix seconds. Bad entries are left out and counted; err
// means that nothing could be read.
func decode(msg []byte, now int64) (at int64, entries []Entry, bad int, err error) {
	defer func() { // gob does not promise to withstand every input
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errMalformed, r)
		}
	}()
	if len(msg) > gossip.MaxMessage {
		return 0, nil, 0, fmt.Errorf("%w: %d bytes, at most %d", errMalformed, len(msg), gossip.MaxMessage)
	}
	if err := checkCount(msg); err != nil {
		return 0, nil, 0, err
	}
	var m wireMessage
	if err := gob.NewDecoder(bytes.NewReader(msg)).Decode(&m); err != nil {
		return 0, nil, 0, fmt.Errorf("%w: %w", errMalformed, err)
	}
	entries = make([]Entry, 0, len(m.Entries))
	for _, w := range m.Entries {
		if e, ok := w.entry(now); ok {
			entries = append(entries, e)
		}
	}
	return m.Timestamp, entries, len(m.Entries) - len(entries), nil
}

// checkCount refuses messages that claim far more entries than they have room for. In gob an empty entry takes one byte,
// in memory about 70, so that a large message of such would cost most of a gigabyte. Reading one small field of each
// first shows how many there are for a fraction of that.
func checkCount(msg []byte) error {
	if len(msg) <= countAbove {
		return nil
	}
	var m struct {
		Timestamp int64
		Entries   []struct{ Addr uint64 }
	}
	if err := gob.NewDecoder(bytes.NewReader(msg)).Decode(&m); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	if len(m.Entries) > len(msg)/wireLeast {
		return fmt.Errorf("%w: %d entries in %d bytes", errMalformed, len(m.Entries), len(msg))
	}
	return nil
}

package dns

import (
	"slices"
	"sync"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
)

// delta is a part of the table on its way to others. It does not change, and is encoded once for all links.
type delta struct {
	at      int64   // Unix seconds
	entries []Entry // in wire order, each identity once
	encoded func() [][]byte
}

// newDelta makes a delta, or nil of nothing. It takes entries over. Of entries with one identity only the newest is
// kept, in the spelling of the first: two of them in a message end a process of Weave Net 2.8.
func newDelta(at int64, entries []Entry) gossip.Data {
	if len(entries) == 0 {
		return nil
	}
	seen := make(map[key]int, len(entries))
	unique := entries[:0]
	for _, e := range entries {
		i, twice := seen[e.key()]
		switch {
		case !twice:
			seen[e.key()] = len(unique)
			unique = append(unique, e)
		case e.newerThan(unique[i]):
			e.Hostname = unique[i].Hostname
			unique[i] = e
		}
	}
	slices.SortFunc(unique, wireCompare)
	d := &delta{at: at, entries: unique}
	d.encoded = sync.OnceValue(func() [][]byte { return encode(d.at, d.entries) })
	return d
}

// Encode implements [gossip.Data].
func (d *delta) Encode() [][]byte { return d.encoded() }

// Merge implements [gossip.Data].
func (d *delta) Merge(other gossip.Data) gossip.Data {
	switch o := other.(type) {
	case *delta:
		return newDelta(max(d.at, o.at), slices.Concat(d.entries, o.entries))
	case *state:
		return o
	}
	return d
}

// stateFresh is how long an encoding of the whole table serves if nothing changes. Receivers of Weave Net 2.8 take a
// message up to 15 minutes after the time it bears.
const stateFresh = 30 * time.Second

// state is the whole table but for expired tombstones, as it is when it is encoded. Every delta that waits beside it
// is in the table already, but for corrections that a full table has no room for, which are made again.
type state struct {
	t *Table

	mu      sync.Mutex // held while encoding; taken before the table's
	encoded [][]byte   // nil: none yet
	at      time.Time
	changes uint64 // of the table when encoded
}

// Encode implements [gossip.Data].
func (s *state) Encode() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.t.now()
	if age := now.Sub(s.at); s.encoded != nil && s.changes == s.t.changes.Load() && age >= 0 && age < stateFresh {
		return s.encoded
	}
	s.t.mu.RLock()
	entries := make([]Entry, 0, len(s.t.recs.all))
	for _, rec := range s.t.recs.all {
		if !expired(rec.Entry, now.Unix()) {
			entries = append(entries, rec.Entry)
		}
	}
	s.changes = s.t.changes.Load()
	s.t.mu.RUnlock()
	slices.SortFunc(entries, wireCompare)
	s.at, s.encoded = now, encode(now.Unix(), entries)
	return s.encoded
}

// Merge implements [gossip.Data].
func (s *state) Merge(gossip.Data) gossip.Data { return s }

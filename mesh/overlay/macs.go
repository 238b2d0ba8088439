package overlay

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// MACAge is how long an address is remembered after its last frame.
	MACAge = 10 * time.Minute
	// MaxMACs bounds the table: a peer that invents addresses cannot make it grow without end, nor keep others out. When there
	// is no room, the station that was silent longest of the peer that has most makes room for one of a peer that has fewer, or
	// for any after a minute. Else it is not learned, and frames to it are flooded.
	MaxMACs = 1 << 16

	macShards     = 256 // as many as a byte can tell
	maxPerShard   = MaxMACs / macShards
	macRefreshGap = int64(time.Second) // how stale last-seen may get; spares a write to shared memory for each frame

	// macHold is for how long after its last frame from a peer a station that shows up here is not believed to have moved:
	// its frames may be our own coming back. Peers of Weave Net hold it for ten minutes.
	macHold = 10 * time.Second

	// macIdle is how long a station has to be silent to make room for another of its peer.
	macIdle = time.Minute
)

// MACEntry says at which peer a station is.
type MACEntry struct {
	MAC      MAC       `json:"mac"`
	Peer     peer.Name `json:"peer"`
	LastSeen time.Time `json:"last_seen"`
}

// macTable maps stations to peers. Readers load one pointer and look into a map that nobody changes; a writer copies one
// shard. So it suits what it is for: read for each frame, changed when a station is new or moves.
type macTable struct {
	shards  [macShards]macShard
	changed func(MAC) // called, if set, after a station is new, has moved or was forgotten, without locks
}

type macShard struct {
	entries atomic.Pointer[map[MAC]*station]
	mu      sync.Mutex // serializes writers, and guards what follows
	refused peer.Name  // there was no room for a station of this peer lately
	until   int64      // and there will be none before this, in Unix nanoseconds
}

type station struct {
	peer peer.Name
	seen atomic.Int64 // Unix nanoseconds
}

func (t *macTable) shard(m MAC) *macShard {
	return &t.shards[m[5]^m[4]>>2^m[3]>>4]
}

func (s *macShard) load() map[MAC]*station {
	if p := s.entries.Load(); p != nil {
		return *p
	}
	return nil
}

// lookup returns where m is, whether or not it is due to be forgotten.
func (t *macTable) lookup(m MAC) (peer.Name, bool) {
	if st := t.shard(m).load()[m]; st != nil {
		return st.peer, true
	}
	return 0, false
}

// learn notes that m was seen at p. If it is known at another peer it moves with move set, or if it was not seen there for
// a while. It returns false if it did not move. Group addresses and zero are nobody's and are not learned.
func (t *macTable) learn(m MAC, p peer.Name, now time.Time, move bool) bool {
	if m.IsGroup() || m == (MAC{}) {
		return true
	}
	s := t.shard(m)
	if st := s.load()[m]; st != nil {
		if st.peer == p {
			st.touch(now)
			return true
		}
		if !move && st.held(now) {
			return false
		}
	}
	learned, gone, ok := s.insert(m, p, now, move)
	if learned && t.changed != nil {
		t.changed(m)
		if gone != (MAC{}) {
			t.changed(gone)
		}
	}
	return ok
}

// insert puts a station that is not known at p there, if need be in place of the one that is gone. ok is false if it may not move.
func (s *macShard) insert(m MAC, p peer.Name, now time.Time, move bool) (learned bool, gone MAC, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.load()
	if st := old[m]; st != nil && st.peer != p && !move && st.held(now) {
		return false, gone, false // another goroutine was faster
	}
	if old[m] == nil && len(old) >= maxPerShard {
		if gone, ok = s.makeRoom(p, now); !ok {
			return false, gone, true // full: not learned, but no conflict either
		}
	}
	st := &station{peer: p}
	st.seen.Store(now.UnixNano())
	s.replace(old, func(entries map[MAC]*station) {
		delete(entries, gone)
		entries[m] = st
	})
	return true, gone, true
}

// makeRoom picks the station that gives way to one of p. The caller holds mu.
func (s *macShard) makeRoom(p peer.Name, now time.Time) (oldest MAC, ok bool) {
	if p == s.refused && now.UnixNano() < s.until {
		return oldest, false // a station that invents addresses costs no search
	}
	entries, counts, most := s.load(), map[peer.Name]int{}, p
	for _, st := range entries {
		counts[st.peer]++
		if counts[st.peer] > counts[most] {
			most = st.peer
		}
	}
	if counts[most] <= counts[p]+1 { // they would take it from each other for ever
		most = p
	}
	var last *station
	for m, st := range entries {
		if st.peer == most && (last == nil || st.seen.Load() < last.seen.Load()) {
			oldest, last = m, st
		}
	}
	ok = most != p || last != nil && now.UnixNano()-last.seen.Load() >= int64(macIdle)
	if !ok {
		s.refused, s.until = p, now.UnixNano()+macRefreshGap
	}
	return oldest, ok
}

func (st *station) held(now time.Time) bool { return now.UnixNano()-st.seen.Load() < int64(macHold) }

func (st *station) touch(now time.Time) {
	if t := now.UnixNano(); t-st.seen.Load() > macRefreshGap {
		st.seen.Store(t)
	}
}

// replace publishes a changed copy of the shard. The caller holds mu.
func (s *macShard) replace(old map[MAC]*station, change func(map[MAC]*station)) {
	entries := make(map[MAC]*station, len(old)+1)
	maps.Copy(entries, old)
	change(entries)
	s.entries.Store(&entries)
}

// removeIf forgets the stations for which drop returns true.
func (t *macTable) removeIf(drop func(*station) bool) {
	for i := range t.shards {
		gone := t.shards[i].removeIf(drop)
		for _, m := range gone {
			if t.changed != nil {
				t.changed(m)
			}
		}
	}
}

func (s *macShard) removeIf(drop func(*station) bool) (gone []MAC) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.load()
	for m, st := range old {
		if drop(st) {
			gone = append(gone, m)
		}
	}
	if len(gone) > 0 {
		s.replace(old, func(entries map[MAC]*station) {
			for _, m := range gone {
				delete(entries, m)
			}
		})
	}
	return gone
}

// list returns all entries in order of addresses.
func (t *macTable) list() []MACEntry {
	var out []MACEntry
	for i := range t.shards {
		for m, st := range t.shards[i].load() {
			out = append(out, MACEntry{MAC: m, Peer: st.peer, LastSeen: time.Unix(0, st.seen.Load())})
		}
	}
	slices.SortFunc(out, func(a, b MACEntry) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	return out
}

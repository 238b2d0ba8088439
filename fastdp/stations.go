package fastdp

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

// stationTable says behind which local port a station is. The latest word holds. It is safe for concurrent use, without a
// lock that all need; the zero value is empty.
type stationTable struct {
	shards [indexShards]stationShard
	of     [localOrigins]atomic.Int64 // how many each port has
}

type stationShard struct {
	mu      sync.Mutex
	entries map[overlay.MAC]portEntry
}

type portEntry struct {
	port uint32
	seen time.Time
}

// shardOf spreads addresses over shards.
func shardOf(m overlay.MAC) int { return int(m[5]^m[4]<<3^m[3]) % indexShards }

func (t *stationTable) count(port uint32) *atomic.Int64 { return &t.of[port%localOrigins] }

// admits reports whether a station may be behind a port: it is, or the port has not as many as it may have.
func (t *stationTable) admits(m overlay.MAC, port uint32) bool {
	at, known := t.port(m)
	return known && at == port || t.count(port).Load() < maxStations
}

// learn notes where a station was seen, and reports whether that is new.
func (t *stationTable) learn(m overlay.MAC, port uint32, now time.Time) (moved bool) {
	s := &t.shards[shardOf(m)]
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.entries[m]
	if moved = !known || old.port != port; moved {
		t.count(port).Add(1)
	}
	if known && moved {
		t.count(old.port).Add(-1)
	}
	if s.entries == nil {
		s.entries = map[overlay.MAC]portEntry{}
	}
	s.entries[m] = portEntry{port, now}
	return moved
}

// port returns the port of a station.
func (t *stationTable) port(m overlay.MAC) (port uint32, known bool) {
	s := &t.shards[shardOf(m)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e, known := s.entries[m]
	return e.port, known
}

// removeIf forgets stations and returns them.
func (t *stationTable) removeIf(drop func(overlay.MAC, portEntry) bool) (gone []overlay.MAC) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for m, e := range s.entries {
			if drop(m, e) {
				gone = append(gone, m)
				delete(s.entries, m)
				t.count(e.port).Add(-1)
			}
		}
		s.mu.Unlock()
	}
	return gone
}

// each calls see for all stations.
func (t *stationTable) each(see func(overlay.MAC, portEntry)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for m, e := range s.entries {
			see(m, e)
		}
		s.mu.Unlock()
	}
}

// makeRoom forgets the stations that were silent longest behind ports that have nearly as many as they may have, and returns
// them.
func (t *stationTable) makeRoom() []overlay.MAC {
	type silent struct {
		mac overlay.MAC
		portEntry
	}
	by := map[uint32][]silent{}
	t.each(func(m overlay.MAC, e portEntry) {
		if float64(t.count(e.port).Load()) > crowdedAt*maxStations {
			by[e.port] = append(by[e.port], silent{m, e})
		}
	})
	gone := map[overlay.MAC]time.Time{}
	for _, list := range by {
		for _, s := range idlest(list, maxStations, func(s silent) time.Time { return s.seen }) {
			gone[s.mac] = s.seen
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return t.removeIf(func(m overlay.MAC, e portEntry) bool {
		seen, chosen := gone[m]
		return chosen && seen.Equal(e.seen)
	})
}

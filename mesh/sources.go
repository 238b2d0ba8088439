package mesh

import (
	"net/netip"
	"sync"
	"time"
)

const (
	sourceInterval   = 2 * bucketInterval // so one source gets half of what is accepted at most
	maxSourceSetUps  = maxSetUps / 4
	maxWatched       = 1024 // that are watched at a time
	sourcePrefixIPv6 = 64   // hosts choose the rest themselves
)

// sources sees to it that one source of inbound connections, hostile or broken, does not use up what all share: how often
// connections are accepted, and how many are in introduction. It is safe for concurrent use.
type sources struct {
	mu      sync.Mutex
	watched map[netip.Prefix]*source
}

type source struct {
	bucket bucket
	setUps int
}

func newSources() *sources { return &sources{watched: map[netip.Prefix]*source{}} }

func sourceOf(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = sourcePrefixIPv6
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

// admit reports whether a connection from an address may be introduced. If so, settle has to follow. When more sources come
// at a time than are watched the others are taken: then it is not one that floods.
func (s *sources) admit(a netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sourceOf(a)
	src := s.watched[key]
	if src == nil {
		if len(s.watched) >= maxWatched {
			s.expireLocked(now)
		}
		if len(s.watched) >= maxWatched {
			return true
		}
		src = &source{bucket: newBucket(now, sourceInterval)}
		s.watched[key] = src
	}
	if src.setUps >= maxSourceSetUps || src.bucket.next.After(now) {
		return false
	}
	src.bucket.take(now)
	src.setUps++
	return true
}

// settle is told that an introduction is over.
func (s *sources) settle(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.watched[sourceOf(a)]; src != nil && src.setUps > 0 {
		src.setUps--
	}
}

// expireLocked forgets sources that have all they may have.
func (s *sources) expireLocked(now time.Time) {
	for key, src := range s.watched {
		if src.setUps == 0 && src.bucket.full(now) {
			delete(s.watched, key)
		}
	}
}

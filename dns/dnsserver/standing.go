package dnsserver

import (
	"net/netip"
	"sync"
	"time"
)

const (
	maxMisses    = 3           // in a row, from which on an upstream has to wait behind the others
	restFor      = time.Minute // from its last miss
	maxStandings = 64          // upstreams that are remembered: more than any file names
)

// standing remembers which upstreams do not answer, so that a dead one does not delay every query. Losing a race is no fault
// as long as something is answered now and then. Its zero value holds nothing against anybody. It is safe for concurrent use.
type standing struct {
	mu     sync.Mutex
	misses map[netip.AddrPort]misses
}

type misses struct {
	inRow int
	last  time.Time
}

// answered notes an answer, whatever it said.
func (s *standing) answered(server netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.misses, server)
}

// missed notes a query that was not answered, though there was time.
func (s *standing) missed(server netip.AddrPort, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.misses == nil || len(s.misses) >= maxStandings {
		s.misses = map[netip.AddrPort]misses{}
	}
	s.misses[server] = misses{s.misses[server].inRow + 1, now}
}

// rests reports whether the others are to be asked first.
func (s *standing) rests(server netip.AddrPort, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.misses[server]
	return m.inRow >= maxMisses && now.Sub(m.last) < restFor
}

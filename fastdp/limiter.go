package fastdp

import (
	"sync"
	"time"
)

// limiter allows so many actions in each second. It is safe for concurrent use.
type limiter struct {
	perSecond int // constant

	mu     sync.Mutex
	second time.Time // when the present second began
	used   int
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.second) >= time.Second {
		l.second, l.used = now, 0
	}
	l.used++
	return l.used <= l.perSecond
}

// shares allows so many actions in each second, and of each origin a part of them. It is safe for concurrent use.
type shares struct {
	mu     sync.Mutex
	second time.Time
	used   int
	of     [numOrigins]int
}

// allow reports whether there may be one more of an origin; all is how many there may be of all.
func (s *shares) allow(o origin, all int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.second) >= time.Second {
		s.second, s.used, s.of = now, 0, [numOrigins]int{}
	}
	if s.used >= all || s.of[o] >= all/spreadShare {
		return false
	}
	s.used++
	s.of[o]++
	return true
}

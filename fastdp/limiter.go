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

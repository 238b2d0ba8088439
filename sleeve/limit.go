package sleeve

import "time"

// limiter is a token bucket: burst at once, then one each interval. The zero time is long ago. It is not safe for
// concurrent use.
type limiter struct {
	interval time.Duration
	burst    int
	full     time.Time // when the bucket will be full
}

// allow takes a token if there is one.
func (l *limiter) allow(now time.Time) bool {
	if l.full.Before(now) {
		l.full = now
	}
	next := l.full.Add(l.interval)
	if next.Sub(now) > time.Duration(l.burst)*l.interval {
		return false
	}
	l.full = next
	return true
}

package mesh

import "time"

const (
	bucketCapacity = 20
	bucketInterval = 50 * time.Millisecond
)

// bucket limits how often connections are accepted: bucketCapacity at once, then one each interval (section 7.8 of the mesh
// specification, where it is bucketInterval). It is plain data.
type bucket struct {
	interval time.Duration
	next     time.Time // when there is a token
}

func newBucket(now time.Time, interval time.Duration) bucket {
	b := bucket{interval: interval}
	b.next = b.oldest(now)
	return b
}

// oldest is the furthest that unused tokens reach back.
func (b *bucket) oldest(now time.Time) time.Time {
	return now.Add(-bucketCapacity * b.interval).Truncate(b.interval)
}

// full reports whether no token is missing.
func (b *bucket) full(now time.Time) bool { return !b.next.After(b.oldest(now)) }

// take takes a token and returns how long to wait for it.
func (b *bucket) take(now time.Time) time.Duration {
	wait := max(0, b.next.Sub(now))
	if first := b.oldest(now.Add(wait)); b.next.Before(first) {
		b.next = first
	}
	b.next = b.next.Add(b.interval)
	return wait
}

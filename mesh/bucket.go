package mesh

import "time"

const (
	bucketCapacity = 20
	bucketInterval = 50 * time.Millisecond
)

// bucket limits how often connections are accepted: bucketCapacity at once, then one each bucketInterval (section 7.8 of
// the mesh specification). It is plain data.
type bucket struct {
	next time.Time
}

func newBucket(now time.Time) bucket { return bucket{next: oldest(now)} }

// oldest is the furthest that unused tokens reach back.
func oldest(now time.Time) time.Time {
	return now.Add(-bucketCapacity * bucketInterval).Truncate(bucketInterval)
}

// take takes a token and returns how long to wait for it.
func (b *bucket) take(now time.Time) time.Duration {
	wait := max(0, b.next.Sub(now))
	if first := oldest(now.Add(wait)); b.next.Before(first) {
		b.next = first
	}
	b.next = b.next.Add(bucketInterval)
	return wait
}

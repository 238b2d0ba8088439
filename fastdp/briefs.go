package fastdp

import (
	"sync"
	"time"
)

// maxBrief bounds the flows that are not to last.
const maxBrief = 16384

// briefList holds the flows that are not to last, in the order in which they end. It is safe for concurrent use; the zero value
// is empty.
type briefList struct {
	mu   sync.Mutex
	list []briefFlow
	of   [numOrigins]int
}

type briefFlow struct {
	key flowKey
	end time.Time
}

func (b *briefList) add(k flowKey, end time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, briefFlow{k, end})
	if o, has := k.origin(); has {
		b.of[o]++
	}
}

// room reports whether there may be one more.
func (b *briefList) room(k flowKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, has := k.origin()
	return len(b.list) < maxBrief && (!has || b.of[o] < maxBrief/briefShare)
}

// ended removes and returns the flows whose end has come.
func (b *briefList) ended(now time.Time) (keys []flowKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for ; n < len(b.list) && !now.Before(b.list[n].end); n++ {
		k := b.list[n].key
		keys = append(keys, k)
		if o, has := k.origin(); has {
			b.of[o]--
		}
	}
	b.list = append(b.list[:0], b.list[n:]...)
	return keys
}

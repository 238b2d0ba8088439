package fastdp

import (
	"sync"
	"time"
)

// maxBrief bounds the flows that are not to last.
const maxBrief = 4096

// briefList holds the flows that are not to last, in the order in which they end. It is safe for concurrent use; the zero value
// is empty.
type briefList struct {
	mu   sync.Mutex
	list []briefFlow
}

type briefFlow struct {
	key flowKey
	end time.Time
}

func (b *briefList) add(k flowKey, end time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, briefFlow{k, end})
}

func (b *briefList) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.list)
}

// ended removes and returns the flows whose end has come.
func (b *briefList) ended(now time.Time) (keys []flowKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for ; n < len(b.list) && !now.Before(b.list[n].end); n++ {
		keys = append(keys, b.list[n].key)
	}
	b.list = append(b.list[:0], b.list[n:]...)
	return keys
}

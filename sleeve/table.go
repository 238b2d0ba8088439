package sleeve

import (
	"maps"
	"sync"
	"sync/atomic"
)

// table is a map that is read without locks. It is safe for concurrent use.
type table[K comparable, V any] struct {
	now atomic.Pointer[map[K]V] // nobody changes what it points to
	mu  sync.Mutex              // serializes changes
}

func (t *table[K, V]) all() map[K]V {
	if m := t.now.Load(); m != nil {
		return *m
	}
	return nil
}

func (t *table[K, V]) get(k K) V { return t.all()[k] }

// change replaces the map by a copy that f has changed.
func (t *table[K, V]) change(f func(map[K]V)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := maps.Clone(t.all())
	if m == nil {
		m = map[K]V{}
	}
	f(m)
	t.now.Store(&m)
}

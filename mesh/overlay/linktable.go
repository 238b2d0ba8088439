package overlay

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

// linkTable holds the bundle of links to each neighbour. Readers take no lock. The zero value is empty.
type linkTable struct {
	bundles atomic.Pointer[map[peer.Name]*Bundle]
	mu      sync.Mutex // serializes writers
}

func (t *linkTable) all() map[peer.Name]*Bundle {
	if p := t.bundles.Load(); p != nil {
		return *p
	}
	return nil
}

func (t *linkTable) get(remote peer.Name) *Bundle { return t.all()[remote] }

func (t *linkTable) set(remote peer.Name, b *Bundle) {
	t.change(func(bundles map[peer.Name]*Bundle) { bundles[remote] = b })
}

// drop forgets b, unless another connection has taken its place.
func (t *linkTable) drop(remote peer.Name, b *Bundle) {
	if t.get(remote) != b {
		return
	}
	t.change(func(bundles map[peer.Name]*Bundle) {
		if bundles[remote] == b {
			delete(bundles, remote)
		}
	})
}

func (t *linkTable) change(change func(map[peer.Name]*Bundle)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	bundles := maps.Clone(t.all())
	if bundles == nil {
		bundles = map[peer.Name]*Bundle{}
	}
	change(bundles)
	t.bundles.Store(&bundles)
}

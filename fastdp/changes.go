package fastdp

import (
	"sync"

	"github.com/overweave/overweave/mesh/overlay"
)

// maxChanged bounds the addresses that wait; with more of them all flows are looked at.
const maxChanged = 4096

// changes gathers what flows have to be looked at for. It is safe for concurrent use.
type changes struct {
	wake chan struct{} // something has been added

	mu   sync.Mutex
	all  bool
	macs map[overlay.MAC]struct{}
}

func newChanges() *changes {
	return &changes{wake: make(chan struct{}, 1), macs: map[overlay.MAC]struct{}{}}
}

func (c *changes) add(ch overlay.Change) {
	c.mu.Lock()
	if ch.Station == (overlay.MAC{}) || len(c.macs) >= maxChanged {
		c.all = true
	} else {
		c.macs[ch.Station] = struct{}{}
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take empties it.
func (c *changes) take() (macs map[overlay.MAC]struct{}, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	macs, all = c.macs, c.all
	c.macs, c.all = map[overlay.MAC]struct{}{}, false
	return macs, all
}

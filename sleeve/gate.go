package sleeve

import (
	"sync"
	"sync/atomic"
)

// gate counts who is inside, so that close can shut it and wait until everybody has left. Entering and leaving take no lock
// and may nest.
type gate struct {
	users atomic.Int64 // negative once shut
	shut  sync.Once
	left  sync.Once
	empty chan struct{}
}

const gateShut = -1 << 62

func newGate() gate { return gate{empty: make(chan struct{})} }

// enter returns false if the gate is shut. Otherwise leave has to be called.
func (g *gate) enter() bool {
	if g.users.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.users.Add(-1) == gateShut {
		g.left.Do(func() { close(g.empty) })
	}
}

// close shuts the gate and waits for those inside.
func (g *gate) close() {
	g.shut.Do(func() {
		if g.users.Add(gateShut) == gateShut {
			g.left.Do(func() { close(g.empty) })
		}
	})
	<-g.empty
}

package ipam

import (
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// Each of these puts a weaker rule in the place of one of an allocator that does not run yet.

// OmitFence has a peer rely on what it had, however long it was away.
func (a *Allocator) OmitFence() {
	a.core.rules.fence = func(c *core, now time.Time) {
		c.standing.lift(fenced | lapsed)
		c.watch.contact = now
		c.unfenced(now)
	}
	if a.core.standing.has(fenced) {
		a.core.rules.fence(a.core, a.now().Round(0))
	}
}

// OmitAgreement has a peer take over the dead without asking anybody.
func (a *Allocator) OmitAgreement() { a.core.rules.agreed = func(*core) bool { return true } }

// OmitEpochs has a peer take over the dead as an operator would have it do.
func (a *Allocator) OmitEpochs() {
	a.core.rules.reclaim = func(r *ring.Ring, from, to peer.Name, _ uint64) (*ring.Ring, []addr.Range) {
		return r.Transfer(from, to)
	}
}

// OmitSafeBirth has a vote not count who is in reach.
func (a *Allocator) OmitSafeBirth() { a.core.rules.quorum = (*core).oldQuorum }

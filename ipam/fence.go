package ipam

import (
	"net/netip"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/space"
	"github.com/overweave/overweave/mesh/peer"
)

// maxLost bounds the list of addresses that could not be kept.
const maxLost = 256

// fence begins the time after a long absence in which we do not rely on what we had: all we had given out is in doubt, and
// nothing that others tell of the ring is refused for it.
func (c *core) fence() {
	w := &c.watch
	if c.omit.fence {
		return
	}
	w.fenced, w.heard = true, make(map[peer.Name]time.Time)
	c.log.Warn("was away for long, and does not rely on its ring until a majority of the address space has confirmed it",
		"last_contact", w.contact)
	for _, h := range c.book.all() {
		if c.universe.Contains(addr.FromNetip(h.Addr.Addr())) {
			c.book.remove(h.Owner, h.Addr.Addr())
			c.doubt(h)
		}
	}
	c.disputes = make(map[addr.Addr]*dispute)
	c.taken, c.yielded = space.Set{}, space.Set{}
	c.free, c.usable = space.Set{}, nil
	c.updateUsable()
}

// wasAway reports whether others may have taken over what we have since we last were in a majority, as far as the store
// tells. A store of before we took note of that says nothing.
func (c *core) wasAway(now time.Time) bool {
	w := &c.watch
	if w.after <= 0 || w.contact.IsZero() || !c.shared() {
		return false
	}
	return now.Sub(w.contact) >= c.lease() || now.Before(w.contact)
}

// liftFence ends the fence when the rings of a majority have come.
func (c *core) liftFence(now time.Time) {
	w := &c.watch
	if !w.fenced || w.majority.IsZero() || now.Sub(w.majority) < suspicion {
		return
	}
	lately := func(p peer.Name) bool { return c.known(p) && now.Sub(w.heard[p]) < w.settle/2 }
	if !c.majority(func(p peer.Name) bool { return p == c.me || lately(p) }) {
		for _, m := range c.members.names() {
			if m != c.me && !lately(m) {
				c.out.surveys = append(c.out.surveys, m)
			}
		}
		return
	}
	w.fenced, w.lapsed, w.heard = false, false, nil
	w.contact, w.stored, c.dirty.state = now, now, true
	c.tell()
	c.log.Info("a majority of the address space has confirmed the ring")
	c.updateUsable()
	c.retry(now)
}

// confirmed notes that the sender of s has sent its ring, and nobody is about to take us over in its name.
func (c *core) confirmed(s state, now time.Time) {
	if !c.watch.fenced {
		return
	}
	if delete(c.watch.heard, s.copyOf); !lockedIn(s, c.me) {
		c.watch.heard[s.copyOf] = now
	}
}

// doubt claims again what we had given out before a long absence. A restart does not end the doubt: it is stored.
func (c *core) doubt(h Holding) {
	w := newWaiter(h.Owner)
	w.addr, w.adopted, w.doubt = h.Addr, true, true
	c.waiting.claims = append(c.waiting.claims, w)
}

// inDoubt reports whether an address of owner is.
func (c *core) inDoubt(owner string) bool {
	for _, w := range c.waiting.claims {
		if w.doubt && w.owner == owner {
			return true
		}
	}
	return false
}

// doubted returns what is recorded of an address in doubt.
func (c *core) doubted(ip netip.Addr) (Holding, bool) {
	for _, w := range c.waiting.claims {
		if w.doubt && !w.answered && w.addr.Addr() == ip {
			return Holding{w.owner, w.addr}, true
		}
	}
	return Holding{}, false
}

// dropDoubt forgets the addresses of owner that are in doubt, for which keep does not hold, and returns how many.
func (c *core) dropDoubt(owner string, keep func(addr.Addr) bool) (n int) {
	for _, w := range c.waiting.claims {
		if w.doubt && w.owner == owner && !w.answered && !keep(addr.FromNetip(w.addr.Addr())) {
			c.touch(w.addr.Addr())
			w.answer(w.addr, nil)
			n++
		}
	}
	c.waiting.claims = open(c.waiting.claims)
	return n
}

// loseDoubt gives up an address that was given out again while we were away.
func (c *core) loseDoubt(w *waiter) {
	c.touch(w.addr.Addr())
	c.dirty.state = true
	if len(c.watch.lost) < maxLost {
		c.watch.lost = append(c.watch.lost, Holding{w.owner, w.addr})
	}
}

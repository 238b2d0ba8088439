package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/space"
	"github.com/overweave/overweave/mesh/peer"
)

// maxLost bounds the list of addresses that could not be kept; the latest are.
const maxLost = 256

// fence begins the time after a long absence in which we do not rely on what we had: all we had given out is in doubt, and
// nothing that others tell of the ring is refused for it. What is in dispute stays so, until the other side is heard again.
func (c *core) fence(now time.Time) {
	w := &c.watch
	c.standing.hold(fenced)
	w.heard, w.alone = make(map[peer.Name]time.Time), now
	c.log.Warn("was away for long, and does not rely on its ring until a majority of the address space has confirmed it",
		"last_contact", w.contact)
	for _, h := range c.book.all() {
		if c.universe.Contains(addr.FromNetip(h.Addr.Addr())) {
			c.book.remove(h.Owner, h.Addr.Addr())
			c.doubts.put(h.Owner, h.Addr)
		}
	}
	c.taken, c.yielded = space.Set{}, space.Set{}
	c.free, c.usable = space.Set{}, nil
	c.updateUsable()
	c.tell()
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

// pursueFence asks for the rings of others, and lifts the fence when those of a majority have come. If no majority comes
// into reach for long, we go on as one who was cut off while it ran: we use what we have, and are fenced again when we meet
// a majority. Otherwise who is left of a cluster of which most is dead could not even use its own.
func (c *core) pursueFence(now time.Time) {
	w := &c.watch
	if !c.standing.has(fenced) {
		return
	}
	if w.majority.IsZero() {
		if now.Sub(w.alone) >= w.settle {
			c.log.Warn("no majority of the address space in reach: using what was ours before, which others may have taken over")
			c.standing.lift(fenced)
			c.standing.hold(lapsed)
			c.unfenced(now)
		}
		return
	}
	w.alone = now
	if now.Sub(w.majority) < suspicion {
		return
	}
	lately := func(p peer.Name) bool { return c.known(p) && now.Sub(w.heard[p]) < w.settle/2 }
	if !c.majority(func(p peer.Name) bool { return p == c.me || lately(p) }) {
		for _, m := range c.members.names() {
			if m != c.me && !lately(m) {
				c.out.survey(m)
			}
		}
		return
	}
	c.standing.lift(fenced | lapsed)
	w.contact, w.stored = now, now
	c.log.Info("a majority of the address space has confirmed the ring")
	c.unfenced(now)
}

// unfenced follows the end of the fence.
func (c *core) unfenced(now time.Time) {
	c.watch.heard = nil
	c.tell()
	c.updateUsable()
	c.retry(now)
}

// confirmed notes that the sender of s has sent its ring, and nobody is about to take us over in its name.
func (c *core) confirmed(s state, now time.Time) {
	if !c.standing.has(fenced) {
		return
	}
	if delete(c.watch.heard, s.copyOf); !lockedIn(s, c.me) {
		c.watch.heard[s.copyOf] = now
	}
}

// inDoubt reports whether owner may have an address of subnet, of which we do not know yet whether it is ours.
func (c *core) inDoubt(owner string, subnet netip.Prefix) bool {
	return slices.ContainsFunc(c.doubts.of(owner), func(p netip.Prefix) bool { return subnet.Contains(p.Addr()) })
}

// endDoubt takes an address out of doubt; it goes back to where it belongs by the ring.
func (c *core) endDoubt(h Holding) {
	ip := h.Addr.Addr()
	c.doubts.remove(h.Owner, ip)
	c.touch(ip)
	c.dirty.state = true // which doubts there are is stored
	if a := addr.FromNetip(ip); c.isUsable(a) {
		c.free.Add(addr.Single(a))
	}
}

// settleDoubts gives back to their owners what has turned out to be ours.
func (c *core) settleDoubts() {
	if len(c.doubts.owners) == 0 || !c.mayRely() {
		return
	}
	for _, h := range c.doubts.all() {
		if c.isUsable(addr.FromNetip(h.Addr.Addr())) {
			c.endDoubt(h)
			c.record(h.Owner, h.Addr)
		}
	}
}

// loseDoubts gives up what was given out again while we were away: from, who has the piece, uses all of want.
func (c *core) loseDoubts(from peer.Name, want addr.Range) {
	for _, h := range c.doubts.all() {
		a := addr.FromNetip(h.Addr.Addr())
		if !want.Contains(a) || c.keeper(a) != from {
			continue
		}
		c.endDoubt(h)
		c.watch.lost = append(c.watch.lost, h)
	}
	c.watch.lost = c.watch.lost[max(len(c.watch.lost)-maxLost, 0):]
}

// forgetLost drops from the list what owner has lost: it was told to let go.
func (c *core) forgetLost(owner string) {
	n := len(c.watch.lost)
	c.watch.lost = slices.DeleteFunc(c.watch.lost, func(h Holding) bool { return h.Owner == owner })
	c.dirty.state = c.dirty.state || len(c.watch.lost) != n
}

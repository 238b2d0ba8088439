package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// Anonymous as owner stands for "no identifier known": the address is filed under its own text form. Allocation is not
// idempotent for it.
const Anonymous = "_"

// claimAttempts is how often a claim is asked for in vain, because no message can be sent to the owner, before it fails.
const claimAttempts = 5

// held returns the address that owner already has in subnet.
func (c *core) held(owner string, subnet netip.Prefix) (netip.Prefix, bool) {
	if owner == Anonymous {
		return netip.Prefix{}, false
	}
	for _, p := range c.book.of(owner) {
		if subnet.Contains(p.Addr()) {
			return netip.PrefixFrom(p.Addr(), subnet.Bits()), true
		}
	}
	return netip.Prefix{}, false
}

// allocate answers at once, or returns a waiter.
func (c *core) allocate(owner string, subnet netip.Prefix, now time.Time) (netip.Prefix, *waiter, error) {
	if p, ok := c.held(owner, subnet); ok {
		return p, nil, nil
	}
	if !subnet.Overlaps(c.prefix) {
		return netip.Prefix{}, nil, fmt.Errorf("ipam: range %v %w: %v", subnet, ErrOutOfRange, c.prefix)
	}
	if c.standing.has(released) {
		return netip.Prefix{}, nil, fmt.Errorf("ipam: allocate for %s: %w", owner, ErrReleased)
	}
	if c.mayGive() && !c.inDoubt(owner, subnet) {
		if p, ok := c.take(owner, subnet); ok {
			return p, nil, nil
		}
	}
	if c.waiting.len() >= maxWaiting {
		return netip.Prefix{}, nil, fmt.Errorf("ipam: allocate for %s: %w", owner, ErrBusy)
	}
	w := newWaiter(owner)
	w.subnet = subnet
	c.startVote(now)
	c.tryAllocate(w, now) // the vote may have been decided by us alone
	if w.answered {
		return w.result, nil, w.err
	}
	c.waiting.allocs = append(c.waiting.allocs, w)
	return netip.Prefix{}, w, nil
}

// take records the lowest free address of subnet for owner.
func (c *core) take(owner string, subnet netip.Prefix) (netip.Prefix, bool) {
	a, ok := c.free.First(addr.FromPrefix(subnet).Hosts())
	if !ok {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(a.Netip(c.is4()), subnet.Bits())
	if owner == Anonymous {
		owner = p.Addr().String()
	}
	c.record(owner, p)
	return p, true
}

// tryAllocate answers w if it can, and asks somebody for space if not.
func (c *core) tryAllocate(w *waiter, now time.Time) {
	if p, ok := c.held(w.owner, w.subnet); ok {
		w.answer(p, nil)
		return
	}
	if !c.mayGive() || c.inDoubt(w.owner, w.subnet) {
		return
	}
	if p, ok := c.take(w.owner, w.subnet); ok {
		w.answer(p, nil)
		return
	}
	want := addr.FromPrefix(w.subnet)
	if to := c.donors(want, now); len(to) > 0 {
		c.out.request(request{want: want, to: to})
		c.waiting.ask(to[0], now)
	}
}

// hush scales down the weight of peers that do not answer, so that they come last.
const hush = 1e-30

// donors lists whom to ask for space, best first (section 1.11): those with more free space sooner, with chance mixed in
// so that not everybody asks the same one. Who is out of reach, or has just denied, is left out; who does not answer is last.
func (c *core) donors(want addr.Range, now time.Time) []peer.Name {
	type candidate struct {
		peer   peer.Name
		weight float64
	}
	var list []candidate
	donors := c.ring.Donors(c.me, want)
	c.waiting.hear(want, donors, now)
	for _, d := range donors {
		weight := float64(d.Free) * c.rand.Float64()
		if c.waiting.refused(denial{d.Peer, want}, now) || !c.members.reachable(d.Peer) {
			continue
		}
		if c.waiting.silent(d.Peer, now) {
			weight *= hush
		}
		list = append(list, candidate{d.Peer, weight})
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(b.weight, a.weight) })
	out := make([]peer.Name, len(list))
	for i, x := range list {
		out[i] = x.peer
	}
	return out
}

// claim answers at once, or returns a waiter.
func (c *core) claim(owner string, p netip.Prefix, now time.Time) (*waiter, error) {
	w := newWaiter(owner)
	w.addr = p
	if c.standing.has(released) {
		return nil, fmt.Errorf("ipam: claim %v for %s: %w", p, owner, ErrReleased)
	}
	if c.tryClaim(w); w.answered {
		return nil, w.err
	}
	if c.waiting.len() >= maxWaiting {
		return nil, fmt.Errorf("ipam: claim %v for %s: %w", p, owner, ErrBusy)
	}
	c.startVote(now)
	if c.tryClaim(w); w.answered { // the vote may have been decided by us alone
		return nil, w.err
	}
	c.waiting.claims = append(c.waiting.claims, w)
	return w, nil
}

// tryClaim answers w if it can, and asks the owner of the piece if not (section 4.4). An address that is new here must be one
// that we may give out; one that was found in use is recorded whatever the ring says: it is a stray if that says it is another's.
func (c *core) tryClaim(w *waiter) {
	if w.answered {
		return
	}
	ip := w.addr.Addr()
	a := addr.FromNetip(ip)
	if holder, ok := c.book.owner(ip); ok {
		w.answer(w.addr, c.claimHeld(w, holder, c.universe.Contains(a)))
		return
	}
	if c.universe.Contains(a) {
		against, keeper := hindrance(againstGiving), c.keeper(a)
		if w.adopted {
			against, keeper = ringless|fenced, c.me
		}
		if _, doubted := c.doubts.owner(ip); doubted || c.hindered(against) != 0 {
			return
		}
		if keeper != c.me {
			c.out.request(request{want: addr.Single(a), to: []peer.Name{keeper}, claim: true})
			return
		}
	}
	owner := w.owner
	if owner == Anonymous {
		owner = ip.String()
	}
	c.record(owner, w.addr)
	w.answer(w.addr, nil)
}

// claimHeld decides about the claim of an address that is recorded for holder.
func (c *core) claimHeld(w *waiter, holder string, inside bool) error {
	own := w.addr.Addr().String()
	switch {
	case holder == w.owner, w.owner == Anonymous:
		return nil
	case !inside:
		return fmt.Errorf("ipam: %w: address %v already in use by %s", ErrConflict, w.addr, holder)
	case holder == own:
		return fmt.Errorf("ipam: %w: address %v already in use", ErrConflict, w.addr)
	}
	return fmt.Errorf("ipam: %w: address %v is already owned by %s", ErrConflict, w.addr, holder)
}

// failClaims ends the claims of addresses in want, which belong to from.
func (c *core) failClaims(from peer.Name, want addr.Range, sendErr error) {
	for _, w := range c.waiting.claims {
		a := addr.FromNetip(w.addr.Addr())
		if !want.Contains(a) || c.keeper(a) != from {
			continue
		}
		err := fmt.Errorf("ipam: %w: address %v is owned by other peer %s", ErrConflict, w.addr, c.name(from))
		if sendErr != nil {
			if w.unsent++; w.unsent <= claimAttempts {
				continue
			}
			err = fmt.Errorf("%w - %w", err, sendErr)
		}
		w.answer(netip.Prefix{}, err)
	}
	c.waiting.claims = open(c.waiting.claims)
}

// asked answers a peer that wants space (section 2.7).
func (c *core) asked(from peer.Name, want addr.Range, now time.Time) {
	if !c.mayDonate() || from == c.me || c.condemned(from) {
		return
	}
	if want.Size() == addr.From64(1) {
		c.prolongMeeting(from, now)
	} else if c.standing.has(meeting) {
		return // it would give out what others are about to ask for
	}
	if want.Size() == addr.From64(1) && c.ring.Owner(want.Start) == from {
		c.out.update(from) // it has it already, and has not heard so: its request was repeated
		return
	}
	gift, ok := c.donation(from, want.Intersect(c.universe))
	gift, ok = c.affordable(from, gift), ok && !c.hides(from)
	if !ok && c.concede(from, want) {
		gift, ok = want, true
	}
	if ok {
		next, err := c.ring.Grant(c.me, from, gift)
		if ok = err == nil; ok {
			c.changeRing(next)
			c.out.broadcast = true
			c.out.update(from)
		}
	}
	if !ok {
		c.report(true) // so that the asker learns where not to ask
		c.out.deny(from, want)
	}
}

// hides reports whether a gift to a peer may be taken over without it: it would be the first owner that takes no part in
// taking over the dead, and never doubts what it has, and those who take over may not hear of it.
func (c *core) hides(from peer.Name) bool {
	w := &c.watch
	return w.after > 0 && w.majority.IsZero() && c.shared() && c.aloof(from) && !slices.ContainsFunc(c.ring.Owners(), c.aloof)
}

// affordable cuts down a gift while owners are out of reach: those in reach, but for the one who gets it, are to keep a
// majority, and as much to spare again. So a host that is replaced again and again takes less each time, and does not take
// the majority with it, without which nobody could take over what it has left behind.
func (c *core) affordable(to peer.Name, gift addr.Range) addr.Range {
	if c.delay() == 0 || !slices.ContainsFunc(c.ring.Owners(), func(p peer.Name) bool { return !c.known(p) }) {
		return gift
	}
	have, _ := c.weigh(func(p peer.Name) bool { return p != to && c.known(p) })
	half := c.universe.Size().Half()
	if !half.Less(have) {
		return gift // there is none to keep
	}
	for spare := have.Sub(half).Half(); spare.Less(gift.Size()) && addr.From64(1).Less(gift.Size()); {
		gift.Start = gift.Start.Add(gift.Size().Half())
	}
	return gift
}

// donation picks what of want to give to a peer. Space that was reclaimed is not for peers of Weave Net 2.8: what they give
// away of it would not count as of its epoch.
func (c *core) donation(to peer.Name, want addr.Range) (gift addr.Range, ok bool) {
	pieces := c.ring.Pieces()
	reclaimed := func(p ring.Piece) bool { return p.Peer == c.me && p.Reclaimed() }
	if c.countsEpochs(to) || !slices.ContainsFunc(pieces, reclaimed) {
		return c.free.Donation(want)
	}
	for _, p := range pieces {
		if p.Peer == c.me && !p.Reclaimed() && !ok {
			gift, ok = c.free.Donation(want.Intersect(p.Range))
		}
	}
	return gift, ok
}

// countsEpochs reports whether a peer is known not to be one of Weave Net 2.8.
func (c *core) countsEpochs(p peer.Name) bool {
	_, joins := c.joiners[p]
	return joins || c.watch.delays[p] != 0 || !c.is4()
}

// denied follows a peer's answer that it has nothing to give.
func (c *core) denied(from peer.Name, want addr.Range, now time.Time) {
	delete(c.waiting.asked, from)
	c.failClaims(from, want, nil)
	c.loseDoubts(from, want)
	c.giveIn(from, want)
	if want.Size() == addr.From64(1) {
		c.denyWanted(from, want.Start, now)
	} else {
		c.waiting.deny(denial{from, want}, now)
	}
}

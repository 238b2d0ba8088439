package ipam

import (
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// The space of peers that are dead comes back. The rules, and why they are safe:
//
// Who counts. Votes are weighed by address space: a majority are peers that own more than half of the range, or half of it
// with its first address. A piece has one owner, who alone gives it away, to somebody in its reach; so on either side of a
// partition the weight stays what it was, however many peers join there. Counting heads would let both sides grow one.
//
// When. A peer is dead if it was out of reach for the delay, and a majority in reach all that time. The lowest-named owner
// in reach acts; it waits if another owner has left within the delay, since that one may know more. It gathers the rings of
// everybody in reach, so that what the dead gave away is known, and all must answer.
//
// Agreed. It takes over the tokens in its ring, at versions that nothing the dead did unheard can reach, and uses nothing
// of them yet: they are pending, in the store as well, and count as the dead peer's. Every peer that sends a ring with the
// takeover in it agrees. With a majority of these it is settled. If the dead returns before, it is given all back.
//
// Return. A peer stores when it was last in a majority. If that is longer ago than half of the delay when it starts, it is
// fenced: it gives out nothing, and what it had given out is in doubt, until it has heard the rings of a majority. That
// majority shares a peer with the one that agreed, so it hears what it has lost. Then every address in doubt is its own
// still, or is asked for from the owner, or was given out again and is dropped.
//
// What this does not cover. A peer that runs on, cut off from the majority, for longer than the delay, keeps what its
// containers use, and gives out more; the majority may give out the same. When they meet, it is settled as far as it can
// be, and reported (see dispute.go). No rule can do better that gives the space of the dead back in bounded time. So the
// delay is to be longer than any partition that is not attended to. And if the owners of half the range are lost at once,
// there is no majority: TakeOver is the way out.

// minReclaim is the least Config.ReclaimAfter that is not off.
const minReclaim = time.Minute

// longPause is a time between two ticks after which we must have slept, and know nothing of the meantime.
const longPause = 4 * tick

// maxLost bounds the list of addresses that could not be kept.
const maxLost = 256

// watch is what a peer knows of the absence of others.
type watch struct {
	after    time.Duration               // our delay; 0: nothing is reclaimed, and nobody reclaims from us
	delays   map[peer.Name]time.Duration // what owners and members have told; who is not in it knows nothing of this
	told     uint64                      // counts changes of delays
	last     time.Time                   // the last tick
	absent   map[peer.Name]time.Time     // owners out of reach, since when
	majority time.Time                   // since when one is in reach; zero: none is
	contact  time.Time                   // when one was last; stored
	stored   time.Time                   // contact, as it is in the store

	inquiry *inquiry
	pending []claimed
	agreed  map[peer.Name]struct{} // to all that is pending

	fenced bool
	heard  map[peer.Name]struct{} // whose rings have come while we are fenced
	lost   []Holding              // in doubt after a return, and not ours any more
}

// inquiry gathers rings before dead peers are taken over.
type inquiry struct {
	missing map[peer.Name]struct{}
	until   time.Time
}

// claimed is a range that was taken over from a dead peer and is not to be used yet.
type claimed struct {
	from peer.Name
	addr.Range
}

// observe is called at every tick: it notes who is away, and does what follows from it.
func (c *core) observe(now time.Time) {
	w := &c.watch
	if w.after <= 0 || !c.hasRing() || c.released {
		return
	}
	c.noteAbsence(now)
	c.liftFence(now)
	c.noteContact(now)
	c.followPending(now)
	c.inquire(now)
}

func (c *core) noteAbsence(now time.Time) {
	w := &c.watch
	if w.absent == nil || now.Sub(w.last) > longPause || now.Before(w.last) {
		w.absent, w.majority, w.inquiry = make(map[peer.Name]time.Time), time.Time{}, nil
	}
	w.last = now
	away := make(map[peer.Name]time.Time)
	for _, p := range c.ring.Owners() {
		if c.known(p) {
			continue
		}
		away[p] = now
		if since, ok := w.absent[p]; ok {
			away[p] = since
		}
	}
	for _, x := range w.pending { // they own nothing in our ring now, and are watched still
		if !c.known(x.from) {
			away[x.from] = now
			if since, ok := w.absent[x.from]; ok {
				away[x.from] = since
			}
		}
	}
	w.absent = away
	switch {
	case !c.majority(c.known):
		w.majority = time.Time{}
	case w.majority.IsZero():
		w.majority = now
	}
}

// majority reports whether the peers for which in holds own more than half of the range, or half with the first address.
// What is pending is nobody's.
func (c *core) majority(in func(peer.Name) bool) bool {
	var sum addr.Addr
	first := false
	yes := make(map[peer.Name]bool)
	for _, p := range c.ring.Pieces() {
		counts, asked := yes[p.Peer]
		if !asked {
			counts = in(p.Peer)
			yes[p.Peer] = counts
		}
		if counts {
			sum = sum.Add(p.Size())
			first = first || p.Contains(c.universe.Start)
		}
	}
	if in(c.me) {
		for _, x := range c.watch.pending {
			sum = sum.Sub(x.Size())
			first = first && !x.Contains(c.universe.Start)
		}
	}
	rest := c.universe.Size().Sub(sum)
	return rest.Less(sum) || rest == sum && first
}

// noteContact keeps in the store when a majority was last in reach, now and then.
func (c *core) noteContact(now time.Time) {
	w := &c.watch
	if w.fenced || w.majority.IsZero() || !c.trusted() {
		return
	}
	w.contact = now
	if now.Sub(w.stored) >= w.after/8 || now.Before(w.stored) {
		w.stored, c.dirty.state = now, true
	}
}

// delay returns after what time a peer counts as dead: the longest that anybody concerned has told. It is 0 if somebody in
// reach, or the peer itself, knows nothing of this.
func (c *core) delay(p peer.Name) time.Duration {
	w := &c.watch
	longest := max(w.after, w.delays[p])
	if w.delays[p] == 0 {
		return 0
	}
	for _, m := range c.members.names() {
		if m == c.me {
			continue
		}
		if w.delays[m] == 0 {
			return 0
		}
		longest = max(longest, w.delays[m])
	}
	return longest
}

// dead lists the owners to take over now; none if one that we know to be away may still be alive, or if it is not on us.
func (c *core) dead(now time.Time) []peer.Name {
	w := &c.watch
	if w.majority.IsZero() || len(w.absent) == 0 || len(w.pending) > 0 || !c.trusted() {
		return nil
	}
	var out []peer.Name
	for _, p := range c.ring.Owners() {
		since, away := w.absent[p]
		if !away {
			if p < c.me {
				return nil
			}
			continue
		}
		d := c.delay(p)
		if d == 0 || now.Sub(since) < d || now.Sub(w.majority) < d || c.known(p) {
			return nil
		}
		out = append(out, p)
	}
	return out
}

// inquire asks everybody in reach for a ring before the dead are taken over, and takes them over when all have answered.
func (c *core) inquire(now time.Time) {
	w := &c.watch
	if len(c.dead(now)) == 0 || len(c.ring.Owned(c.me)) == 0 {
		w.inquiry = nil
		return
	}
	if w.inquiry == nil || !now.Before(w.inquiry.until) {
		w.inquiry = &inquiry{missing: make(map[peer.Name]struct{}), until: now.Add(2 * tick)}
		for _, m := range c.members.names() {
			if m != c.me {
				w.inquiry.missing[m] = struct{}{}
				c.out.surveys = append(c.out.surveys, m)
			}
		}
	}
	c.reclaimDead(now)
}

func (c *core) reclaimDead(now time.Time) {
	w := &c.watch
	if w.inquiry == nil || len(w.inquiry.missing) > 0 {
		return
	}
	w.inquiry = nil
	for _, p := range c.dead(now) {
		c.claimDisputed(p)
		next, moved := c.ring.Reclaim(p, c.me)
		for _, r := range moved {
			w.pending = append(w.pending, claimed{p, r})
		}
		c.changeRing(next)
		c.log.Info("taking over the address space of a dead peer, if the others agree", "peer", c.name(p),
			"absent", now.Sub(w.absent[p]).String())
	}
	w.agreed = make(map[peer.Name]struct{})
	c.followPending(now)
}

// claimDisputed makes pending what a dead peer had contested.
func (c *core) claimDisputed(gone peer.Name) {
	w := &c.watch
	for _, d := range c.disputes {
		if d.conflict.Rival.Peer != gone {
			continue
		}
		for _, l := range d.conflict.Lost {
			if c.ring.Owner(l.Start) == c.me {
				w.pending = append(w.pending, claimed{gone, l.Range})
			}
		}
	}
	c.keepPending()
	c.winDisputes(gone)
}

// followPending asks for agreement to what is pending, and gives back what a peer that has returned had.
func (c *core) followPending(now time.Time) {
	w := &c.watch
	if len(w.pending) == 0 {
		return
	}
	for _, x := range w.pending {
		if c.known(x.from) {
			c.yield(x, x.from)
		}
	}
	for _, m := range c.members.names() {
		if _, ok := w.agreed[m]; !ok && m != c.me && len(w.pending) > 0 {
			c.out.update(m)
			c.out.surveys = append(c.out.surveys, m)
		}
	}
	c.settlePending(now)
}

// yield gives a pending range to another peer.
func (c *core) yield(x claimed, to peer.Name) {
	if next, err := c.ring.Grant(c.me, to, x.Range); err == nil {
		c.changeRing(next)
		c.out.broadcast = true
		c.out.update(to)
	}
	c.dropPending(x.Range)
}

// dropPending forgets that r is pending.
func (c *core) dropPending(r addr.Range) {
	w := &c.watch
	var left []claimed
	for _, x := range w.pending {
		for _, y := range addr.Subtract([]addr.Range{x.Range}, []addr.Range{r}) {
			left = append(left, claimed{x.from, y})
		}
	}
	w.pending, c.dirty.state = left, true
	c.updateUsable()
}

// settlePending makes what is pending ours, if a majority agrees, and the dead are still away.
func (c *core) settlePending(now time.Time) {
	w := &c.watch
	if len(w.pending) == 0 || w.majority.IsZero() || !c.trusted() {
		return
	}
	for _, x := range w.pending {
		d := c.delay(x.from)
		since, away := w.absent[x.from]
		if d == 0 || !away || c.known(x.from) || now.Sub(since) < d || now.Sub(w.majority) < d {
			return
		}
	}
	if !c.majority(func(p peer.Name) bool { _, ok := w.agreed[p]; return ok || p == c.me }) {
		return
	}
	for _, x := range w.pending {
		c.log.Info("took over the address space of a dead peer", "peer", c.name(x.from), "range", prefixString(x.Range))
	}
	c.dropPending(c.universe)
	c.forgetNicknames()
	c.out.broadcast = true
	c.retry(now)
}

// heardRing follows a ring that a peer itself has sent.
func (c *core) heardRing(from peer.Name, r *ring.Ring, now time.Time) {
	w := &c.watch
	if w.after <= 0 || c.released {
		return
	}
	delete(w.absent, from)
	if w.fenced {
		w.heard[from] = struct{}{}
	}
	if w.inquiry != nil {
		delete(w.inquiry.missing, from)
		c.reclaimDead(now)
	}
	c.keepPending()
	if len(w.pending) == 0 {
		return
	}
	c.yieldToOthers(r)
	owned := r.Owned(c.me)
	for _, x := range w.pending {
		if len(addr.Subtract([]addr.Range{x.Range}, owned)) > 0 {
			return
		}
	}
	w.agreed[from] = struct{}{}
	c.settlePending(now)
}

// yieldToOthers gives up what is pending where another has taken it over as well, as an operator may have ordered.
func (c *core) yieldToOthers(r *ring.Ring) {
	for _, p := range r.Pieces() {
		for _, x := range c.watch.pending {
			both := claimed{x.from, x.Intersect(p.Range)}
			if p.Peer == c.me || p.Peer == x.from || both.Empty() {
				continue
			}
			if ours, _ := c.ring.Token(both.Start); p.Version >= ours.Version {
				c.yield(both, p.Peer)
			}
		}
	}
}

// keepPending drops of what is pending what the ring says is not ours any more.
func (c *core) keepPending() {
	w := &c.watch
	if len(w.pending) == 0 {
		return
	}
	owned := c.ring.Owned(c.me)
	for _, x := range w.pending {
		for _, lost := range addr.Subtract([]addr.Range{x.Range}, owned) {
			c.dropPending(lost)
		}
	}
}

// isPending reports whether some of r is pending.
func (c *core) isPending(r addr.Range) bool {
	for _, x := range c.watch.pending {
		if x.Overlaps(r) {
			return true
		}
	}
	return false
}

// pendingRanges lists what is pending, ascending.
func (c *core) pendingRanges() []addr.Range {
	var out []addr.Range
	for _, x := range c.watch.pending {
		out = append(out, x.Range)
	}
	return joined(out)
}

// fence begins the time after a long absence in which we do not rely on what we had.
func (c *core) fence() {
	c.watch.fenced, c.watch.heard = true, make(map[peer.Name]struct{})
	c.log.Warn("was away for long, and does not rely on the stored ring until a majority of the address space has confirmed it",
		"last_contact", c.watch.contact)
}

// liftFence ends that time.
func (c *core) liftFence(now time.Time) {
	w := &c.watch
	if !w.fenced || w.majority.IsZero() || now.Sub(w.majority) < suspicion {
		return
	}
	if !c.majority(func(p peer.Name) bool { _, ok := w.heard[p]; return ok || p == c.me }) {
		for _, m := range c.members.names() {
			if _, ok := w.heard[m]; !ok && m != c.me {
				c.out.surveys = append(c.out.surveys, m)
			}
		}
		return
	}
	w.fenced, w.heard = false, nil
	c.log.Info("a majority of the address space has confirmed the ring")
	c.updateUsable()
	c.retry(now)
}

// doubt claims again what we had given out before a long absence.
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
	if len(c.watch.lost) < maxLost {
		c.watch.lost = append(c.watch.lost, Holding{w.owner, w.addr})
	}
}

// noteDelays keeps after what time others count a peer as dead. What a peer tells of itself counts more than what others
// tell of it.
func (c *core) noteDelays(s state) {
	w := &c.watch
	next, changed := w.delays, false
	set := func(p peer.Name, d time.Duration) {
		if !changed {
			next, changed = maps.Clone(w.delays), true
			if next == nil {
				next = make(map[peer.Name]time.Duration)
			}
		}
		if next[p] = d; d == 0 {
			delete(next, p)
		}
	}
	for p, d := range s.delays {
		if _, known := w.delays[p]; p != c.me && p != s.copyOf && !known && len(next) < maxJoiners {
			set(p, d)
		}
	}
	if p := s.copyOf; p != 0 && p != c.me && s.delays[p] != w.delays[p] {
		set(p, s.delays[p])
	}
	if changed {
		w.delays = next
		w.told++
	}
}

// tellDelays returns the delays that we know, and ours.
func (c *core) tellDelays() map[peer.Name]time.Duration {
	w := &c.watch
	if w.after <= 0 {
		return nil
	}
	out := maps.Clone(w.delays)
	if out == nil {
		out = make(map[peer.Name]time.Duration, 1)
	}
	out[c.me] = w.after
	return out
}

// forgetDelays drops those of peers that are neither in the mesh nor have space.
func (c *core) forgetDelays(owners []peer.Name) {
	w := &c.watch
	if !c.hasRing() {
		return // who votes now may own space soon
	}
	var gone []peer.Name
	for p := range w.delays {
		_, owns := slices.BinarySearch(owners, p)
		if !owns && !c.members.reachable(p) && !slices.ContainsFunc(w.pending, func(x claimed) bool { return x.from == p }) {
			gone = append(gone, p)
		}
	}
	if len(gone) == 0 {
		return
	}
	w.delays = maps.Clone(w.delays)
	for _, p := range gone {
		delete(w.delays, p)
	}
	w.told++
}

package ipam

import (
	"fmt"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// Here is what the survivors do about a dead peer; presence.go is who counts as dead, and fence.go what a peer does that was
// taken for dead. The package comment has the argument why this is safe.
//
// The owner with the lowest name in reach acts. It gathers the rings of everybody in reach, so that what the dead gave away
// is known; then it proposes in its state to take over the dead. A peer agrees in its own state, if it has missed them as
// long; that is stored before it is told, and a lock: it agrees to nobody else's proposal about the same dead, and confirms
// nothing to a dead peer that returns, until the proposer has said in a later round what came of it. With a majority
// agreed, the proposer takes over the tokens of the dead, and puts them into a new epoch, which voids what they did unheard.
// If one of the dead returns before, it proposes no more.
//
// A proposer that vanishes leaves locks behind. They last until it says more, or is dead itself, and taken over by somebody
// who takes over the rest with it, in a later epoch than it may have reached unheard.

// askAgain is the time between two requests to agree.
const askAgain = 30 * time.Second

// maxLocks bounds the locks that are kept.
const maxLocks = 1 << 12

// reclaim is our part in taking over the dead.
type reclaim struct {
	inquiry  *inquiry
	proposal                        // ours
	agreed   map[peer.Name]struct{} // to it
	askAt    time.Time              // when to ask again those who have not
	locks    map[peer.Name]proposal // what we have agreed to, by proposer
}

// proposal is to take over peers.
type proposal struct {
	round  uint64      // rises with each of a proposer, over restarts too
	epochs uint64      // by how many their tokens are to be raised
	dying  []peer.Name // ascending; none: nothing is proposed
}

// overlaps reports whether both are about the same peer.
func (x proposal) overlaps(y proposal) bool {
	return slices.ContainsFunc(x.dying, func(p peer.Name) bool { return slices.Contains(y.dying, p) })
}

// equal reports whether both are the same.
func (x proposal) equal(y proposal) bool {
	return x.round == y.round && x.epochs == y.epochs && slices.Equal(x.dying, y.dying)
}

// maxEpochs bounds proposal.epochs to what a version can hold.
const maxEpochs = ring.MaxEpoch

// inquiry gathers rings before dead peers are taken over.
type inquiry struct {
	missing map[peer.Name]struct{}
	until   time.Time
	late    []peer.Name // who did not answer the one before in time
}

// dead lists the owners to take over now; none if it is not on us.
func (c *core) dead(now time.Time) []peer.Name {
	w := &c.watch
	d := c.delay()
	if d == 0 || w.majority.IsZero() || now.Sub(w.majority) < d || !c.mayJudge() || len(c.ring.Owned(c.me)) == 0 {
		return nil
	}
	var out []peer.Name
	for _, p := range c.ring.Owners() {
		since, away := w.absent[p]
		switch {
		case p < c.me && (!away || now.Sub(since) < w.settle):
			return nil
		case away && now.Sub(since) >= d && !c.known(p) && c.ring.CanReclaim(p):
			out = append(out, p)
		}
	}
	out = out[:min(len(out), maxDying)]
	if c.bound(c.me, proposal{dying: out, epochs: maxEpochs}) {
		return nil
	}
	return out
}

// reclaimOff tells what stands against taking over the dead; it is empty if nothing does.
func (c *core) reclaimOff(now time.Time) string {
	w := &c.watch
	switch h := c.hindered(againstJudging); {
	case w.after <= 0:
		return "turned off here"
	case h != 0:
		return h.String()
	case w.majority.IsZero():
		return "no majority of the address space is in reach"
	}
	if p, found := c.aloofOne(); found {
		return fmt.Sprintf("%s takes no part: it has no allocator, or one of Weave Net, or was told not to", c.name(p))
	}
	if x := c.reclaim.inquiry; x != nil && len(x.late) > 0 {
		return fmt.Sprintf("%s, asked for its ring before the dead are taken over, does not answer", c.name(x.late[0]))
	}
	owners := c.ring.Owners()
	first := slices.IndexFunc(owners, c.known) // the one to act
	for _, p := range owners {
		since, away := w.absent[p]
		switch due := since.Add(c.delay()); {
		case !away || now.Before(due):
		case !c.ring.CanReclaim(p):
			return fmt.Sprintf("what is %s's was taken over too often - use 'rmpeer'", c.name(p))
		case first >= 0 && owners[first] != c.me && now.Sub(due) > 2*w.settle:
			return fmt.Sprintf("%s, which is to take over %s, does not: see there", c.name(owners[first]), c.name(p))
		}
	}
	return ""
}

// bound reports whether we have agreed to something that does not allow us to agree to x, which is q's. A proposer that is to
// be taken over as well does not count, if x raises tokens by more than it may have done unheard.
func (c *core) bound(q peer.Name, x proposal) bool {
	for other, y := range c.reclaim.locks {
		if other != q && y.overlaps(x) && (!slices.Contains(x.dying, other) || y.epochs >= x.epochs) {
			return true
		}
	}
	return false
}

// pursueDead gathers rings when there are dead, proposes to take them over when all have answered, and goes on asking for
// agreement.
func (c *core) pursueDead(now time.Time) {
	x := &c.reclaim
	dead := c.dead(now)
	if len(x.dying) > 0 && slices.ContainsFunc(x.dying, func(p peer.Name) bool { return !slices.Contains(dead, p) }) {
		c.log.Info("not taking over dead peers any more, since one is back or it is not on us", "peers", c.names(x.dying))
		c.propose(nil, now)
	}
	switch {
	case len(x.dying) > 0:
		if !now.Before(x.askAt) {
			x.askAt = now.Add(askAgain)
			c.askToAgree()
		}
	case len(dead) == 0:
		x.inquiry = nil
	case x.inquiry == nil || !now.Before(x.inquiry.until):
		c.inquire(now)
		c.askMissing()
	default:
		c.askMissing()
	}
	c.proposeDead(now)
}

// inquire begins an inquiry, after one that took too long or none.
func (c *core) inquire(now time.Time) {
	next := &inquiry{missing: make(map[peer.Name]struct{}), until: now.Add(c.watch.settle)}
	if last := c.reclaim.inquiry; last != nil {
		if next.late = named(last.missing); len(last.late) == 0 {
			c.log.Warn("dead peers cannot be taken over, since some do not tell their rings", "peers", c.names(next.late))
		}
	}
	for _, m := range c.members.names() {
		if m != c.me {
			next.missing[m] = struct{}{}
		}
	}
	c.reclaim.inquiry = next
}

// askMissing asks for the rings that have not come.
func (c *core) askMissing() {
	x := &c.reclaim
	for _, m := range named(x.inquiry.missing) {
		if c.known(m) {
			c.out.survey(m)
		} else {
			delete(x.inquiry.missing, m)
		}
	}
}

// proposeDead begins a proposal when everybody has answered.
func (c *core) proposeDead(now time.Time) {
	x := &c.reclaim
	if x.inquiry == nil || len(x.inquiry.missing) > 0 {
		return
	}
	x.inquiry = nil
	dead := c.dead(now)
	if len(dead) == 0 {
		return
	}
	c.log.Info("taking over the address space of dead peers, if the others agree", "peers", c.names(dead))
	c.propose(dead, now)
	x.askAt = now.Add(askAgain)
	c.askToAgree()
	c.takeOverDead(now)
}

// propose tells others of a new round. Nobody dying means that we propose nothing.
func (c *core) propose(dying []peer.Name, now time.Time) {
	c.reclaim.nextRound(dying, now)
	c.outbid(c.reclaim.locks)
	c.tell()
	c.out.broadcast = true
}

func (x *reclaim) nextRound(dying []peer.Name, now time.Time) {
	x.dying, x.agreed, x.epochs = dying, make(map[peer.Name]struct{}), 1
	x.round = max(x.round+1, uint64(max(now.Unix(), 0)))
}

// outbid raises our proposal above what others have agreed to about the same peers, and reports whether that was needed.
func (c *core) outbid(locks map[peer.Name]proposal) (raised bool) {
	x := &c.reclaim
	for q, y := range locks {
		if q != c.me && y.overlaps(x.proposal) && y.epochs >= x.epochs && x.epochs < maxEpochs {
			x.epochs, raised = min(y.epochs, maxEpochs-1)+1, true
		}
	}
	return raised
}

func (c *core) askToAgree() {
	for _, m := range c.members.names() {
		if _, ok := c.reclaim.agreed[m]; !ok && m != c.me {
			c.out.update(m)
			c.out.survey(m)
		}
	}
}

// takeOverDead ends a proposal to which a majority has agreed.
func (c *core) takeOverDead(now time.Time) {
	x := &c.reclaim
	if len(x.dying) == 0 {
		return
	}
	dead := c.dead(now)
	if slices.ContainsFunc(x.dying, func(p peer.Name) bool { return !slices.Contains(dead, p) }) {
		return // one is back
	}
	if !c.rules.agreed(c) {
		return
	}
	for _, p := range x.dying {
		won := c.winDisputes(p, func(v uint32) uint32 { return ring.Later(v, x.epochs) })
		next, moved := c.rules.reclaim(c.ring, p, c.me, x.epochs)
		c.changeRing(next)
		c.log.Info("took over the address space of a dead peer", "peer", c.name(p), "ranges", len(moved), "disputes", won,
			"absent", now.Sub(c.watch.absent[p]).String())
	}
	c.propose(nil, now)
	c.forgetNicknames()
	c.yieldToUsers(now)
	c.retry(now)
}

// carried reports whether a majority has agreed to our proposal.
func (c *core) carried() bool {
	return c.majority(func(p peer.Name) bool { _, ok := c.reclaim.agreed[p]; return ok || p == c.me })
}

// heardRing follows a state with a ring. fresh says that it is an answer, or spread by its peer, and not just gossip.
func (c *core) heardRing(s state, fresh bool, now time.Time) {
	w, x := &c.watch, &c.reclaim
	if w.after <= 0 || c.standing.has(released) || s.copyOf == 0 || s.copyOf == c.me {
		return
	}
	c.considerProposal(s, now)
	if fresh {
		c.confirmed(s, now)
		if x.inquiry != nil {
			delete(x.inquiry.missing, s.copyOf)
			c.proposeDead(now)
		}
	}
	if c.outbid(s.locks) {
		epochs := x.epochs
		x.nextRound(x.dying, now)
		x.epochs = epochs
		c.tell()
		c.askToAgree()
	}
	if given, ok := s.locks[c.me]; ok && len(x.dying) > 0 && given.equal(x.proposal) {
		x.agreed[s.copyOf] = struct{}{}
		c.takeOverDead(now)
	}
}

// considerProposal agrees to what the sender of s proposes, or ends what we have agreed to before, or does nothing.
func (c *core) considerProposal(s state, now time.Time) {
	x := &c.reclaim
	old, locked := x.locks[s.copyOf]
	if locked && s.round <= old.round {
		return
	}
	if locked {
		delete(x.locks, s.copyOf)
		c.tell()
	}
	if len(s.dying) == 0 || !c.misses(s.dying, now) || !c.mayJudge() || len(x.locks) >= maxLocks || c.bound(s.copyOf, s.proposal) {
		return
	}
	if x.locks == nil {
		x.locks = make(map[peer.Name]proposal)
	}
	x.locks[s.copyOf] = s.proposal
	c.tell()
	c.out.update(s.copyOf)
}

// misses reports whether all of list have been out of our reach for the whole delay. So none of them has been in a majority
// with us since; half of the delay is left for how long it takes to notice that a peer is away.
func (c *core) misses(list []peer.Name, now time.Time) bool {
	w, d := &c.watch, c.delay()
	return d > 0 && !slices.ContainsFunc(list, func(p peer.Name) bool {
		since, away := w.absent[p]
		return !away || c.known(p) || now.Sub(since) < d
	})
}

// condemned reports whether p is to be taken over, as we have agreed. It is not helped to a majority by what we have.
func (c *core) condemned(p peer.Name) bool {
	return lockedIn(state{proposal: c.reclaim.proposal, locks: c.reclaim.locks}, p)
}

// dropLocks ends those of proposers that have nothing any more, and are away: they were taken over themselves.
func (c *core) dropLocks() {
	x := &c.reclaim
	owners := c.ring.Owners()
	for q := range x.locks {
		if _, owns := slices.BinarySearch(owners, q); !owns && !c.known(q) {
			delete(x.locks, q)
			c.tell()
		}
	}
}

// lockedIn reports whether the sender of s proposes, or has agreed, that p is taken over.
func lockedIn(s state, p peer.Name) bool {
	if slices.Contains(s.dying, p) {
		return true
	}
	for _, x := range s.locks {
		if slices.Contains(x.dying, p) {
			return true
		}
	}
	return false
}

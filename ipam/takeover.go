package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// surveyFor is how long a takeover waits for the rings of others.
const surveyFor = 3 * time.Second

// survey gathers fresh rings before a takeover, so that we know what the peer gave away before it went.
type survey struct {
	missing map[peer.Name]struct{} // who has not answered
	silent  map[peer.Name]struct{} // who never will
	until   time.Time
	done    chan struct{} // closed when nobody is missing, or until has passed
}

// beginSurvey asks others for their rings, or joins the survey that is under way.
func (c *core) beginSurvey(others []peer.Name, now time.Time) <-chan struct{} {
	if c.survey != nil {
		return c.survey.done
	}
	s := &survey{
		missing: make(map[peer.Name]struct{}), silent: make(map[peer.Name]struct{}),
		until: now.Add(surveyFor), done: make(chan struct{}),
	}
	for _, p := range others {
		s.missing[p] = struct{}{}
	}
	c.survey = s
	for _, p := range others {
		c.out.survey(p)
	}
	c.checkSurvey(now)
	return s.done
}

// surveyed notes that p has sent its ring.
func (c *core) surveyed(p peer.Name, now time.Time) {
	if c.survey != nil {
		delete(c.survey.missing, p)
		c.checkSurvey(now)
	}
}

// unanswered notes that p cannot be asked for its ring, or has gone.
func (c *core) unanswered(p peer.Name, now time.Time) {
	if s := c.survey; s != nil {
		if _, missing := s.missing[p]; missing {
			s.silent[p] = struct{}{}
		}
		c.surveyed(p, now)
	}
}

func (c *core) checkSurvey(now time.Time) {
	s := c.survey
	if s == nil || len(s.missing) > 0 && now.Before(s.until) {
		return
	}
	maps.Copy(s.silent, s.missing)
	if len(s.silent) > 0 {
		c.log.Warn("some peers have not told their rings before a takeover: what the one that is gone gave them may not be known here",
			"peers", c.names(named(s.silent)))
	}
	close(s.done)
	c.survey = nil
}

// takeOver makes us the owner of all that from has, and returns how many addresses became free.
func (c *core) takeOver(from peer.Name, now time.Time) (uint64, error) {
	if from == c.me || !c.hasRing() {
		return 0, nil
	}
	if c.standing.has(released) {
		return 0, fmt.Errorf("ipam: take over %s: %w", c.name(from), ErrReleased)
	}
	if c.members.reachable(from) {
		return 0, fmt.Errorf("ipam: take over %s: %w", c.name(from), ErrReachable)
	}
	before := c.free.Len()
	won := c.winDisputes(from, func(v uint32) uint32 { return max(v, v+ring.DisputeStep) }) // v if the latter wraps
	next, moved := c.ring.Transfer(from, c.me)
	if len(moved) == 0 && !won {
		return 0, nil
	}
	c.changeRing(next)
	n := c.free.Len().Sub(before).Uint64()
	c.forgetNicknames()
	c.out.broadcast = true
	c.log.Info("took over the address space of a peer", "peer", from, "addresses", n)
	c.yieldToUsers(now)
	c.retry(now)
	return n, nil
}

// winDisputes ends those with a peer that is gone: what it claims of ours is ours, at versions raised from its.
func (c *core) winDisputes(gone peer.Name, raised func(uint32) uint32) (won bool) {
	for _, d := range c.disputes {
		rival := d.conflict.Rival
		if rival.Peer != gone {
			continue
		}
		if next, err := c.ring.Assert(c.me, rival.At, raised(rival.Version)); err == nil {
			c.changeRing(next)
			won = true
		}
	}
	c.settleDisputes()
	return won
}

// release gives all we have to an heir, and forgets it. What waits is cancelled.
func (c *core) release(known []peer.Name) {
	if c.standing.has(released) {
		return
	}
	c.standing.hold(released)
	c.reclaim.dying = nil
	c.waiting.fail(fmt.Errorf("ipam: %w", ErrReleased))
	c.voting, c.elector = false, nil
	c.disputes, c.awaited = nil, nil
	c.dirty.state = true
	if heir := c.heir(known); heir != 0 {
		c.bequeath(heir)
	}
	for _, h := range slices.Concat(c.book.all(), c.doubts.all()) {
		c.touch(h.Addr.Addr())
	}
	c.book, c.doubts = book{}, book{}
	c.taken.Remove(c.universe)
	c.updateUsable()
}

// bequeath gives all we have to heir, but for what was reclaimed, if heir knows nothing of that: see donation.
func (c *core) bequeath(heir peer.Name) {
	give := c.ring.Transfer
	if !c.countsEpochs(heir) {
		give = c.ring.TransferUnreclaimed
	}
	next, moved := give(c.me, heir)
	c.changeRing(next)
	c.out.broadcast = true
	c.out.update(heir)
	if len(moved) > 0 {
		c.log.Info("gave our address space to a peer", "peer", c.name(heir))
	}
	if rest := c.ring.Owned(c.me); len(rest) > 0 {
		c.log.Warn("the heir runs Weave Net and cannot hold space that was taken over from dead peers: another peer has to take over the rest from us",
			"ranges", len(rest))
	}
}

// heir chooses who gets our space (section 1.8): of the known peers, first in token order, then any; then the unknown. If some
// of it was reclaimed, those of them who count epochs come first.
func (c *core) heir(known []peer.Name) peer.Name {
	var list []peer.Name
	for _, t := range c.ring.Tokens {
		list = append(list, t.Peer)
	}
	list = append(list, slices.Sorted(maps.Keys(c.nicknames))...)
	list = slices.DeleteFunc(list, func(p peer.Name) bool { return p == c.me })
	if len(list) == 0 {
		return 0
	}
	mine := slices.ContainsFunc(c.ring.Tokens, func(t ring.Token) bool { return t.Peer == c.me && t.Reclaimed() })
	return slices.MinFunc(list, func(p, q peer.Name) int { // the first of the best
		return cmp.Or(first(slices.Contains(known, p), slices.Contains(known, q)), first(mine && c.countsEpochs(p), mine && c.countsEpochs(q)))
	})
}

// first orders what holds before what does not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// find returns the peer that text names, by nickname first and then by its name; ok is false if we know none.
func (c *core) find(text string) (name peer.Name, ok bool, err error) {
	var found []peer.Name
	for n, nick := range c.nicknames {
		if nick == text {
			found = append(found, n)
		}
	}
	if len(found) > 1 {
		slices.Sort(found)
		return 0, false, fmt.Errorf("ipam: %w %q: %v; use the peer's name", ErrAmbiguous, text, found)
	}
	if len(found) == 1 {
		return found[0], true, nil
	}
	if n, err := peer.Parse(text); err == nil {
		return n, slices.Contains(c.ring.Owners(), n) || c.isRival(n), nil
	}
	return 0, false, nil
}

// isRival reports whether p claims what is ours, so that it may be taken over even if it owns nothing by our ring.
func (c *core) isRival(p peer.Name) bool {
	for _, d := range c.disputes {
		if d.conflict.Rival.Peer == p {
			return true
		}
	}
	return false
}

// adopt claims what was found in use at start.
func (c *core) adopt(list []Holding) {
	for _, h := range list {
		if h.Addr.Addr().Unmap().Is4() != c.is4() {
			continue
		}
		w := newWaiter(h.Owner)
		w.addr, w.adopted = netip.PrefixFrom(h.Addr.Addr().Unmap(), h.Addr.Bits()), true
		if c.tryClaim(w); !w.answered {
			c.waiting.claims = append(c.waiting.claims, w)
		} else if w.err != nil {
			c.log.Warn("address found in use here is another's", "owner", h.Owner, "err", w.err)
		}
	}
}

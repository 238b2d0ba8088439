package ipam

import (
	"fmt"
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
	until   time.Time
	done    chan struct{} // closed when all have, or until has passed
}

// beginSurvey asks others for their rings, or joins the survey that is under way.
func (c *core) beginSurvey(others []peer.Name, now time.Time) <-chan struct{} {
	if c.survey != nil {
		return c.survey.done
	}
	s := &survey{missing: make(map[peer.Name]struct{}), until: now.Add(surveyFor), done: make(chan struct{})}
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

func (c *core) checkSurvey(now time.Time) {
	if s := c.survey; s != nil && (len(s.missing) == 0 || !now.Before(s.until)) {
		close(s.done)
		c.survey = nil
	}
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
	c.disputes = nil
	c.dirty.state = true
	if heir := c.heir(known); heir != 0 {
		next, _ := c.ring.Transfer(c.me, heir)
		c.changeRing(next)
		c.out.broadcast = true
		c.out.update(heir)
		c.log.Info("gave our address space to a peer", "peer", c.name(heir))
	}
	for _, h := range slices.Concat(c.book.all(), c.doubts.all()) {
		c.touch(h.Addr.Addr())
	}
	c.book, c.doubts = book{}, book{}
	c.taken.Remove(c.universe)
	c.updateUsable()
}

// heir chooses who gets our space (section 1.8): of the known peers, first in token order, then any; then the unknown.
func (c *core) heir(known []peer.Name) peer.Name {
	var owners []peer.Name
	for _, t := range c.ring.Tokens {
		if t.Peer != c.me {
			owners = append(owners, t.Peer)
		}
	}
	var named []peer.Name
	for n := range c.nicknames {
		if n != c.me {
			named = append(named, n)
		}
	}
	slices.Sort(named)
	for _, list := range [][]peer.Name{owners, named} {
		for _, n := range list {
			if slices.Contains(known, n) {
				return n
			}
		}
	}
	for _, list := range [][]peer.Name{owners, named} {
		if len(list) > 0 {
			return list[0]
		}
	}
	return 0
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
		return n, c.ring.Owners() != nil && slices.Contains(c.ring.Owners(), n), nil
	}
	return 0, false, nil
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

package ipam

import (
	"fmt"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// rules are what safety rests on, each apart from the others: tests put weaker ones in their place, to show what each is
// good for.
type rules struct {
	quorum  func(*core) int        // of a vote of which the size is not configured
	fence   func(*core, time.Time) // what a peer does that was away for long
	agreed  func(*core) bool       // whether our proposal is carried
	reclaim func(r *ring.Ring, from, to peer.Name, epochs uint64) (*ring.Ring, []addr.Range)
}

// newCore makes the machine from what is configured and stored.
func newCore(c Config, m members) (*core, error) {
	self := c.Bus.Self()
	k := &core{
		me:        self.Name,
		prefix:    c.Universe,
		universe:  addr.FromPrefix(c.Universe),
		subnet:    c.DefaultSubnet,
		birth:     c.Birth,
		targets:   c.Targets,
		members:   m,
		rand:      c.Rand,
		log:       c.Log,
		volatile:  c.Store == nil,
		nicknames: map[peer.Name]string{self.Name: self.Nickname},
		faults:    make(map[peer.Name]fault),
		joiners:   make(map[peer.Name]struct{}),
	}
	k.ring = ring.New(k.universe)
	k.rules = rules{quorum: (*core).openQuorum, fence: (*core).fence, agreed: (*core).carried, reclaim: (*ring.Ring).Reclaim}
	k.watch = newWatch(c.ReclaimAfter)
	if c.Birth.mode == byConsensus {
		k.elector = paxos.New(paxos.Voter{Name: self.Name, UID: self.UID})
	}
	if c.Store == nil {
		return k, nil
	}
	saved, err := c.Store.Load()
	if err != nil {
		return nil, err
	}
	return k, k.load(saved, c.Now())
}

// load takes over what was stored, if it is ours.
func (c *core) load(saved Saved, now time.Time) error {
	s := savedState{peer: c.me, universe: c.prefix} // of a store that has none: it is new, or has claims from outside the range only
	if saved.State != nil {
		var err error
		if s, err = decodeSaved(saved.State); err != nil {
			return fmt.Errorf("ipam: %w", err)
		}
	}
	if s.peer != c.me || s.universe != c.prefix {
		c.log.Warn("stored addresses belong to another peer name or range, and are dropped",
			"stored_peer", s.peer, "peer", c.me, "stored_range", s.universe, "range", c.prefix,
			"addresses", len(saved.Holdings))
		c.dirty.reset = true
		return nil
	}
	if s.ring != nil {
		c.ring, c.elector = s.ring, nil
		c.standing.hold(suspect) // until Run begins, at least
		c.watch.contact, c.watch.delays, c.watch.lost = s.contact, s.delays, s.lost
		c.reclaim.round, c.reclaim.locks = s.round, s.locks
		c.disputes = s.disputes
		for _, d := range c.disputes {
			d.seen = now
		}
		c.updateUsable()
		switch away := c.wasAway(now); {
		case away && s.lapsed:
			c.standing.hold(lapsed)
		case away:
			c.rules.fence(c, now)
		}
	} else if c.elector != nil && s.claims != nil {
		c.elector, c.resumed = paxos.Resume(s.voter, s.claims), true
	}
	for _, h := range saved.Holdings {
		if _, twice := c.book.owner(h.Addr.Addr()); twice {
			return fmt.Errorf("ipam: %w: address %v twice", ErrCorrupt, h.Addr)
		}
		inside := c.universe.Contains(addr.FromNetip(h.Addr.Addr()))
		if inside && (c.standing.has(fenced) || slices.Contains(s.doubts, h.Addr.Addr())) {
			c.doubts.put(h.Owner, h.Addr)
			c.free.Remove(addr.Single(addr.FromNetip(h.Addr.Addr())))
			continue
		}
		c.enter(h.Owner, h.Addr) // the ring stays as it is stored: it is published before the next commit
	}
	if !saved.Rewrite {
		c.dirty = dirty{}
	}
	c.dirty.state = saved.State == nil || saved.Rewrite // a store has a state from the first commit on
	return nil
}

// birthBySeed makes the ring, if that is how it comes about, and there is none.
func (c *core) birthBySeed(now time.Time) {
	if c.birth.mode == bySeed && !c.hasRing() {
		c.born(ring.Divide(c.universe, c.birth.seeds), true, now)
		c.out.broadcast = true
	}
}

// start begins the time in which a loaded ring is not trusted: if it was shared with others, they may have taken over
// what is ours.
func (c *core) start(now time.Time) {
	switch {
	case !c.standing.has(suspect):
	case c.alone():
		c.standing.lift(suspect)
	default:
		c.standing.holdUntil(suspect, now.Add(suspicion))
	}
	c.watch.alone = now
	if c.watch.after > 0 {
		c.reclaim.nextRound(nil, now) // whatever we had proposed before: who has agreed to it waits to hear this
		c.tell()
	}
	if c.watch.contact.IsZero() {
		c.watch.contact = now.Round(0) // what we get from now on, nobody has taken from us before
	}
	c.retry(now)
}

// tick is called every few seconds.
func (c *core) tick(now time.Time) {
	if c.standing.expire(now)&twin != 0 {
		c.log.Info("no more sign of another peer with our name")
	}
	if c.voting {
		c.pursue(now)
	}
	c.observe(now)
	c.pursueChange(now)
	c.retry(now)
	c.pursueWants(now)
	c.report(false)
	c.checkSurvey(now)
}

// receive follows a state from another peer. from is 0 if the sender is not known.
func (c *core) receive(from peer.Name, s state, now time.Time) error {
	c.hearNicknames(s.nicknames)
	c.noteJoiner(s)
	c.noteDelays(s)
	if from != 0 {
		delete(c.watch.absent, from) // it may have seen us, and rest on what we told it
		delete(c.waiting.asked, from)
		if s.ring == nil || from == s.copyOf { // a broadcast comes with the ring of who has passed it on
			defer c.surveyed(from, now)
		}
	}
	ringBefore, relied := c.ring, c.mayRely()
	var err error
	if s.ring != nil {
		c.inheritContact(s, now)
		if c.standing.has(lapsed) {
			c.noteContact(now.Round(0)) // if we meet a majority, it is not to be refused anything
		}
		if err = c.mergeRing(from, s, now); err == nil {
			c.heardRing(s, from == s.copyOf, now.Round(0))
		}
	} else {
		c.hear(from, s, now)
	}
	c.pursueChange(now) // somebody may have told that it changes over, too
	if c.ring != ringBefore || c.mayRely() != relied {
		c.retry(now)
		c.pursueWants(now)
	}
	return err
}

// retryAllocs follows a release of addresses: somebody may wait for one.
func (c *core) retryAllocs(now time.Time) {
	if len(c.waiting.allocs) > 0 {
		c.retry(now)
	}
}

// takeOut empties the outbox.
func (c *core) takeOut() outbox {
	out := c.out
	c.out = outbox{}
	return out
}

// end fails all who wait.
func (c *core) end() {
	c.waiting.fail(ErrClosed)
	if c.survey != nil {
		close(c.survey.done)
		c.survey = nil
	}
}

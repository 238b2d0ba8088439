package ipam

import (
	"math"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// DefaultReclaimAfter is the delay of a zero [Config.ReclaimAfter]. The package comment says why.
const DefaultReclaimAfter = 24 * time.Hour

// minReclaim is the least Config.ReclaimAfter that is not off.
const minReclaim = time.Minute

// maxSettle bounds the time in which rings are sure to have spread among those who reach each other.
const maxSettle = 10 * time.Minute

// longPause is a time between two ticks after which we must have slept, and know nothing of the meantime.
const longPause = 4 * tick

// watch is what a peer knows of the absence of others, and of its own. Its clock is the wall's, which runs on while the
// machine sleeps.
type watch struct {
	after  time.Duration               // our delay; 0: nothing is reclaimed, and nobody reclaims from us
	settle time.Duration               // an eighth of it, at most maxSettle
	delays map[peer.Name]time.Duration // what owners and members have told; who is not in it knows nothing of this
	told   uint64                      // counts changes of what others hear of this
	last   time.Time                   // the last tick

	absent   map[peer.Name]time.Time // owners out of reach, since when
	majority time.Time               // since when one is in reach; zero: none is
	steady   bool                    // one is for at least settle: it has our ring, and we have its
	contact  time.Time               // when one last was, for long enough; stored
	stored   time.Time               // contact, as it is in the store

	heard map[peer.Name]time.Time // who has confirmed the ring while we are fenced, and when last
	alone time.Time               // while we are fenced: since when no majority is in reach
	lost  []Holding               // in doubt after a return, and not ours any more; stored
}

func newWatch(after time.Duration) watch {
	return watch{after: after, settle: min(after/8, maxSettle)}
}

// observe is called at every tick: it notes who is away, and does what follows from it.
func (c *core) observe(now time.Time) {
	w := &c.watch
	now = now.Round(0)
	if !c.hasRing() && (c.elector == nil || !c.elector.TakesPart()) {
		w.contact = now // what the first ring will give us, nobody has taken over before
	}
	if w.after <= 0 || !c.hasRing() || c.standing.has(released) {
		return
	}
	c.noteAbsence(now)
	c.noteContact(now)
	c.pursueFence(now)
	c.dropLocks()
	c.pursueDead(now)
}

func (c *core) noteAbsence(now time.Time) {
	w := &c.watch
	if w.absent == nil || now.Sub(w.last) > longPause || now.Before(w.last) {
		w.absent, w.majority, w.alone = make(map[peer.Name]time.Time), time.Time{}, now
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
	w.absent = away
}

// majority reports whether the peers for which in holds own more than half of the range, or half with the first address.
func (c *core) majority(in func(peer.Name) bool) bool {
	sum, first := c.weigh(in)
	rest := c.universe.Size().Sub(sum)
	return rest.Less(sum) || rest == sum && first
}

// weigh returns how much of the range the peers own for which in holds, and whether they own the first address. What is in
// dispute counts as nobody's: we may not be who has it.
func (c *core) weigh(in func(peer.Name) bool) (sum addr.Addr, first bool) {
	yes := map[peer.Name]bool{c.me: false}
	if in(c.me) {
		for _, r := range c.usable {
			sum = sum.Add(r.Size())
			first = first || r.Contains(c.universe.Start)
		}
	}
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
	return sum, first
}

// noteContact notes whether a majority is in reach, keeps in the store when it last was, now and then, and finds out whether
// that is too long ago.
func (c *core) noteContact(now time.Time) {
	w := &c.watch
	switch {
	case !c.majority(c.known):
		w.majority = time.Time{}
	case w.majority.IsZero():
		w.majority = now
	}
	steady := !w.majority.IsZero() && now.Sub(w.majority) >= w.settle
	switch {
	case w.contact.After(now): // the clock was set back
		w.contact = now
	case steady && c.mayJudge():
		w.contact = now
		if now.Sub(w.stored) >= c.lease()/4 || now.Before(w.stored) {
			w.stored, c.dirty.state = now, true
		}
	}
	if steady != w.steady {
		w.steady = steady
		c.tell()
	}
	switch was, is := c.standing.has(lapsed), now.Sub(w.contact) >= c.lease() && c.shared(); {
	case is && !was:
		c.standing.hold(lapsed)
		c.tell()
		c.log.Warn("cut off from most of the address space for long: others may take over what is ours", "last_contact", w.contact)
	case was && !is:
		c.standing.lift(lapsed)
		c.tell()
	}
	if c.standing.has(lapsed) && !c.standing.has(fenced) && !w.majority.IsZero() {
		c.rules.fence(c, now)
	}
}

// shared reports whether others may take over what we have: whether anybody else has ever owned space, and knows how.
func (c *core) shared() bool {
	return len(c.watch.delays) > 0 && !c.alone()
}

// inheritContact follows what another peer tells of its last contact with a majority. Outside of one, all who reach each
// other count from the oldest: so what passes from hand to hand there does not grow younger.
func (c *core) inheritContact(s state, now time.Time) {
	w := &c.watch
	if s.age == 0 || s.age > math.MaxInt32 {
		return
	}
	told := now.Round(0).Add(-time.Duration(s.age-1) * time.Second)
	if w.after <= 0 || c.standing.has(fenced) || w.steady || !told.Before(w.contact) {
		return
	}
	w.contact = told
	c.tell()
}

// tellContact returns what others are to inherit; zero if nothing.
func (c *core) tellContact() time.Time {
	w := &c.watch
	if w.after <= 0 || c.standing.has(fenced) || w.steady {
		return time.Time{}
	}
	return w.contact
}

// tell has others hear of a change of what we think of them and of ourselves.
func (c *core) tell() {
	c.watch.told++
	c.dirty.state = true // so that it is published
}

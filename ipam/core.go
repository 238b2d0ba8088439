package ipam

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/ipam/internal/space"
	"github.com/overweave/overweave/mesh/peer"
)

// members is what the allocator asks of the carrier.
type members interface {
	reachable(peer.Name) bool
	count() int         // everyone in the mesh, ourselves included
	names() []peer.Name // the same, ascending
}

// core is the allocator as a machine: it changes its state and notes what is to be stored and what to be sent. It has no
// lock, goroutine or clock; the Allocator owns it under its lock.
//
// Invariants: usable is what the ring gives us, less what is contested; free is usable less taken and less what is in doubt;
// taken is what the book records inside the universe.
type core struct {
	me       peer.Name
	prefix   netip.Prefix // the universe
	universe addr.Range
	subnet   netip.Prefix // default
	birth    Birth
	targets  func() int
	members  members
	rand     *rand.Rand
	log      *slog.Logger
	volatile bool // there is no store: addresses need not be noted as dirty

	ring      *ring.Ring // empty while there is none
	usable    []addr.Range
	free      space.Set
	taken     space.Set
	yielded   space.Set // of taken: what a rival uses as well, and so is not a reason to refuse its ring
	book      book
	doubts    book // what the book held before a long absence, and is not known to be ours any more; see fence.go
	nicknames map[peer.Name]string
	disputes  map[addr.Addr]*dispute // by our token
	faults    map[peer.Name]fault    // rings that could not be merged at all, by sender

	elector   *paxos.Elector // nil: never votes
	resumed   bool           // the vote goes on from an earlier life
	voting    bool
	voteTicks int                    // for how long
	joiners   map[peer.Name]struct{} // who changes over to a better ring, as we do
	awaited   *awaited               // a better ring, for which some of ours have not told yet whether they change over; nil: none is
	met       meetings

	rules    rules
	standing standing
	watch    watch
	reclaim  reclaim
	waiting  waiting
	asks     asks
	survey   *survey // a takeover that gathers fresh rings

	dirty dirty
	out   outbox
	worn  bool // it was said that versions are used up
}

// dirty is what the next commit must hold.
type dirty struct {
	reset bool
	state bool                  // ring or votes
	addrs map[netip.Addr]uint64 // with their place in the order of changes
	count uint64
}

func (d *dirty) any() bool { return d.reset || d.state || len(d.addrs) > 0 }

func (d *dirty) addr(a netip.Addr) {
	if d.addrs == nil {
		d.addrs = make(map[netip.Addr]uint64)
	}
	d.count++
	d.addrs[a] = d.count
}

// merge adds what an unsuccessful commit held.
func (d *dirty) merge(old dirty) {
	d.reset, d.state = d.reset || old.reset, d.state || old.state
	for a, n := range old.addrs {
		if _, again := d.addrs[a]; !again {
			d.addr(a)
			d.addrs[a] = n
		}
	}
}

// is4 reports whether the universe is one of IPv4.
func (c *core) is4() bool { return c.prefix.Addr().Is4() }

// hasRing reports whether the peers have a ring, as far as we know.
func (c *core) hasRing() bool { return !c.ring.Empty() }

// alone reports whether the ring is ours alone, and always was.
func (c *core) alone() bool { return lone(c.ring) && c.ring.Seeds[0] == c.me }

// changeRing makes next the ring and keeps the sets in step with it.
func (c *core) changeRing(next *ring.Ring) {
	if next == c.ring {
		return
	}
	c.ring, c.dirty.state = next, true
	c.updateUsable()
}

// updateUsable follows a change of the ring or of the disputes.
func (c *core) updateUsable() {
	next := addr.Subtract(c.ring.Owned(c.me), c.contested())
	gained, lost := addr.Subtract(next, c.usable), addr.Subtract(c.usable, next)
	c.usable = next
	for _, r := range lost {
		c.free.Remove(r)
	}
	for _, r := range gained {
		c.free.Add(r)
		c.yielded.Remove(r)
		c.taken.Each(r, func(t addr.Range) bool {
			c.free.Remove(t)
			return true
		})
	}
	for ip := range c.doubts.owners {
		c.free.Remove(addr.Single(addr.FromNetip(ip)))
	}
}

// isUsable reports whether a lies in a piece of ours that nobody contests.
func (c *core) isUsable(a addr.Addr) bool {
	i, found := slices.BinarySearchFunc(c.usable, a, func(r addr.Range, a addr.Addr) int { return r.Start.Compare(a) })
	return found || i > 0 && c.usable[i-1].Contains(a)
}

// record gives an address to an owner. Nobody has it.
func (c *core) record(owner string, p netip.Prefix) {
	before := c.taken.Empty()
	c.enter(owner, p)
	if before && !c.taken.Empty() {
		c.report(false) // whether anything is in use matters to others
	}
}

// enter is record without a word to others.
func (c *core) enter(owner string, p netip.Prefix) {
	a := addr.FromNetip(p.Addr())
	if c.universe.Contains(a) {
		c.free.Remove(addr.Single(a))
		c.taken.Add(addr.Single(a))
	}
	c.book.put(owner, p)
	c.touch(p.Addr())
}

// erase takes an address from its owner.
func (c *core) erase(owner string, ip netip.Addr) {
	c.book.remove(owner, ip)
	c.touch(ip)
	a := addr.FromNetip(ip)
	if !c.universe.Contains(a) {
		return
	}
	c.taken.Remove(addr.Single(a))
	c.yielded.Remove(addr.Single(a))
	if c.isUsable(a) {
		c.free.Add(addr.Single(a))
	}
}

// letGo takes from owner the addresses for which drop holds, in doubt or not, and reports whether there were any.
func (c *core) letGo(owner string, drop func(netip.Prefix) bool) (found bool) {
	for _, p := range slices.Clone(c.book.of(owner)) {
		if drop(p) {
			c.erase(owner, p.Addr())
			found = true
		}
	}
	for _, p := range slices.Clone(c.doubts.of(owner)) {
		if drop(p) {
			c.endDoubt(Holding{owner, p})
			found = true
		}
	}
	c.forgetLost(owner)
	return found
}

func (c *core) touch(ip netip.Addr) {
	if !c.volatile {
		c.dirty.addr(ip)
	}
}

// report tells the ring how much is free. Small differences are not worth a version and a write, unless exact.
func (c *core) report(exact bool) {
	if c.standing.has(fenced) {
		return // what is in use is not known
	}
	significant := worthTelling
	if exact {
		significant = nil
	}
	count := func(r addr.Range) uint64 {
		if t, ok := c.ring.Token(r.Start); ok && c.inDispute(r) {
			return t.Free // not ours to speak of
		}
		n := c.free.Count(r)
		if n.Uint64() == math.MaxUint64 && n != r.Size() {
			return math.MaxUint64 - 1 // only what is free as a whole is told to be
		}
		return n.Uint64()
	}
	c.changeRing(c.ring.Report(c.me, count, significant))
}

// worthTelling is the rule for what others hear unasked: that a piece began or ceased to be empty or full, and steps of a
// sixteenth of it.
func worthTelling(t ring.Token, size, free uint64) bool {
	if (t.Free == 0) != (free == 0) || (t.Free == size) != (free == size) {
		return true
	}
	diff := max(t.Free, free) - min(t.Free, free)
	return diff > size/16
}

// born makes r, on which the peers have agreed or which was heard of, the first ring. fresh says that it cannot have been there
// for long.
func (c *core) born(r *ring.Ring, fresh bool, now time.Time) {
	c.changeRing(r)
	c.ringHeard()
	c.log.Info("address ring is there", "range", c.prefix, "seeds", r.Seeds, "tokens", len(r.Tokens))
	own := c.ring.Owned(c.me)
	switch {
	case len(own) == 0 || c.alone():
		return
	case fresh:
		if c.wasAway(now.Round(0)) { // the vote took long
			c.rules.fence(c, now.Round(0))
		}
		return
	}
	c.log.Warn("the ring has space of ours from an earlier life, of which nothing is stored: addresses in use on this machine "+
		"are known only if they were adopted", "ranges", len(own))
	if c.watch.after > 0 {
		c.watch.contact = now.Round(0).Add(-c.lease()) // who knows for how long we were away
		c.rules.fence(c, now.Round(0))
	}
}

// ringHeard is what follows when a ring has come or changed: the vote is over, and waiting calls are tried again.
func (c *core) ringHeard() {
	if c.elector != nil && c.hasRing() {
		c.elector = nil
		c.dirty.state = true
	}
	c.voting = c.voting && !c.hasRing()
	c.forgetNicknames()
	if t, worn := c.ring.Worn(); worn && !c.worn {
		c.worn = true
		c.log.Warn("the versions of a peer's address space are half used up: replace a peer of Weave Net by a new one before they are, or "+
			"what it gives away is void", "peer", c.name(t.Peer), "version", t.Version)
	}
}

// forgetNicknames drops those of peers that are neither in the mesh, nor in the ring, nor in dispute with us about it.
func (c *core) forgetNicknames() {
	owners := c.ring.Owners()
	for n := range c.nicknames {
		if _, owns := slices.BinarySearch(owners, n); !owns && n != c.me && !c.members.reachable(n) && !c.isRival(n) {
			delete(c.nicknames, n)
		}
	}
	c.forgetDelays(owners)
}

// name writes a peer for people.
func (c *core) name(p peer.Name) string {
	if nick := c.nicknames[p]; nick != "" {
		return fmt.Sprintf("%v(%s)", p, nick)
	}
	return p.String()
}

// change returns what is dirty as a Change and clears it. What it returns as held is to be merged back if the commit
// fails.
func (c *core) change() (ch Change, held dirty) {
	held, c.dirty = c.dirty, dirty{count: c.dirty.count}
	ch.Reset = held.reset
	if held.state || held.reset {
		ch.State = encodeSaved(c.saved())
	}
	for a := range held.addrs {
		if h, ok := c.book.find(a); ok {
			ch.Put = append(ch.Put, h)
		} else if h, ok := c.doubts.find(a); ok {
			ch.Put = append(ch.Put, h)
		} else {
			ch.Delete = append(ch.Delete, a)
		}
	}
	slices.SortFunc(ch.Put, func(a, b Holding) int {
		return cmp.Compare(held.addrs[a.Addr.Addr()], held.addrs[b.Addr.Addr()])
	})
	return ch, held
}

func (c *core) saved() savedState {
	s := savedState{
		peer: c.me, universe: c.prefix,
		contact: c.watch.contact, delays: c.watch.delays, lost: c.watch.lost,
		round: c.reclaim.round, locks: c.reclaim.locks,
		lapsed: c.standing.has(lapsed) && !c.standing.has(fenced),
	}
	if c.hasRing() {
		s.ring, s.disputes = c.ring, c.disputes
	} else if c.elector != nil {
		s.voter, s.claims = c.elector.Self(), c.elector.Claims()
	}
	for _, h := range c.doubts.all() {
		s.doubts = append(s.doubts, h.Addr.Addr())
	}
	return s
}

// gossiped returns our state as others are to hear it. It shares nothing that changes.
func (c *core) gossiped() state {
	s := state{
		nicknames: make(map[peer.Name]string, len(c.nicknames)), copyOf: c.me, joins: c.birth.mode != bySeed,
		delays: c.tellDelays(), proposal: c.reclaim.proposal, locks: maps.Clone(c.reclaim.locks), contact: c.tellContact(),
	}
	for n, nick := range c.nicknames {
		s.nicknames[n] = nick
	}
	if c.hasRing() {
		s.ring = c.ring
	} else if c.elector != nil {
		s.claims = c.elector.Claims()
	}
	return s
}

package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// A dispute begins when a ring arrives that gives a piece of ours, of which addresses are in use, to another peer: we
// were away and somebody took our place, or came back with an old ring. We keep what is in use, and give nothing more out
// of what is contested. Then we, whose token is the weaker one, ask the other for each address that we use, in the way of an
// ordinary claim. It grants what it does not use, and denies the rest. Nothing denied is a reason to refuse its ring any
// longer: so once all are answered, the next merge accepts it. The piece is lost, the addresses that were granted are kept,
// and those that were denied are strays (see join.go): in use on both sides, reported, and asked for again until one side
// lets go. So a dispute ends as soon as both sides have talked.

// maxFaults is how many senders of unmergeable rings are remembered; beyond, the oldest is forgotten. maxNamed is how many
// peers a fault lists.
const (
	maxFaults = 64
	maxNamed  = 8
)

// dispute is a piece of ours that another peer claims.
type dispute struct {
	conflict ring.Conflict
	since    time.Time
	seen     time.Time // when the rival's claim was last heard of; not stored
}

// overtaking is by how long one message may overtake another.
const overtaking = time.Minute

// fault is a ring that could not be merged.
type fault struct {
	err   error
	since time.Time
	times uint64
}

// contested returns the ranges in dispute, ascending and disjoint.
func (c *core) contested() []addr.Range {
	if len(c.disputes) == 0 {
		return nil
	}
	var all []addr.Range
	for _, d := range c.disputes {
		for _, l := range d.conflict.Lost {
			all = append(all, l.Range)
		}
	}
	return joined(all)
}

// joined sorts ranges and joins those that overlap.
func joined(all []addr.Range) []addr.Range {
	slices.SortFunc(all, func(a, b addr.Range) int { return a.Start.Compare(b.Start) })
	var out []addr.Range
	for _, r := range all {
		if n := len(out); n > 0 && !out[n-1].End.Less(r.Start) {
			out[n-1].End = addr.Max(out[n-1].End, r.End)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// mergeRing takes over what is new in a ring of others. An error means that it cannot be merged.
func (c *core) mergeRing(from peer.Name, s state, now time.Time) error {
	if c.standing.has(released) {
		return nil
	}
	res, err := c.ring.Merge(s.ring, c.me, c.used)
	if errors.Is(err, ring.ErrSeeds) && c.prefers(s.ring) {
		if len(c.unmarked(now)) > 0 {
			c.await(s, now)
		} else {
			c.leaveRing(s)
			res, err = c.ring.Merge(s.ring, c.me, c.used)
		}
	}
	sender := c.senderOf(from, s)
	if err != nil {
		if errors.Is(err, ring.ErrSeeds) {
			c.meet(s, now)
		}
		err = c.explain(err, s.ring)
		c.noteFault(sender, err, now)
		return err
	}
	delete(c.faults, sender)
	c.standing.lift(suspect)
	first := !c.hasRing()
	c.noteTwin(res.Ahead, now)
	c.noteConflicts(res.Conflicts, s, now)
	if first && !res.Ring.Empty() {
		c.born(res.Ring, c.votedFor(res.Ring.Seeds), now)
	} else if res.Ring != c.ring {
		c.changeRing(res.Ring)
		c.ringHeard()
	}
	c.settleDisputes()
	return nil
}

// senderOf returns whose ring this is, as well as we know: a member of the mesh, or 0. Names that are invented are none.
func (c *core) senderOf(from peer.Name, s state) peer.Name {
	if s.copyOf != 0 && c.members.reachable(s.copyOf) {
		return s.copyOf
	}
	return from
}

// explain says why a ring does not fit, in the words that Weave Net 2.8 shows.
func (c *core) explain(err error, in *ring.Ring) error {
	switch {
	case errors.Is(err, ring.ErrSeeds):
		return fmt.Errorf("IP allocation was seeded by different peers (received: %v, ours: %v): %w",
			c.names(in.Seeds), c.names(c.ring.Seeds), err)
	case errors.Is(err, ring.ErrRange):
		//lint:ignore ST1005 text of Weave Net 2.8
		return fmt.Errorf("Incompatible IP allocation ranges (received: %v, ours: %v): %w", prefixString(in.Range), c.prefix, err)
	}
	return err
}

// names writes peers for people, the first of them if they are many.
func (c *core) names(list []peer.Name) []string {
	out := make([]string, 0, maxNamed+1)
	for i, p := range list {
		if i == maxNamed {
			return append(out, fmt.Sprintf("and %d more", len(list)-i))
		}
		out = append(out, c.name(p))
	}
	return out
}

// noteFault keeps the reason for Status.
func (c *core) noteFault(from peer.Name, err error, now time.Time) {
	f, known := c.faults[from]
	if !known {
		if len(c.faults) >= maxFaults {
			oldest := slices.MinFunc(slices.Collect(maps.Keys(c.faults)), func(p, q peer.Name) int {
				return cmp.Or(c.faults[p].since.Compare(c.faults[q].since), cmp.Compare(p, q))
			})
			delete(c.faults, oldest)
		}
		f.since = now
		c.log.Warn("ring of another peer does not fit ours", "peer", c.name(from), "err", err)
	}
	f.err, f.times = err, f.times+1
	c.faults[from] = f
}

// noteConflicts follows one merge: what it refuses is in dispute, and what was in dispute with the very peer whose ring this is,
// and is not refused any more, is settled, unless that ring is from before the dispute: messages may overtake each other.
func (c *core) noteConflicts(conflicts []ring.Conflict, s state, now time.Time) {
	old := c.disputes
	c.disputes = make(map[addr.Addr]*dispute, len(old))
	for at, d := range old {
		rival := d.conflict.Rival
		late := !s.ring.Knows(rival) && now.Sub(d.seen) < overtaking // later it is no longer a late message, but the rival has lost its claim
		if rival.Peer != s.copyOf || late {
			c.disputes[at] = d
		}
	}
	fresh := false
	for _, x := range conflicts {
		d := &dispute{conflict: x, since: now, seen: now}
		if before := old[x.Ours.At]; before != nil {
			d.since = before.since
		} else {
			fresh = true
			c.log.Warn("address range in dispute", "err", x, "with", c.name(x.Rival.Peer))
		}
		c.disputes[x.Ours.At] = d
	}
	if !maps.EqualFunc(old, c.disputes, (*dispute).same) {
		c.disputesChanged()
	}
	if fresh {
		c.pursueWants(now)
	}
}

// same reports whether two disputes are about the same.
func (d *dispute) same(other *dispute) bool {
	x, y := d.conflict, other.conflict
	return x.Kind == y.Kind && x.Rival == y.Rival && x.Ours == y.Ours && slices.Equal(x.Lost, y.Lost)
}

// disputesChanged keeps the sets in step with the disputes, and stores these: a peer that forgets them over a restart would
// give out what it had ceased to, and take what a rival grants it for the work of a twin.
func (c *core) disputesChanged() {
	c.dirty.state = true
	c.updateUsable()
}

// settleDisputes forgets disputes over what is not ours any more, or what the ring says is ours at a version above the
// rival's.
func (c *core) settleDisputes() {
	changed := false
	for at, d := range c.disputes {
		rival := d.conflict.Rival
		owned := slices.ContainsFunc(d.conflict.Lost, func(l ring.Loss) bool { return c.ring.Owner(l.Start) == c.me })
		t, ok := c.ring.Token(rival.At)
		won := ok && t.At == rival.At && t.Peer == c.me && t.Version > rival.Version
		if !owned || won {
			c.log.Info("address range no longer in dispute", "at", at, "with", c.name(rival.Peer), "ours", won)
			delete(c.disputes, at)
			changed = true
		}
	}
	if changed {
		c.disputesChanged()
	}
}

// concede reports whether a contested address that we do not use is to be granted to the peer that contests it.
func (c *core) concede(from peer.Name, want addr.Range) bool {
	if want.Size() != addr.From64(1) || c.taken.Contains(want.Start) || c.ring.Owner(want.Start) != c.me {
		return false
	}
	for _, d := range c.disputes {
		if d.conflict.Rival.Peer == from && slices.ContainsFunc(d.conflict.Lost, func(l ring.Loss) bool { return l.Covers(want) }) {
			return true
		}
	}
	return false
}

// giveIn follows a rival's answer that it uses an address as well: we do not refuse its ring for that any more.
func (c *core) giveIn(from peer.Name, want addr.Range) {
	if want.Size() != addr.From64(1) || !c.taken.Contains(want.Start) {
		return
	}
	for _, d := range c.disputes {
		if slices.ContainsFunc(d.conflict.Lost, func(l ring.Loss) bool { return l.To == from && l.Covers(want) }) {
			c.yielded.Add(want)
			return
		}
	}
}

// used reports whether an address of r, which is ours, is in use here and not given in about.
func (c *core) used(r addr.Range) (found bool) {
	c.taken.Each(r, func(t addr.Range) bool {
		found = !c.yielded.Covers(t)
		return !found
	})
	return found
}

// keeper returns who is to be asked before an address of the universe is used here that was not: the owner of its piece, or
// the rival if that is ours and in dispute. It is us if nobody is.
func (c *core) keeper(a addr.Addr) peer.Name {
	owner := c.ring.Owner(a)
	if owner != c.me || c.isUsable(a) {
		return owner
	}
	for _, d := range c.disputes {
		for _, l := range d.conflict.Lost {
			if l.Contains(a) {
				return l.To
			}
		}
	}
	return owner
}

// inDispute reports whether some of r is.
func (c *core) inDispute(r addr.Range) bool {
	for _, d := range c.disputes {
		if slices.ContainsFunc(d.conflict.Lost, func(l ring.Loss) bool { return l.Overlaps(r) }) {
			return true
		}
	}
	return false
}

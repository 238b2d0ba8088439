package ipam

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/ipam/internal/space"
	"github.com/overweave/overweave/mesh/peer"
)

// Two rings that were born apart, and meet, cannot be merged: each gives the same addresses to others. One of them has to
// go. A ring that has nobody but its maker, of which no address is in use, goes first. Otherwise the seeds decide, which
// never change, so that everybody decides alike, whenever and in whatever order they hear: the ring with more seeds stays,
// and of equally many the one with the lower list. A ring does not become unused again in between, but by an owner who
// has freed all it had; so every step that a peer takes leads to a better ring, there are no circles, and after all have
// met, all have the best.
//
// A peer that changes over keeps the addresses it uses. They are strays now: in use here, in a piece of somebody else's.
// It asks the owner for each, as for a claim, until it is granted. Who meets a ring that is to go gives out nothing new
// as long as these requests come, for a minute at most, so that they come first. If the owner uses the address as well, it had been given out twice
// before the rings met; nothing can keep both, and [Status] shows it.
//
// A peer of Weave Net 2.8 refuses our new ring, and so would be cut off. So a peer changes over only if all who share its
// ring, and are in reach, do so too; they tell by a mark in their state. Otherwise the old rule holds: both rings stay,
// and are reported.

// better reports whether a ring with seeds a is to stay when it meets one with seeds b.
func better(a, b []peer.Name) bool {
	if len(a) != len(b) {
		return len(a) > len(b)
	}
	return slices.Compare(a, b) < 0
}

// unused reports whether a ring, by what is told of it, belongs to its only seed and has no address in use.
func unused(r *ring.Ring) bool {
	return lone(r) && !slices.ContainsFunc(r.Pieces(), func(p ring.Piece) bool { return p.Free < p.Size().Uint64() })
}

// ringUnused reports whether our ring is unused: of what is in use here we know without being told.
func (c *core) ringUnused() bool {
	if c.alone() {
		return c.taken.Empty()
	}
	return unused(c.ring)
}

// lone reports whether the ring has one seed, which owns all of it.
func lone(r *ring.Ring) bool {
	return len(r.Seeds) == 1 && !slices.ContainsFunc(r.Tokens, func(t ring.Token) bool { return t.Peer != r.Seeds[0] })
}

// joins reports whether we are to change over to another ring. A ring of configured seeds never does: the configuration
// is wrong somewhere, and only an operator knows where.
func (c *core) joins(in *ring.Ring) bool {
	if c.birth.mode == bySeed || in.Check() != nil || in.Range != c.universe {
		return false
	}
	ours, theirs := c.ringUnused(), unused(in)
	if ours != theirs && theirs || ours == theirs && !better(in.Seeds, c.ring.Seeds) {
		return false
	}
	for _, p := range c.ring.Owners() {
		if _, marked := c.joiners[p]; p != c.me && !marked && c.members.reachable(p) {
			return false
		}
	}
	return true
}

// noteJoiner keeps the mark of a peer that changes over as we do.
func (c *core) noteJoiner(s state) {
	if s.ring != nil && !s.joins {
		delete(c.joiners, s.copyOf) // it was put back to Weave Net 2.8, or is given seeds now
	} else if s.joins && s.copyOf != 0 && len(c.joiners) < maxJoiners {
		c.joiners[s.copyOf] = struct{}{}
	}
}

// maxJoiners bounds the marks that are kept.
const maxJoiners = 1 << 16

// leaveRing gives up our ring for that of s.
func (c *core) leaveRing(s state) {
	c.log.Warn("giving up our ring for another that was born apart", "of", c.name(s.copyOf),
		"seeds", c.names(s.ring.Seeds), "our_seeds", c.names(c.ring.Seeds), "addresses_to_move", c.taken.Len().Uint64())
	c.disputes = nil
	c.reclaim.locks, c.reclaim.dying = nil, nil
	c.yielded = space.Set{}
	c.changeRing(ring.New(c.universe))
	c.out.broadcast = true // whoever is behind us hears of the better ring, and asks for what it uses before that is given out
}

// A meeting begins when we hear of a ring that is to go for ours. Nothing new is given out then, so that those who change over can
// ask first for what they use: for suspicion after the last of their requests, and for meetMost altogether. Of one ring that is
// heard of for long, because somebody in it may not change over, there is a meeting every meetAgain.
const (
	meetMost  = time.Minute
	meetAgain = 10 * time.Minute
	maxMet    = 16 // rings that are remembered; of more there is no meeting
)

// meetings are those there were of late.
type meetings struct {
	with map[string]time.Time // by the seeds of the ring that is to go: when it began
	end  time.Time            // the present one ends then at the latest
}

// meet follows a ring that was born apart from ours.
func (c *core) meet(s state, now time.Time) {
	if !s.joins || unused(s.ring) || !better(c.ring.Seeds, s.ring.Seeds) {
		return // it stays, or has nothing to bring
	}
	m := &c.met
	maps.DeleteFunc(m.with, func(_ string, at time.Time) bool { return now.Sub(at) >= meetAgain })
	seeds := fmt.Sprint(s.ring.Seeds)
	if _, known := m.with[seeds]; known || len(m.with) >= maxMet {
		return
	}
	if m.with == nil {
		m.with = make(map[string]time.Time)
	}
	m.with[seeds], m.end = now, now.Add(meetMost)
	c.standing.holdUntil(meeting, now.Add(suspicion))
}

// prolongMeeting follows a request for one address: who asks may have more to ask for.
func (c *core) prolongMeeting(now time.Time) {
	if !c.standing.has(meeting) {
		return
	}
	until := now.Add(suspicion)
	if c.met.end.Before(until) {
		until = c.met.end
	}
	c.standing.holdUntil(meeting, until)
}

// stray is an address in use here, in another's piece.
type stray struct {
	addr  addr.Addr
	owner peer.Name // of the piece
}

// strays walks all of them, in ascending order.
func (c *core) strays() iter.Seq[stray] {
	return func(yield func(stray) bool) {
		if !c.hasRing() || c.taken.Empty() {
			return
		}
		for _, p := range c.ring.Pieces() {
			more := true
			c.taken.Each(p.Range, func(r addr.Range) bool {
				for a := r.Start; p.Peer != c.me && more && a.Less(r.End); a = a.Next() {
					more = yield(stray{a, p.Peer})
				}
				return more
			})
			if !more {
				return
			}
		}
	}
}

// Stray is an address in use here that lies in another peer's piece: our ring was given up for another one, or a dispute
// about it was lost.
type Stray struct {
	Owner  string
	Addr   netip.Addr
	Peer   peer.Name // who owns the piece, and is asked for the address
	Denied bool      // it uses the address as well: it was given out twice before we met
}

func (c *core) listStrays() []Stray {
	var out []Stray
	for s := range c.strays() {
		if len(out) == maxStrays {
			break
		}
		ip := s.addr.Netip(c.is4())
		owner, _ := c.book.owner(ip)
		out = append(out, Stray{Owner: owner, Addr: ip, Peer: s.owner, Denied: c.isDenied(s.owner, s.addr)})
	}
	return out
}

// maxStrays bounds the list in Status.
const maxStrays = 4096

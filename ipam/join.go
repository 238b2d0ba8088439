package ipam

import (
	"iter"
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
// It asks the owner for each, as for a claim, until it is granted. Whoever meets a ring that is to go gives out nothing new
// as long as these requests come, within bounds, so that they come first: see meeting.go. If the owner uses the
// address as well, it had been given out twice before the rings met; nothing can keep both, and [Status] shows it.
//
// A peer of Weave Net 2.8 refuses our new ring, and so would be cut off. So a peer changes over only if all who share its
// ring, and are in reach, do so too; they tell by a mark in their state, and are asked for it. Otherwise the old rule holds:
// both rings stay, and are reported.

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

// prefers reports whether another ring is to stay rather than ours. A ring of configured seeds never goes: the configuration is
// wrong somewhere, and only an operator knows where.
func (c *core) prefers(in *ring.Ring) bool {
	if c.birth.mode == bySeed || in.Check() != nil || in.Range != c.universe {
		return false
	}
	if ours, theirs := c.ringUnused(), unused(in); ours != theirs {
		return ours
	}
	return better(in.Seeds, c.ring.Seeds)
}

// lingering is for how long a peer out of reach counts as one of us: it may only be restarted.
const lingering = time.Minute

// unmarked lists those who share our ring, are in reach or were just now, and have not told that they change over.
func (c *core) unmarked(now time.Time) (list []peer.Name) {
	for _, p := range c.ring.Owners() {
		if _, marked := c.joiners[p]; p != c.me && !marked && (c.members.reachable(p) || c.justGone(p, now)) {
			list = append(list, p)
		}
	}
	return list
}

// justGone reports whether a peer is out of reach, and not for long. Without a delay for the dead, nobody looks.
func (c *core) justGone(p peer.Name, now time.Time) bool {
	since, noted := c.watch.absent[p]
	return c.watch.after > 0 && (!noted || now.Sub(since) < lingering)
}

// awaited is a better ring, to which we change over when all who share ours have told that they do, too.
type awaited struct {
	state
	heard time.Time // when that ring was last heard of
	urge  time.Time // when those are asked again who have not told
	urged int       // how often they were asked
}

// await keeps the better ring of s for as long as it goes on being heard of. The best is kept.
func (c *core) await(s state, now time.Time) {
	w := c.awaited
	if w == nil || better(s.ring.Seeds, w.ring.Seeds) {
		w = &awaited{}
		c.awaited = w
	} else if !slices.Equal(s.ring.Seeds, w.ring.Seeds) {
		return
	}
	w.state, w.heard = s, now
	c.urge(now)
}

// urge asks those who have not told whether they change over: their mark comes with their own state only, which may not come by
// itself for long. Whoever is of Weave Net 2.8 answers without one, and is asked less and less often.
func (c *core) urge(now time.Time) {
	w := c.awaited
	if now.Before(w.urge) {
		return
	}
	w.urge = now.Add(tick << min(w.urged, maxPatience))
	w.urged++
	for _, p := range c.unmarked(now) {
		c.out.survey(p)
	}
}

// pursueChange changes over to the ring that is awaited as soon as that may be.
func (c *core) pursueChange(now time.Time) {
	w := c.awaited
	if w == nil {
		return
	}
	switch {
	case c.standing.has(released) || !c.hasRing() || !c.prefers(w.ring) || now.Sub(w.heard) >= forgotten:
		c.awaited = nil
	case len(c.unmarked(now)) == 0:
		_ = c.mergeRing(0, w.state, now) // it fits, after we have left ours
	default:
		c.urge(now)
	}
}

// forgotten is after what time a ring that is not heard of any more is not changed over to: more than the time between two gossips.
const forgotten = time.Minute

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
	c.yielded, c.awaited = space.Set{}, nil
	c.changeRing(ring.New(c.universe))
	c.out.broadcast = true // whoever is behind us hears of the better ring, and asks for what it uses before that is given out
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

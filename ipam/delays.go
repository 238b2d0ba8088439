package ipam

import (
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// delay returns after what time a peer counts as dead: the longest that anybody concerned has told. It is 0 if an owner or a
// peer in reach knows nothing of this.
func (c *core) delay() time.Duration {
	if _, found := c.aloofOne(); found {
		return 0
	}
	longest := c.watch.after
	for _, p := range c.concerned() {
		longest = max(longest, c.watch.delays[p])
	}
	return longest
}

// concerned are the owners, and everyone in reach.
func (c *core) concerned() []peer.Name { return slices.Concat(c.ring.Owners(), c.members.names()) }

// aloofOne returns the first of them that takes no part, if one does not.
func (c *core) aloofOne() (p peer.Name, found bool) {
	list := c.concerned()
	i := slices.IndexFunc(list, c.aloof)
	if i < 0 {
		return 0, false
	}
	return list[i], true
}

// lease returns for how long after the last contact with a majority we may rely on what we have: half of the shortest delay
// that an owner has told. Those who take us over wait for the longest that they know of, but may not know ours.
func (c *core) lease() time.Duration {
	w := &c.watch
	shortest := w.after
	for _, p := range c.ring.Owners() {
		if d := w.delays[p]; d > 0 {
			shortest = min(shortest, d)
		}
	}
	return shortest / 2
}

// aloof reports whether a peer takes no part in this.
func (c *core) aloof(p peer.Name) bool { return p != c.me && c.watch.delays[p] == 0 }

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
		c.tell()
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
		if _, away := w.absent[p]; !owns && !away && !c.members.reachable(p) {
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
	c.tell()
}

// Package space keeps a set of addresses as disjoint ranges: the addresses of our pieces that are free.
//
// Taking the lowest address of a range, giving one back, and counting take logarithmic time in the number of gaps, and
// short copies: the ranges sit in chunks of bounded length. The package is pure.
package space

import (
	"slices"
	"sort"

	"github.com/overweave/overweave/ipam/internal/addr"
)

// chunkMax is the number of ranges in a chunk at which it is split.
const chunkMax = 256

// Set is a set of addresses. The zero Set is empty and ready for use. It is not safe for concurrent use.
type Set struct {
	chunks []chunk // none is empty
}

type chunk struct {
	ranges []addr.Range // ascending, disjoint, not touching
	size   addr.Addr    // addresses in them
}

// last returns the end of the chunk's last range.
func (c *chunk) last() addr.Addr { return c.ranges[len(c.ranges)-1].End }

// find returns the position of the first range that ends behind a (atEnd: at or behind). At the end of the set it is
// (len(chunks), 0).
func (s *Set) find(a addr.Addr, atEnd bool) (ci, ri int) {
	behind := func(end addr.Addr) bool { return a.Less(end) || atEnd && a == end }
	ci = sort.Search(len(s.chunks), func(i int) bool { return behind(s.chunks[i].last()) })
	if ci == len(s.chunks) {
		return ci, 0
	}
	ranges := s.chunks[ci].ranges
	return ci, sort.Search(len(ranges), func(i int) bool { return behind(ranges[i].End) })
}

// Len returns the number of addresses in the set.
func (s *Set) Len() addr.Addr {
	var n addr.Addr
	for i := range s.chunks {
		n = n.Add(s.chunks[i].size)
	}
	return n
}

// Empty reports whether there are none.
func (s *Set) Empty() bool { return len(s.chunks) == 0 }

// Contains reports whether a is in the set.
func (s *Set) Contains(a addr.Addr) bool {
	ci, ri := s.find(a, false)
	return ci < len(s.chunks) && s.chunks[ci].ranges[ri].Contains(a)
}

// First returns the lowest address of the set that lies in r.
func (s *Set) First(r addr.Range) (a addr.Addr, ok bool) {
	ci, ri := s.find(r.Start, false)
	if ci == len(s.chunks) {
		return addr.Addr{}, false
	}
	got := s.chunks[ci].ranges[ri].Intersect(r)
	return got.Start, !got.Empty()
}

// Count returns how many addresses of r are in the set.
func (s *Set) Count(r addr.Range) addr.Addr {
	var n addr.Addr
	ci, ri := s.find(r.Start, false)
	for ; ci < len(s.chunks); ci, ri = ci+1, 0 {
		c := &s.chunks[ci]
		if ri == 0 && !c.ranges[0].Start.Less(r.Start) && !r.End.Less(c.last()) {
			n = n.Add(c.size)
			continue
		}
		for _, x := range c.ranges[ri:] {
			if !x.Start.Less(r.End) {
				return n
			}
			n = n.Add(x.Intersect(r).Size())
		}
	}
	return n
}

// Covers reports whether all of r is in the set.
func (s *Set) Covers(r addr.Range) bool {
	if r.Empty() {
		return true
	}
	ci, ri := s.find(r.Start, false)
	return ci < len(s.chunks) && s.chunks[ci].ranges[ri].Covers(r)
}

// Each calls f for what the set holds of r, in ascending order, until f returns false. f must not change the set.
func (s *Set) Each(r addr.Range, f func(addr.Range) bool) {
	ci, ri := s.find(r.Start, false)
	for ; ci < len(s.chunks); ci, ri = ci+1, 0 {
		for _, x := range s.chunks[ci].ranges[ri:] {
			if x = x.Intersect(r); x.Empty() || !f(x) {
				return
			}
		}
	}
}

// Add puts all of r into the set.
func (s *Set) Add(r addr.Range) {
	if r.Empty() {
		return
	}
	if s.extend(r) {
		return
	}
	s.Remove(r) // so that what is left does not overlap
	ci, ri := s.find(r.Start, true)
	if ci < len(s.chunks) && s.chunks[ci].ranges[ri].End == r.Start {
		r.Start = s.chunks[ci].ranges[ri].Start
		s.drop(ci, ri)
		ci, ri = s.find(r.Start, false)
	}
	if ci < len(s.chunks) && s.chunks[ci].ranges[ri].Start == r.End {
		r.End = s.chunks[ci].ranges[ri].End
		s.drop(ci, ri)
		ci, ri = s.find(r.Start, false)
	}
	s.insert(ci, ri, r)
}

// extend handles the frequent case that r touches the front of one range and reaches no other.
func (s *Set) extend(r addr.Range) bool {
	ci, ri := s.find(r.Start, true)
	if ci == len(s.chunks) {
		return false
	}
	c := &s.chunks[ci]
	if c.ranges[ri].Start != r.End {
		return false
	}
	c.ranges[ri].Start, c.size = r.Start, c.size.Add(r.Size())
	return true
}

// Remove takes all of r out of the set.
func (s *Set) Remove(r addr.Range) {
	if r.Empty() {
		return
	}
	for {
		ci, ri := s.find(r.Start, false)
		if ci == len(s.chunks) {
			return
		}
		c := &s.chunks[ci]
		x := c.ranges[ri]
		cut := x.Intersect(r)
		if cut.Empty() {
			return
		}
		left, right := addr.Range{Start: x.Start, End: cut.Start}, addr.Range{Start: cut.End, End: x.End}
		switch {
		case !left.Empty() && !right.Empty():
			c.ranges[ri], c.size = left, c.size.Sub(cut.Size()).Sub(right.Size())
			s.insert(ci, ri+1, right)
			return
		case !left.Empty():
			c.ranges[ri], c.size = left, c.size.Sub(cut.Size())
		case !right.Empty():
			c.ranges[ri], c.size = right, c.size.Sub(cut.Size())
		default:
			s.drop(ci, ri)
		}
	}
}

// insert puts r at a position between its neighbours, which it does not touch.
func (s *Set) insert(ci, ri int, r addr.Range) {
	if ci == len(s.chunks) {
		if ci == 0 {
			s.chunks = append(s.chunks, chunk{[]addr.Range{r}, r.Size()})
			return
		}
		ci--
		ri = len(s.chunks[ci].ranges)
	}
	c := &s.chunks[ci]
	c.ranges, c.size = slices.Insert(c.ranges, ri, r), c.size.Add(r.Size())
	if len(c.ranges) > chunkMax {
		s.split(ci)
	}
}

func (s *Set) split(ci int) {
	all := s.chunks[ci].ranges
	front, back := all[:len(all)/2:len(all)/2], slices.Clone(all[len(all)/2:])
	var size addr.Addr
	for _, r := range back {
		size = size.Add(r.Size())
	}
	s.chunks[ci] = chunk{front, s.chunks[ci].size.Sub(size)}
	s.chunks = slices.Insert(s.chunks, ci+1, chunk{back, size})
}

// drop takes out one range.
func (s *Set) drop(ci, ri int) {
	c := &s.chunks[ci]
	if len(c.ranges) == 1 {
		s.chunks = slices.Delete(s.chunks, ci, ci+1)
		return
	}
	c.size = c.size.Sub(c.ranges[ri].Size())
	c.ranges = slices.Delete(c.ranges, ri, ri+1)
}

// Donation picks what of want to give away (section 1.9): the largest aligned block that is free, the highest among
// equals, and of that the upper half if it is more than half of all that is free there. ok is false if nothing is. The
// set is not changed.
func (s *Set) Donation(want addr.Range) (gift addr.Range, ok bool) {
	var best addr.Range
	var free addr.Addr
	s.Each(want, func(r addr.Range) bool {
		free = free.Add(r.Size())
		if block := r.Block(); !block.Size().Less(best.Size()) {
			best = block
		}
		return true
	})
	if best.Empty() {
		return addr.Range{}, false
	}
	if size := best.Size(); free.Half().Less(size) {
		best.Start = best.Start.Add(size.Half())
	}
	return best, true
}

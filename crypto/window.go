package crypto

import (
	"math/bits"
	"slices"
)

// Window tells numbers that are seen for the first time from repeated ones. It remembers the span of 2^20 numbers that the
// highest so far lies in, and the span before it: whatever is older is refused. The zero value is ready to use and has
// seen nothing. It is not safe for concurrent use.
//
// Of the parts of the spans that lie behind it keeps what is missing instead of what was seen, as long as that takes less
// memory: 20 KiB in all if nothing is lost, three times that if one number in a hundred is, and 260 KiB at most.
//
// The rule is that of section 5.4 of the sleeve specification.
type Window struct {
	top      uint64 // index of the current span
	current  span
	previous span
}

const (
	spanBits  = 20
	pageBits  = 15 // numbers in a page
	spanPages = 1 << (spanBits - pageBits)

	maxMissing = 1 << (pageBits - 5) // numbers; takes half of what the bits do
)

// span notes 2^20 numbers.
type span [spanPages]page

// page notes 2^15 numbers. The zero value has seen none.
type page struct {
	seen    *[1 << (pageBits - 6)]uint64 // a bit for each number; nil if packed, or none was seen
	missing []uint16                     // of a packed page: the numbers that were not seen, in order
	packed  bool
}

// Accept reports whether n is seen for the first time, and notes it.
func (w *Window) Accept(n uint64) bool {
	index, at := n>>spanBits, n>>pageBits&(spanPages-1)
	switch {
	case index+1 < w.top:
		return false
	case index+1 == w.top:
		return w.previous[at].add(n)
	case index == w.top:
	case index == w.top+1:
		w.previous, w.current, w.top = w.current, span{}, index
	default:
		w.previous, w.current, w.top = span{}, span{}, index
	}
	p := &w.current[at]
	if p.seen == nil && !p.packed {
		p.seen = w.behind(at).pack()
	}
	return p.add(n)
}

// behind returns the page two before one of the current span: what comes late belongs to the one in between.
func (w *Window) behind(at uint64) *page {
	if at < 2 {
		return &w.previous[at+spanPages-2]
	}
	return &w.current[at-2]
}

// pack has a page that has nearly all numbers keep the others alone. It returns the memory that is free then, if there is any.
func (p *page) pack() *[1 << (pageBits - 6)]uint64 {
	if p.seen == nil {
		return nil
	}
	n := 1 << pageBits
	for _, word := range p.seen {
		n -= bits.OnesCount64(word)
	}
	if n > maxMissing {
		return nil
	}
	p.missing = make([]uint16, 0, n)
	for i, word := range p.seen {
		for rest := ^word; rest != 0; rest &= rest - 1 {
			p.missing = append(p.missing, uint16(i<<6|bits.TrailingZeros64(rest)))
		}
	}
	free := p.seen
	p.seen, p.packed = nil, true
	clear(free[:])
	return free
}

// add notes a number and reports whether it was not there.
func (p *page) add(n uint64) bool {
	n &= 1<<pageBits - 1
	if p.seen == nil {
		return p.addLate(uint16(n))
	}
	word, bit := &p.seen[n>>6], uint64(1)<<(n&63)
	fresh := *word&bit == 0
	*word |= bit
	return fresh
}

// addLate is add for a page that has no bits.
func (p *page) addLate(n uint16) bool {
	if !p.packed {
		p.seen = new([1 << (pageBits - 6)]uint64)
		return p.add(uint64(n))
	}
	i, fresh := slices.BinarySearch(p.missing, n)
	if fresh {
		p.missing = slices.Delete(p.missing, i, i+1)
	}
	return fresh
}

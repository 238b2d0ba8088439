package crypto

// Window tells numbers that are seen for the first time from repeated ones. It remembers the span of 2^20 numbers that the
// highest so far lies in, and the span before it: whatever is older is refused. The zero value is ready to use and has
// seen nothing. Memory grows with the parts of the spans that are in use, 256 KiB at most. It is not safe for concurrent use.
//
// The rule is that of section 5.4 of the sleeve specification.
type Window struct {
	top      uint64 // index of the current span
	current  span
	previous span
}

const (
	spanBits = 20
	pageBits = 15 // numbers in a page
)

// span holds a bit for each of 2^20 numbers, in pages that exist once they are needed.
type span [1 << (spanBits - pageBits)]*[1 << (pageBits - 6)]uint64

// Accept reports whether n is seen for the first time, and notes it.
func (w *Window) Accept(n uint64) bool {
	switch index := n >> spanBits; {
	case index+1 < w.top:
		return false
	case index+1 == w.top:
		return w.previous.add(n)
	case index == w.top:
	case index == w.top+1:
		w.previous, w.current, w.top = w.current, span{}, index
	default:
		w.previous, w.current, w.top = span{}, span{}, index
	}
	return w.current.add(n)
}

// add sets the bit for n and reports whether it was clear.
func (s *span) add(n uint64) bool {
	page := &s[n>>pageBits&(1<<(spanBits-pageBits)-1)]
	if *page == nil {
		*page = new([1 << (pageBits - 6)]uint64)
	}
	word, bit := &(*page)[n>>6&(1<<(pageBits-6)-1)], uint64(1)<<(n&63)
	fresh := *word&bit == 0
	*word |= bit
	return fresh
}

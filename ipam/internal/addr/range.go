package addr

import "net/netip"

// Range is the half-open range from Start up to, and without, End. A range whose End is not larger than its Start is
// empty.
type Range struct{ Start, End Addr }

// FromPrefix returns the addresses of p. The range that ends with the last address of IPv6 has no End in 128 bits and
// comes out empty.
func FromPrefix(p netip.Prefix) Range {
	p = p.Masked()
	start := FromNetip(p.Addr())
	host := p.Addr().BitLen() - p.Bits()
	if host >= 128 {
		return Range{}
	}
	return Range{start, start.Add(pow2(host))}
}

// Single returns the range that holds a alone.
func Single(a Addr) Range { return Range{a, a.Next()} }

// String writes the range as "first-end", end excluded.
func (r Range) String() string { return r.Start.String() + "-" + r.End.String() }

// Empty reports whether the range holds nothing.
func (r Range) Empty() bool { return !r.Start.Less(r.End) }

// Size returns the number of addresses.
func (r Range) Size() Addr {
	if r.Empty() {
		return Addr{}
	}
	return r.End.Sub(r.Start)
}

// Contains reports whether a is in the range.
func (r Range) Contains(a Addr) bool { return !a.Less(r.Start) && a.Less(r.End) }

// Covers reports whether all of s is in the range.
func (r Range) Covers(s Range) bool { return s.Empty() || !s.Start.Less(r.Start) && !r.End.Less(s.End) }

// Overlaps reports whether the ranges share an address.
func (r Range) Overlaps(s Range) bool { return !r.Intersect(s).Empty() }

// Intersect returns what the ranges share.
func (r Range) Intersect(s Range) Range { return Range{Max(r.Start, s.Start), Min(r.End, s.End)} }

// Hosts returns the range without its first and its last address, which are not given to hosts.
func (r Range) Hosts() Range {
	if r.Size().Less(Addr{lo: 3}) {
		return Range{}
	}
	return Range{r.Start.Next(), r.End.Sub(Addr{lo: 1})}
}

// Block returns the largest aligned power-of-two block inside the range, the first one if there are several.
func (r Range) Block() Range {
	for k := r.Size().bitLen() - 1; k >= 0; k-- {
		start, ok := r.Start.alignUp(k)
		if ok && start.Less(r.End) && !r.End.Sub(start).Less(pow2(k)) {
			return Range{start, start.Add(pow2(k))}
		}
	}
	return Range{}
}

// Subtract returns the ranges of a without those of b. Both are ascending and disjoint, and so is the result.
func Subtract(a, b []Range) []Range {
	var out []Range
	for _, r := range a {
		for len(b) > 0 && !r.Start.Less(b[0].End) {
			b = b[1:]
		}
		for _, s := range b {
			if !s.Start.Less(r.End) {
				break
			}
			if left := (Range{r.Start, s.Start}); !left.Empty() {
				out = append(out, left)
			}
			r.Start = Max(r.Start, s.End)
		}
		if !r.Empty() {
			out = append(out, r)
		}
	}
	return out
}

// Append adds r, which lies behind the last of list, joining the two if they touch.
func Append(list []Range, r Range) []Range {
	if r.Empty() {
		return list
	}
	if n := len(list); n > 0 && list[n-1].End == r.Start {
		list[n-1].End = r.End
		return list
	}
	return append(list, r)
}

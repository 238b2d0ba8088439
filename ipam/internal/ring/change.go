package ring

import (
	"fmt"
	"math"
	"slices"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// with returns a ring like r with other tokens.
func (r *Ring) with(tokens []Token) *Ring {
	return &Ring{Range: r.Range, Tokens: tokens, Seeds: r.Seeds}
}

// Grant returns the ring in which me has given piece to another peer (section 1.6). All of piece must be me's, and lie
// inside the range.
func (r *Ring) Grant(me, to peer.Name, piece addr.Range) (*Ring, error) {
	if piece.Empty() || !r.Range.Covers(piece) || !r.ownsAll(me, piece) {
		return nil, fmt.Errorf("%w by %v: %v", ErrNotOwned, me, piece)
	}
	i := r.at(piece.Start)
	free := addr.Min(piece.Size(), r.span(piece.Start, r.after(i))).Uint64()
	t := slices.Clone(r.Tokens)
	t[i].Version = raise(t[i].Version, 1)
	if t[i].At == piece.Start {
		t[i].Peer, t[i].Free = to, free
	} else {
		t[i].Free = r.span(t[i].At, piece.Start).Uint64()
		split := Token{At: piece.Start, Peer: to, Version: firstOf(t[i]), Free: free}
		i = r.slot(piece.Start)
		t = slices.Insert(t, i, split)
	}
	next := i + 1
	for ; next < len(t) && t[next].At.Less(piece.End); next++ {
		left := piece.End.Sub(t[next].At).Uint64()
		t[next].Peer, t[next].Version, t[next].Free = to, raise(t[next].Version, 1), min(t[next].Free, left)
	}
	return r.with(r.closeGrant(t, next, me, piece.End)), nil
}

// closeGrant puts a token for me at end, where a piece that was given away ends, unless there is a token or the range
// ends there and another piece begins at its start. next is the index of the first token not before end.
func (r *Ring) closeGrant(t []Token, next int, me peer.Name, end addr.Addr) []Token {
	if end == r.Range.End {
		end, next = r.Range.Start, 0
	}
	if next < len(t) && t[next].At == end {
		return t
	}
	given, follower := t[(next+len(t)-1)%len(t)], t[next%len(t)].At
	return slices.Insert(t, next, Token{At: end, Peer: me, Version: firstOf(given), Free: r.span(end, follower).Uint64()})
}

// slot returns the index at which a token for a would be inserted.
func (r *Ring) slot(a addr.Addr) int {
	i, _ := slices.BinarySearchFunc(r.Tokens, a, func(t Token, a addr.Addr) int { return t.At.Compare(a) })
	return i
}

// ownsAll reports whether every address of piece belongs to p.
func (r *Ring) ownsAll(p peer.Name, piece addr.Range) bool {
	for a := piece.Start; a.Less(piece.End); {
		i := r.at(a)
		if i < 0 || r.Tokens[i].Peer != p {
			return false
		}
		if a.Less(r.Tokens[i].At) { // the front part of the piece that runs over the end
			a = r.Tokens[0].At
		} else {
			a = r.end(i)
		}
	}
	return true
}

// Transfer returns the ring in which every token of from belongs to to (section 1.8), and the ranges that changed
// hands. Without any it returns r itself.
func (r *Ring) Transfer(from, to peer.Name) (*Ring, []addr.Range) {
	return r.transfer(from, to, func(v uint32) (uint32, bool) { return raise(v, TakeoverStep), true })
}

// TransferUnreclaimed is like Transfer, but tokens that were reclaimed stay.
func (r *Ring) TransferUnreclaimed(from, to peer.Name) (*Ring, []addr.Range) {
	return r.transfer(from, to, func(v uint32) (uint32, bool) { return raise(v, TakeoverStep), epoch(v) == 0 })
}

// Reclaim is like Transfer, but the tokens are put n epochs further. Those for which there are not so many stay.
func (r *Ring) Reclaim(from, to peer.Name, n uint64) (*Ring, []addr.Range) {
	return r.transfer(from, to, func(v uint32) (uint32, bool) { return Later(v, n), Later(v, n) > v })
}

// transfer moves the tokens of from for which there is a next version.
func (r *Ring) transfer(from, to peer.Name, raised func(uint32) (uint32, bool)) (*Ring, []addr.Range) {
	next := r.with(slices.Clone(r.Tokens))
	for i, t := range r.Tokens {
		if v, ok := raised(t.Version); ok && t.Peer == from {
			next.Tokens[i].Peer, next.Tokens[i].Version = to, v
		}
	}
	moved := addr.Subtract(next.Owned(to), r.Owned(to))
	if from == to || len(moved) == 0 {
		return r, nil
	}
	return next, moved
}

// Assert returns the ring in which me has a token at a, inside a piece of its own, at the given version or a higher one:
// the last word in a dispute whose other side is gone.
func (r *Ring) Assert(me peer.Name, a addr.Addr, version uint32) (*Ring, error) {
	i := r.at(a)
	if !r.Range.Contains(a) || i < 0 || r.Tokens[i].Peer != me {
		return nil, fmt.Errorf("%w by %v: %v", ErrNotOwned, me, a)
	}
	t := slices.Clone(r.Tokens)
	if t[i].At == a {
		t[i].Version = max(raise(t[i].Version, 1), version)
	} else {
		t = slices.Insert(t, r.slot(a), Token{At: a, Peer: me, Version: max(version, firstOf(t[i]))})
	}
	next := r.with(t)
	next.clip()
	return next, nil
}

// Report returns the ring in which the tokens of me tell how many addresses are free (section 1.7). count gives that
// number for a range; the parts of a piece that runs over the end are added up. significant says whether a new number
// is worth a new version; nil means that every difference is. If nothing changes, Report returns r itself.
func (r *Ring) Report(me peer.Name, count func(addr.Range) uint64, significant func(t Token, size, free uint64) bool) *Ring {
	var t []Token
	for i, x := range r.Tokens {
		if x.Peer != me {
			continue
		}
		free := count(addr.Range{Start: x.At, End: r.end(i)})
		if front := (addr.Range{Start: r.Range.Start, End: r.Tokens[0].At}); i == len(r.Tokens)-1 && !front.Empty() {
			free = sumFree(addr.Range{Start: x.At, End: r.end(i)}, front, free, count(front))
		}
		size := r.distance(i)
		free = min(free, size)
		if free == x.Free || significant != nil && !significant(x, size, free) {
			continue
		}
		if t == nil {
			t = slices.Clone(r.Tokens)
		}
		t[i].Free, t[i].Version = free, raise(x.Version, 1)
	}
	if t == nil {
		return r
	}
	return r.with(t)
}

// sumFree adds up what is free in two ranges. As many as a uint64 can hold are told only if all is free.
func sumFree(a, b addr.Range, freeA, freeB uint64) uint64 {
	if sum := freeA + freeB; sum >= freeA && sum < math.MaxUint64 {
		return sum
	}
	if freeA == a.Size().Uint64() && freeB == b.Size().Uint64() {
		return math.MaxUint64
	}
	return math.MaxUint64 - 1
}

// raise returns v + by, or the largest version: a version that came from outside must not make ours wrap to 0.
func raise(v, by uint32) uint32 {
	if sum := v + by; sum > v {
		return sum
	}
	return ^uint32(0)
}

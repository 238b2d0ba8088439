// Package ring divides a range of addresses among peers (section 1 of the IPAM specification).
//
// The range is cut by tokens. A token sits at an address; the piece from there up to the next token belongs to the peer
// it names, and the last piece runs over the end of the range up to the first token. A peer changes only tokens of its
// own, and each change raises the token's version, so that rings which were changed at many places merge into one.
//
// A [Ring] is a value that never changes: every operation returns a new one. It may be shared by any number of
// goroutines. The package does no I/O and knows no clock.
package ring

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// TakeoverStep is what a version rises by when a token changes hands without the consent of its owner.
const TakeoverStep = 100

// DisputeStep is the same for a token that two peers claim, of which one is gone.
const DisputeStep = 1 << 16

// epochBits is how many low bits of a version count changes within an epoch; the bits above count epochs. A token is put into
// a new epoch when its owner is dead: the token stands for all of its piece then, whatever the dead owner may have done with
// it that nobody else knows. Tokens put into a piece begin in the epoch of the piece. A token of an older epoch than the
// piece in which it turns up is from before, and void.
//
// Weave Net 2.8 knows no epochs, and raises a version with every address that is given out or freed: at two a second it takes
// more than a year to get here. See [Ring.Worn].
const epochBits = 26

// MaxEpoch is how many epochs there are after the first.
const MaxEpoch = math.MaxUint32 >> epochBits

// epoch returns the epoch of a version.
func epoch(version uint32) uint32 { return version >> epochBits }

// firstOf returns the version with which a token begins that is put into a piece.
func firstOf(piece Token) uint32 { return epoch(piece.Version) << epochBits }

// Later returns the first version of the epoch that is n after that of a version, or the version itself if there are not so
// many.
func Later(version uint32, n uint64) uint32 {
	if left := uint64(MaxEpoch - epoch(version)); n > left {
		return version
	}
	return (epoch(version) + uint32(n)) << epochBits
}

// Reclaimed reports whether the token is of another epoch than the first.
func (t Token) Reclaimed() bool { return epoch(t.Version) > 0 }

// Worn returns the first token of which half the versions of its epoch are used up. If a peer that knows no epochs uses up
// all, the next one begins without a takeover, and what it grants from then on is void to those who know.
func (r *Ring) Worn() (t Token, ok bool) {
	i := slices.IndexFunc(r.Tokens, func(t Token) bool { return t.Version<<(32-epochBits)>>31 == 1 })
	if i < 0 {
		return Token{}, false
	}
	return r.Tokens[i], true
}

// CanReclaim reports whether p has a token for which there is another epoch.
func (r *Ring) CanReclaim(p peer.Name) bool {
	return slices.ContainsFunc(r.Tokens, func(t Token) bool { return t.Peer == p && Later(t.Version, 1) > t.Version })
}

var (
	// ErrNotSorted is returned for tokens that are not ascending.
	ErrNotSorted = errors.New("Ring not sorted")
	// ErrTwice is returned for two tokens at one address.
	ErrTwice = errors.New("Token appears twice in ring")
	// ErrOutOfRange is returned for tokens outside the range.
	ErrOutOfRange = errors.New("Token is out of range")
	// ErrTooFree is wrapped for pieces with more free addresses than addresses.
	ErrTooFree = errors.New("reporting too much free space")
	// ErrNotOwned is wrapped when a peer is to give what it does not have.
	ErrNotOwned = errors.New("range not owned")
)

// Token begins a piece of the ring.
type Token struct {
	At      addr.Addr
	Peer    peer.Name
	Version uint32
	Free    uint64 // addresses not in use, as last told by the owner; a hint, at most the size of the piece; the largest uint64 for it and more
}

// Ring is a division of Range. Its fields are to be read only.
type Ring struct {
	Range  addr.Range
	Tokens []Token     // ascending
	Seeds  []peer.Name // among whom the range was first divided, ascending; may be empty
}

// New returns a ring without tokens: one that nobody has divided yet.
func New(r addr.Range) *Ring { return &Ring{Range: r} }

// Empty reports whether there are no tokens.
func (r *Ring) Empty() bool { return len(r.Tokens) == 0 }

// Divide returns the first division of rng among seeds (section 1.5): halves of halves, in the order of the names.
// Seeds are sorted, and duplicates dropped, first.
func Divide(rng addr.Range, seeds []peer.Name) *Ring {
	seeds = slices.Clone(seeds)
	slices.Sort(seeds)
	seeds = slices.Compact(seeds)
	return &Ring{Range: rng, Tokens: divide(nil, rng, seeds), Seeds: seeds}
}

func divide(to []Token, rng addr.Range, seeds []peer.Name) []Token {
	if len(seeds) == 0 {
		return to
	}
	size := rng.Size()
	if len(seeds) == 1 || size == addr.From64(1) {
		return append(to, Token{At: rng.Start, Peer: seeds[0], Free: size.Uint64()})
	}
	mid, half := rng.Start.Add(size.Half()), len(seeds)/2
	to = divide(to, addr.Range{Start: rng.Start, End: mid}, seeds[:half])
	return divide(to, addr.Range{Start: mid, End: rng.End}, seeds[half:])
}

// Check tests the invariants in the order of section 1.3.
func (r *Ring) Check() error {
	for i := 1; i < len(r.Tokens); i++ {
		switch r.Tokens[i-1].At.Compare(r.Tokens[i].At) {
		case 0:
			return ErrTwice
		case 1:
			return ErrNotSorted
		}
	}
	for _, t := range r.Tokens {
		if !r.Range.Contains(t.At) {
			return ErrOutOfRange
		}
	}
	for i, t := range r.Tokens {
		if d := r.distance(i); t.Free > d {
			//lint:ignore ST1005 text of Weave Net 2.8
			return fmt.Errorf("Entry %v-%v %w: %d > %d", t.At, r.after(i), ErrTooFree, t.Free, d)
		}
	}
	return nil
}

// after returns where the piece of token i ends: at the next token, or at the first one.
func (r *Ring) after(i int) addr.Addr { return r.Tokens[(i+1)%len(r.Tokens)].At }

// distance returns the size of the piece of token i.
func (r *Ring) distance(i int) uint64 { return r.span(r.Tokens[i].At, r.after(i)).Uint64() }

// span returns the way from a to b, over the end of the range if need be; all of the range if they are equal.
func (r *Ring) span(a, b addr.Addr) addr.Addr {
	if a.Less(b) {
		return b.Sub(a)
	}
	return r.Range.End.Sub(a).Add(b.Sub(r.Range.Start))
}

// Piece is a token with the addresses it stands for. The piece that runs over the end of the range is two Pieces.
type Piece struct {
	Token
	addr.Range
}

// Pieces lists all pieces in ascending order of their ranges.
func (r *Ring) Pieces() []Piece {
	n := len(r.Tokens)
	if n == 0 {
		return nil
	}
	out := make([]Piece, 0, n+1)
	if first := r.Tokens[0].At; r.Range.Start.Less(first) {
		out = append(out, Piece{r.Tokens[n-1], addr.Range{Start: r.Range.Start, End: first}})
	}
	for i, t := range r.Tokens {
		out = append(out, Piece{t, addr.Range{Start: t.At, End: r.end(i)}})
	}
	return out
}

// end returns where the piece of token i ends, or would run over the end of the range.
func (r *Ring) end(i int) addr.Addr {
	if i+1 < len(r.Tokens) {
		return r.Tokens[i+1].At
	}
	return r.Range.End
}

// at returns the index of the token whose piece holds a, or -1 if there are no tokens.
func (r *Ring) at(a addr.Addr) int {
	i := sort.Search(len(r.Tokens), func(i int) bool { return a.Less(r.Tokens[i].At) }) - 1
	if i < 0 {
		return len(r.Tokens) - 1
	}
	return i
}

// Owner returns the peer that a belongs to, or 0 if nobody owns it.
func (r *Ring) Owner(a addr.Addr) peer.Name {
	i := r.at(a)
	if i < 0 || !r.Range.Contains(a) {
		return 0
	}
	return r.Tokens[i].Peer
}

// Token returns the token whose piece holds a; ok is false if there is none.
func (r *Ring) Token(a addr.Addr) (t Token, ok bool) {
	i := r.at(a)
	if i < 0 || !r.Range.Contains(a) {
		return Token{}, false
	}
	return r.Tokens[i], true
}

// Knows reports whether r is not from before t was in the ring: whether it has t or a later token there, or a piece of a later epoch.
func (r *Ring) Knows(t Token) bool {
	x, ok := r.Token(t.At)
	return ok && (x.At == t.At && x.Version >= t.Version || epoch(x.Version) > epoch(t.Version))
}

// Owned returns the ranges that belong to p, ascending, with neighbours joined.
func (r *Ring) Owned(p peer.Name) []addr.Range {
	var out []addr.Range
	for _, x := range r.Pieces() {
		if x.Peer == p {
			out = addr.Append(out, x.Range)
		}
	}
	return out
}

// Owners returns everyone who has a token, in ascending order.
func (r *Ring) Owners() []peer.Name {
	seen := make(map[peer.Name]bool, len(r.Seeds))
	var out []peer.Name
	for _, t := range r.Tokens {
		if !seen[t.Peer] {
			seen[t.Peer] = true
			out = append(out, t.Peer)
		}
	}
	slices.Sort(out)
	return out
}

// Donor is a peer that may have free addresses.
type Donor struct {
	Peer peer.Name
	Free uint64 // sum of what it last told of its pieces there
}

// Donors returns the peers other than me that told of free addresses in pieces which overlap want, in order of names
// (section 1.11).
func (r *Ring) Donors(me peer.Name, want addr.Range) []Donor {
	sums := make(map[peer.Name]uint64)
	for _, x := range r.Pieces() {
		if x.Peer == me || x.Free == 0 || !x.Overlaps(want) {
			continue
		}
		if sum := sums[x.Peer] + x.Free; sum >= x.Free {
			sums[x.Peer] = sum
		}
	}
	out := make([]Donor, 0, len(sums))
	for p, free := range sums {
		out = append(out, Donor{p, free})
	}
	slices.SortFunc(out, func(a, b Donor) int { return int(int64(a.Peer) - int64(b.Peer)) })
	return out
}

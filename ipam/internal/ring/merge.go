package ring

import (
	"errors"
	"fmt"
	"slices"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

var (
	// ErrSeeds is returned for a ring that was first divided among others than ours.
	//lint:ignore ST1005 text of Weave Net 2.8
	ErrSeeds = errors.New("Received ring was seeded differently from ours")
	// ErrRange is returned for a ring over another range.
	//lint:ignore ST1005 text of Weave Net 2.8
	ErrRange = errors.New("Received range differs from ours")
)

// Conflict is an incoming change that was refused, because it takes away a piece of ours of which addresses are in use.
type Conflict struct {
	Kind  Kind
	Rival Token  // the refused token: the first that takes something
	Ours  Token  // our token there; of the piece that would be split, for a Split
	Lost  []Loss // what we would no longer own of the piece, in use or not; ascending; all of it, if that are more than maxLost
}

// maxLost bounds Conflict.Lost. It is more than most hosts have containers, each of which may cut the piece in two.
const maxLost = 1024

// Loss is a range that would belong to another peer.
type Loss struct {
	addr.Range
	To peer.Name
}

// Kind tells conflicts apart.
type Kind uint8

const (
	// Split is a new token of another peer inside a piece of ours.
	Split Kind = iota + 1
	// Inconsistent is another owner for a token of ours at the same version.
	Inconsistent
	// Newer is another owner for a token of ours at a higher version.
	Newer
)

// Error describes the conflict in the words of Weave Net 2.8.
func (c Conflict) Error() string {
	switch c.Kind {
	case Inconsistent:
		return fmt.Sprintf("Inconsistent entries for %v: owned by %v but incoming message says %v",
			c.Ours.At, c.Ours.Peer, c.Rival.Peer)
	case Newer:
		return fmt.Sprintf("Received update for IP range I own at %v v%d: incoming message says owner %v v%d",
			c.Ours.At, c.Ours.Version, c.Rival.Peer, c.Rival.Version)
	default:
		return fmt.Sprintf("Peer %v says it owns the IP range from %v, which I think I own", c.Rival.Peer, c.Rival.At)
	}
}

// Merged is the result of a merge.
type Merged struct {
	Ring      *Ring       // the same pointer if nothing at all is different
	Changed   bool        // an incoming token was taken
	Conflicts []Conflict  // what was refused, ascending
	Ahead     []addr.Addr // me's tokens that came in at a version me has not given them, in their epoch; ascending
}

// Merge joins an incoming ring into r, as me, who alone may change its tokens (section 1.4). used says whether an
// address of a range is not free at me; it is asked only for ranges that are me's in r.
//
// For each address the token with the higher version is taken; at the same version, with different owners, the one with
// more free addresses, and then the one with the lower owner. Tokens of me's own are kept, at a version above what was
// heard.
//
// A peer of Weave Net 2.8 refuses an incoming ring as a whole for one disputed token, and overlooks some losses. Here
// what would be lost is computed, and each piece of me's is either changed as the incoming ring says, or, if an address
// in use would be lost, kept as it was and reported; the rest of the ring is merged all the same. This is a local
// decision, and so compatible.
//
// A token that only one of the rings has, of an older epoch than the piece of the other ring in which it lies, is dropped:
// it was put there before the piece was taken over from a dead owner, or later by that owner, unheard.
//
// An error means that nothing can be merged: the incoming ring is malformed or belongs to another cluster.
func (r *Ring) Merge(in *Ring, me peer.Name, used func(addr.Range) bool) (Merged, error) {
	if err := in.Check(); err != nil {
		return Merged{}, err
	}
	if len(r.Seeds) > 0 && len(in.Seeds) > 0 && !slices.Equal(r.Seeds, in.Seeds) {
		return Merged{}, ErrSeeds
	}
	if r.Range != in.Range {
		return Merged{}, ErrRange
	}
	m := merge{ours: r, theirs: in, me: me, used: used, slots: align(r.Tokens, in.Tokens)}
	m.choose()
	m.refuse()
	return m.result(in.Seeds), nil
}

// slot is an address at which one ring or both have a token.
type slot struct {
	at           addr.Addr
	ours, theirs *Token
	piece, cover int   // index of our and of their token whose piece this lies in; -1 if there is none
	chosen       Token // whose piece this is; valid after choose
	taken        bool  // chosen came from theirs
	void         bool  // the token was put into a piece that has come into a new epoch since
}

// merge is one merge on its way.
type merge struct {
	ours   *Ring
	theirs *Ring
	me     peer.Name
	used   func(addr.Range) bool
	slots  []slot

	ahead     []addr.Addr
	refused   map[int]*Conflict // by piece
	conflicts []*Conflict
}

// align walks both lists, which are ascending, into one.
func align(ours, theirs []Token) []slot {
	slots := make([]slot, 0, max(len(ours), len(theirs))+8)
	for i, j := 0, 0; i < len(ours) || j < len(theirs); {
		var s slot
		if j == len(theirs) || i < len(ours) && !theirs[j].At.Less(ours[i].At) {
			s.at, s.ours = ours[i].At, &ours[i]
		} else {
			s.at = theirs[j].At
		}
		if j < len(theirs) && theirs[j].At == s.at {
			s.theirs = &theirs[j]
			j++
		}
		if s.ours != nil {
			i++
		}
		s.piece, s.cover = i-1, j-1
		if i == 0 {
			s.piece = len(ours) - 1 // before our first token: the piece that runs over the end
		}
		if j == 0 {
			s.cover = len(theirs) - 1
		}
		slots = append(slots, s)
	}
	return slots
}

// choose picks a token for each slot, without regard to what is in use.
func (m *merge) choose() {
	last := -1 // the last slot with a token
	for i := range m.slots {
		s := &m.slots[i]
		switch {
		case s.theirs == nil:
			s.chosen, s.void = *s.ours, s.cover >= 0 && epoch(m.theirs.Tokens[s.cover].Version) > epoch(s.ours.Version)
		case s.ours == nil:
			s.chosen, s.void = *s.theirs, s.piece >= 0 && epoch(m.ours.Tokens[s.piece].Version) > epoch(s.theirs.Version)
			s.taken = !s.void
		default:
			s.chosen, s.taken = m.pick(*s.ours, *s.theirs)
		}
		if !s.void {
			last = i
		}
	}
	for i := range m.slots { // what is void is part of the piece before
		if s := &m.slots[i]; !s.void {
			last = i
		} else {
			s.chosen = m.slots[last].chosen
		}
	}
}

func (m *merge) pick(ours, theirs Token) (t Token, taken bool) {
	if ours.Peer == m.me && theirs.Peer == m.me {
		if theirs.Version > ours.Version {
			if epoch(theirs.Version) == epoch(ours.Version) { // or else it was taken over and given back
				m.ahead = append(m.ahead, ours.At)
			}
			ours.Version = raise(theirs.Version, 1)
		}
		return ours, false
	}
	if ours.Version != theirs.Version {
		if theirs.Version > ours.Version {
			return theirs, true
		}
		return ours, false
	}
	if ours.Free != theirs.Free {
		if theirs.Free > ours.Free {
			return theirs, true
		}
		return ours, false
	}
	if theirs.Peer < ours.Peer {
		return theirs, true
	}
	return ours, false
}

// refuse finds the pieces of ours of which addresses in use would go to others.
func (m *merge) refuse() {
	for i := range m.slots {
		m.segments(i, func(s *slot, r addr.Range) {
			if m.losing(s) && m.used(r) {
				m.mark(s.piece)
			}
		})
	}
	if m.refused == nil {
		return
	}
	for i := range m.slots {
		m.segments(i, func(s *slot, r addr.Range) {
			if c := m.refused[s.piece]; c != nil && m.losing(s) {
				m.blame(c, s, r)
			}
		})
	}
}

// losing reports whether the addresses behind s, up to the next slot, are ours now and would be another's.
func (m *merge) losing(s *slot) bool {
	return s.piece >= 0 && m.ours.Tokens[s.piece].Peer == m.me && s.chosen.Peer != m.me
}

// segments calls f for the range from slot i to the next, in two parts if it runs over the end. The front part lies in
// the same piece of ours, since there is no slot between.
func (m *merge) segments(i int, f func(*slot, addr.Range)) {
	s := &m.slots[i]
	if i+1 < len(m.slots) {
		f(s, addr.Range{Start: s.at, End: m.slots[i+1].at})
		return
	}
	f(s, addr.Range{Start: s.at, End: m.ours.Range.End})
	if front := (addr.Range{Start: m.ours.Range.Start, End: m.slots[0].at}); !front.Empty() {
		f(s, front)
	}
}

func (m *merge) mark(piece int) {
	if m.refused == nil {
		m.refused = make(map[int]*Conflict)
	}
	if m.refused[piece] == nil {
		c := &Conflict{Ours: m.ours.Tokens[piece]}
		m.refused[piece] = c
		m.conflicts = append(m.conflicts, c)
	}
}

func (m *merge) blame(c *Conflict, s *slot, r addr.Range) {
	last := len(c.Lost) - 1
	switch {
	case last >= 0 && c.Lost[last].To == s.chosen.Peer && c.Lost[last].End == r.Start:
		c.Lost[last].End = r.End
	case last < maxLost:
		c.Lost = append(c.Lost, Loss{r, s.chosen.Peer})
	}
	if c.Kind != 0 {
		return
	}
	c.Rival = s.chosen
	switch {
	case s.ours == nil:
		c.Kind = Split
	case s.ours.Version == s.chosen.Version:
		c.Kind = Inconsistent
	default:
		c.Kind = Newer
	}
}

// result builds the merged ring.
func (m *merge) result(seeds []peer.Name) Merged {
	res := Merged{Ahead: m.ahead}
	tokens := make([]Token, 0, len(m.slots))
	for _, s := range m.slots {
		if m.refused[s.piece] == nil {
			if !s.void {
				tokens = append(tokens, s.chosen)
				res.Changed = res.Changed || s.taken
			}
		} else if s.ours != nil {
			t := *s.ours
			if s.theirs != nil && s.theirs.Peer == m.me && epoch(s.theirs.Version) == epoch(t.Version) {
				t = s.chosen // ours, at a raised version; another epoch would void what is refused for others too
			}
			tokens = append(tokens, t)
		}
	}
	next := m.ours.with(tokens)
	if len(next.Seeds) == 0 {
		next.Seeds = seeds
	}
	next.clip()
	if slices.Equal(next.Tokens, m.ours.Tokens) && len(next.Seeds) == len(m.ours.Seeds) {
		next = m.ours
	}
	res.Ring = next
	for _, c := range m.conflicts {
		if len(c.Lost) > maxLost {
			m.loseAll(c)
		}
		slices.SortFunc(c.Lost, func(a, b Loss) int { return a.Start.Compare(b.Start) })
		res.Conflicts = append(res.Conflicts, *c)
	}
	return res
}

// loseAll makes c one about all of our piece, with its first rival.
func (m *merge) loseAll(c *Conflict) {
	c.Lost = nil
	for _, x := range m.ours.Pieces() {
		if x.At == c.Ours.At {
			c.Lost = append(c.Lost, Loss{x.Range, c.Rival.Peer})
		}
	}
}

// clip lowers what is told as free to the size of the piece, where a merge made a piece smaller. Weave Net 2.8 does so
// for its own tokens, and refuses the merge for others'; but the hint is stale, and not wrong.
func (r *Ring) clip() {
	for i := range r.Tokens {
		r.Tokens[i].Free = min(r.Tokens[i].Free, r.distance(i))
	}
}

package mesh

import (
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

const shortIDTries = 10

// shortTable says who owns each short id (section 1.4 of the mesh specification): of the peers that claim one, the first
// to come, until a lower name claims it. It is not safe for concurrent use.
type shortTable struct {
	slots         map[peer.ShortID]*shortSlot
	invalidations int             // how often a mapping that somebody may have kept became wrong
	snapshot      *shortIDs       // who owns what; nil after a change
	pick          func(n int) int // random, in [0, n)
}

type shortSlot struct {
	owner  peer.Name // 0: free, but used before
	others []peer.Name
}

func newShortTable(pick func(n int) int) *shortTable {
	return &shortTable{slots: map[peer.ShortID]*shortSlot{}, pick: pick}
}

// owner returns the peer a short id stands for.
func (t *shortTable) owner(id peer.ShortID) (peer.Name, bool) {
	s := t.slots[id]
	if s == nil || s.owner == 0 {
		return 0, false
	}
	return s.owner, true
}

// add notes the claim of a peer that has come.
func (t *shortTable) add(e *entry) {
	if !e.hasShortID {
		return
	}
	t.snapshot = nil
	s := t.slots[e.shortID]
	switch {
	case s == nil:
		t.slots[e.shortID] = &shortSlot{owner: e.name}
	case s.owner == 0:
		s.owner = e.name
		t.invalidations++
	case s.owner > e.name:
		s.others = append(s.others, s.owner)
		s.owner = e.name
		t.invalidations++
	default:
		s.others = append(s.others, e.name)
	}
}

// remove takes the claim of a peer back that has left or changes its id.
func (t *shortTable) remove(e *entry) {
	s := t.slots[e.shortID]
	if !e.hasShortID || s == nil {
		return
	}
	t.snapshot = nil
	if s.owner != e.name {
		s.others = slices.DeleteFunc(s.others, func(n peer.Name) bool { return n == e.name })
		return
	}
	s.owner = 0
	if len(s.others) == 0 {
		return
	}
	next := slices.Min(s.others)
	s.others = slices.DeleteFunc(s.others, func(n peer.Name) bool { return n == next })
	s.owner = next
	t.invalidations++
}

// choose returns an id that nobody owns; ok is false if there is none.
func (t *shortTable) choose() (id peer.ShortID, ok bool) {
	const n = int(peer.MaxShortID) + 1
	for range shortIDTries {
		id := peer.ShortID(t.pick(n))
		if _, taken := t.owner(id); !taken {
			return id, true
		}
	}
	var free []peer.ShortID
	for i := range n {
		if _, taken := t.owner(peer.ShortID(i)); !taken {
			free = append(free, peer.ShortID(i))
		}
	}
	if len(free) == 0 {
		return 0, false
	}
	return free[t.pick(len(free))], true
}

// shortIDs says at one moment who owns each short id. It is not changed.
type shortIDs struct {
	byID   map[peer.ShortID]peer.Name
	byName map[peer.Name]peer.ShortID
}

// owners returns the table as it is now: the same as before if nothing has changed.
func (t *shortTable) owners() *shortIDs {
	if t.snapshot != nil {
		return t.snapshot
	}
	ids := &shortIDs{byID: map[peer.ShortID]peer.Name{}, byName: map[peer.Name]peer.ShortID{}}
	for id, s := range t.slots {
		if s.owner != 0 {
			ids.byID[id], ids.byName[s.owner] = s.owner, id
		}
	}
	t.snapshot = ids
	return ids
}

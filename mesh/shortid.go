package mesh

import (
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

const shortIDTries = 10

// shortTable says who owns each short id (section 1.4 of the mesh specification): of the peers that claim one, the first
// to come, until a lower name claims it. It is not safe for concurrent use.
type shortTable struct {
	owners        map[peer.ShortID]peer.Name   // 0: free, but used before
	others        map[peer.ShortID][]peer.Name // that claim it too
	invalidations int                          // how often a mapping that somebody may have kept became wrong
	snapshot      *shortIDs                    // who owns what; nil after a change
	pick          func(n int) int              // random, in [0, n)
}

func newShortTable(pick func(n int) int) *shortTable {
	return &shortTable{owners: map[peer.ShortID]peer.Name{}, others: map[peer.ShortID][]peer.Name{}, pick: pick}
}

// owner returns the peer a short id stands for.
func (t *shortTable) owner(id peer.ShortID) (peer.Name, bool) {
	owner := t.owners[id]
	return owner, owner != 0
}

// add notes the claim of a peer that has come.
func (t *shortTable) add(e *entry) {
	if !e.hasShortID {
		return
	}
	t.snapshot = nil
	id := e.shortID
	owner, used := t.owners[id]
	switch {
	case !used:
		t.owners[id] = e.name
	case owner == 0:
		t.owners[id] = e.name
		t.invalidations++
	case owner > e.name:
		t.others[id] = append(t.others[id], owner)
		t.owners[id] = e.name
		t.invalidations++
	default:
		t.others[id] = append(t.others[id], e.name)
	}
}

// remove takes the claim of a peer back that has left or changes its id.
func (t *shortTable) remove(e *entry) {
	owner, used := t.owners[e.shortID]
	if !e.hasShortID || !used {
		return
	}
	t.snapshot = nil
	if owner != e.name {
		t.withdraw(e.shortID, e.name)
		return
	}
	t.owners[e.shortID] = 0
	if others := t.others[e.shortID]; len(others) > 0 {
		next := slices.Min(others)
		t.withdraw(e.shortID, next)
		t.owners[e.shortID] = next
		t.invalidations++
	}
}

// withdraw takes a peer out of those that claim an id which they do not own.
func (t *shortTable) withdraw(id peer.ShortID, name peer.Name) {
	left := slices.DeleteFunc(t.others[id], func(n peer.Name) bool { return n == name })
	t.others[id] = left
	if len(left) == 0 {
		delete(t.others, id)
	}
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

// current returns the table as it is now: the same as before if nothing has changed.
func (t *shortTable) current() *shortIDs {
	if t.snapshot != nil {
		return t.snapshot
	}
	ids := &shortIDs{byID: map[peer.ShortID]peer.Name{}, byName: map[peer.Name]peer.ShortID{}}
	for id, owner := range t.owners {
		if owner != 0 {
			ids.byID[id], ids.byName[owner] = owner, id
		}
	}
	t.snapshot = ids
	return ids
}

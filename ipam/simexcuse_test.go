package ipam_test

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

// excuses are the reasons for which an address may be held twice in a simulation. Each is about some addresses, or some peers,
// and nothing else is excused.
//
//   - Rings that were born apart give out the same addresses until they meet. So two peers whose rings differ excuse each
//     other, and a peer that has changed over excuses what it brought along.
//   - Space that an operator took over from a peer that was not gone, or of which others who were away knew more, may be in
//     use on both sides.
type excuses struct {
	rings   map[peer.Name]string              // the seeds of each, as last seen
	joined  map[peer.Name]bool                // who has changed over since
	brought map[peer.Name]map[netip.Addr]bool // what they held then
	tainted []span                            // taken over from a peer that was not gone
}

func newExcuses() excuses {
	return excuses{make(map[peer.Name]string), make(map[peer.Name]bool), make(map[peer.Name]map[netip.Addr]bool), nil}
}

// noteRings looks at who has which ring.
func (s *sim) noteRings() {
	if s.birth != apart {
		return
	}
	for _, n := range s.sorted() {
		st := n.Status()
		s.rings[n.name] = fmt.Sprint(st.Seeds)
		s.mu.Lock()
		joined := s.joined[n.name]
		delete(s.joined, n.name)
		s.mu.Unlock()
		if !joined {
			continue
		}
		if s.brought[n.name] == nil {
			s.brought[n.name] = make(map[netip.Addr]bool)
		}
		for _, x := range st.Strays {
			s.brought[n.name][x.Addr] = true
		}
	}
}

// excused reports whether two peers may both hold a.
func (s *sim) excused(a netip.Addr, at, other peer.Name) bool {
	tainted := slices.ContainsFunc(s.tainted, func(x span) bool { return x.from.Compare(a) <= 0 && a.Less(x.to) })
	return tainted || s.rings[at] != s.rings[other] || s.brought[at][a] || s.brought[other][a]
}

// taint notes that what was taken over may not have been given up.
func (s *sim) taint(space []span) { s.tainted = append(s.tainted, space...) }

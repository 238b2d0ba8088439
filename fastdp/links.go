package fastdp

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
)

// linkSet holds the confirmed links of a datapath. Readers take no lock. The zero value is empty.
type linkSet struct {
	mu        sync.Mutex // serializes writers
	byUID     atomic.Pointer[map[uint64]*link]
	byArrival atomic.Pointer[map[arrival][]*link] // the youngest first: several peers may be behind one address
}

// arrival is how frames of a link arrive: with these outer addresses, at this UDP port.
type arrival struct {
	outer outer
	udp   uint16
}

// own returns l as a link of this set's datapath; nil if it is another overlay's.
func (s *linkSet) own(l overlay.Link) *link {
	if mine, ok := l.(*link); ok && &mine.d.table.links == s {
		return mine
	}
	return nil
}

// arriving returns the links that frames with these outer addresses come over, the youngest first. The list is not to be
// changed.
func (s *linkSet) arriving(o outer, udp uint16) []*link { return load(&s.byArrival)[arrival{o, udp}] }

// connection returns the link of a connection; nil if there is none.
func (s *linkSet) connection(uid uint64) *link { return load(&s.byUID)[uid] }

// all returns the links by their connections. The map is not to be changed.
func (s *linkSet) all() map[uint64]*link { return load(&s.byUID) }

func load[K comparable, V any](p *atomic.Pointer[map[K]V]) map[K]V {
	if m := p.Load(); m != nil {
		return *m
	}
	return nil
}

// add adds a link; it takes the place of an older one of the same connection.
func (s *linkSet) add(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.byUID, func(m map[uint64]*link) { m[l.params.ConnUID] = l })
	change(&s.byArrival, func(m map[arrival][]*link) { m[l.arrival()] = append([]*link{l}, m[l.arrival()]...) })
}

// remove forgets a link, but not one that has taken its place.
func (s *linkSet) remove(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connection(l.params.ConnUID) == l {
		change(&s.byUID, func(m map[uint64]*link) { delete(m, l.params.ConnUID) })
	}
	change(&s.byArrival, func(m map[arrival][]*link) {
		left := slices.DeleteFunc(slices.Clone(m[l.arrival()]), func(o *link) bool { return o == l })
		if m[l.arrival()] = left; len(left) == 0 {
			delete(m, l.arrival())
		}
	})
}

// change publishes a changed copy of a map.
func change[K comparable, V any](p *atomic.Pointer[map[K]V], f func(map[K]V)) {
	m := maps.Clone(load(p))
	if m == nil {
		m = map[K]V{}
	}
	f(m)
	p.Store(&m)
}

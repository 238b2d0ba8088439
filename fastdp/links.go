package fastdp

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
)

// linkSet holds the confirmed links of a datapath. Readers take no lock. The zero value is empty.
type linkSet struct {
	mu        sync.Mutex // serializes writers
	byUID     atomic.Pointer[map[uint64]*link]
	byArrival atomic.Pointer[map[arrival]*link]
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

// arriving returns the link that frames with these outer addresses come over; nil if there is none.
func (s *linkSet) arriving(o outer, udp uint16) *link { return load(&s.byArrival)[arrival{o, udp}] }

// connection returns the link of a connection; nil if there is none.
func (s *linkSet) connection(uid uint64) *link { return load(&s.byUID)[uid] }

// all returns the links by their connections. The map is not to be changed.
func (s *linkSet) all() map[uint64]*link { return load(&s.byUID) }

func load[K comparable](p *atomic.Pointer[map[K]*link]) map[K]*link {
	if m := p.Load(); m != nil {
		return *m
	}
	return nil
}

// add adds a link; it takes the place of an older one with the same addresses.
func (s *linkSet) add(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	put(&s.byUID, l.params.ConnUID, l)
	put(&s.byArrival, l.arrival(), l)
}

// remove forgets a link, but not one that has taken its place.
func (s *linkSet) remove(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop(&s.byUID, l.params.ConnUID, l)
	drop(&s.byArrival, l.arrival(), l)
}

func put[K comparable](p *atomic.Pointer[map[K]*link], k K, l *link) {
	m := maps.Clone(load(p))
	if m == nil {
		m = map[K]*link{}
	}
	m[k] = l
	p.Store(&m)
}

func drop[K comparable](p *atomic.Pointer[map[K]*link], k K, l *link) {
	if load(p)[k] != l {
		return
	}
	m := maps.Clone(load(p))
	delete(m, k)
	p.Store(&m)
}

package ipam

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// Holding is an address that an owner has.
type Holding struct {
	Owner string       `json:"owner"`
	Addr  netip.Prefix `json:"addr"` // the address, with the length of its subnet
}

// Saved is what a Store holds.
type Saved struct {
	// State is the state of the allocator, apart from the addresses: opaque bytes. Nil if none was ever committed.
	State []byte
	// Holdings are the addresses and their owners, in the order in which they were first put.
	Holdings []Holding
	// Rewrite tells that this was read from another place or layout, and that the first Commit must hold all of it.
	Rewrite bool
}

// Change is one step from one consistent Saved to the next.
type Change struct {
	// Reset forgets everything that was saved, before the rest of the change is applied.
	Reset bool
	// State replaces the state. Nil leaves it.
	State []byte
	// Delete forgets the holdings of these addresses; those that are not held are ignored.
	Delete []netip.Addr
	// Put records holdings. There is one holding for an address: the last one put. An address is never in Delete and Put
	// of one Change.
	Put []Holding
}

// Store keeps what an allocator must find again after its process was killed at any instruction.
//
// The allocator calls the methods of its Store one at a time: Load once, before all else, then Commit as often as
// something has changed. It owns nothing that it hands over for longer than the call, so a Store copies what it keeps;
// and what Load returns is the allocator's.
type Store interface {
	// Load returns what the last successful Commit left, or an empty Saved if there never was one. An error means that
	// the contents cannot be trusted; the allocator does not start then.
	Load() (Saved, error)

	// Commit applies c as a whole, or not at all, and returns nil only after c would survive the end of the process and
	// of the machine. After an error either may be the case; the allocator commits the same facts again later, and until
	// then tells callers that their changes are not stored. Commit may take long: the allocator gathers changes
	// meanwhile, and commits them together.
	Commit(c Change) error
}

// MemStore is a Store in memory. It survives an allocator and not the process, which is what tests of restarts need.
// The zero MemStore is empty and ready for use. It is safe for concurrent use.
type MemStore struct {
	mu       sync.Mutex
	state    []byte
	holdings map[netip.Addr]numbered
	next     uint64
	fail     error
}

// numbered is a holding with its place in the order.
type numbered struct {
	Holding
	seq uint64
}

var _ Store = (*MemStore)(nil)

// Load implements [Store].
func (s *MemStore) Load() (Saved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Saved{State: slices.Clone(s.state), Holdings: inOrder(slices.Collect(maps.Values(s.holdings)))}, nil
}

// inOrder returns holdings by their place.
func inOrder(list []numbered) []Holding {
	slices.SortFunc(list, func(a, b numbered) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	out := make([]Holding, len(list))
	for i, n := range list {
		out[i] = n.Holding
	}
	return out
}

// Commit implements [Store].
func (s *MemStore) Commit(c Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if c.Reset {
		s.state, s.holdings = nil, nil
	}
	if s.holdings == nil {
		s.holdings = make(map[netip.Addr]numbered)
	}
	if c.State != nil {
		s.state = slices.Clone(c.State)
	}
	for _, a := range c.Delete {
		delete(s.holdings, a)
	}
	for _, h := range c.Put {
		n := numbered{h, s.next}
		if old, ok := s.holdings[h.Addr.Addr()]; ok {
			n.seq = old.seq
		} else {
			s.next++
		}
		s.holdings[h.Addr.Addr()] = n
	}
	return nil
}

// Fail makes every Commit fail with err from now on; nil ends that.
func (s *MemStore) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

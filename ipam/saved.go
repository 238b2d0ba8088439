package ipam

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// wireSaved is the state in the store.
type wireSaved struct {
	Peer     uint64
	Universe string
	Ring     *wireRing
	Voter    wireVoter
	Paxos    map[wireVoter]wireClaim
	Ring6    []byte // of IPv6, as in wire6.go
	Contact  int64  // Unix seconds
	Reclaim  map[uint64]uint64
	Round    uint64
	Locks    []wireLock
	Doubts   []string
	Lapsed   bool
	Lost     []wireHolding
}

type wireHolding struct{ Owner, Addr string }

// savedState is what the store keeps apart from holdings.
type savedState struct {
	peer     peer.Name
	universe netip.Prefix
	ring     *ring.Ring // nil: none yet
	voter    paxos.Voter
	claims   paxos.Claims // nil: none
	contact  time.Time    // see watch; in whole seconds
	delays   map[peer.Name]time.Duration
	round    uint64
	locks    map[peer.Name]proposal
	doubts   []netip.Addr // holdings that are in doubt, see fence.go
	lapsed   bool         // we were cut off, and used what we had all the same
	lost     []Holding
}

func encodeSaved(s savedState) []byte {
	w := wireSaved{
		Peer:     uint64(s.peer),
		Universe: s.universe.String(),
		Voter:    toWireVoter(s.voter),
		Paxos:    toWireClaims(s.claims),
	}
	switch {
	case s.ring == nil:
	case s.universe.Addr().Is4():
		w.Ring = toWireRing(s.ring, s.peer)
	default:
		w.Ring6 = appendRing(nil, s.ring, s.peer)
	}
	if !s.contact.IsZero() {
		w.Contact = s.contact.Unix()
	}
	w.Reclaim, w.Round, w.Locks = toWireDelays(s.delays), s.round, toWireLocks(s.locks)
	for _, a := range s.doubts {
		w.Doubts = append(w.Doubts, a.String())
	}
	w.Lapsed = s.lapsed
	for _, h := range s.lost {
		w.Lost = append(w.Lost, wireHolding{h.Owner, h.Addr.String()})
	}
	return encode(w)
}

func decodeSaved(b []byte) (savedState, error) {
	w := wireSaved{Paxos: map[wireVoter]wireClaim{}, Reclaim: map[uint64]uint64{}}
	if err := decodeStored(b, &w); err != nil {
		return savedState{}, fmt.Errorf("%w: state: %w", ErrCorrupt, err)
	}
	s := savedState{peer: peer.Name(w.Peer), voter: fromWireVoter(w.Voter)}
	var err error
	if s.universe, err = netip.ParsePrefix(w.Universe); err != nil {
		return savedState{}, fmt.Errorf("%w: universe: %w", ErrCorrupt, err)
	}
	if w.Ring != nil && len(w.Ring.Entries) > 0 {
		s.ring, err = fromWireRing(w.Ring)
	} else if len(w.Ring6) > 0 {
		d := reader{b: w.Ring6}
		s.ring, _ = d.ring()
		err = d.end("ring")
	}
	if err == nil && s.ring != nil {
		err = s.ring.Check()
	}
	if err != nil {
		return savedState{}, fmt.Errorf("%w: ring: %w", ErrCorrupt, err)
	}
	if w.Contact != 0 {
		s.contact = time.Unix(w.Contact, 0)
	}
	s.delays, s.round = fromWireDelays(w.Reclaim), w.Round
	if s.locks, err = fromWireLocks(w.Locks); err != nil {
		return savedState{}, fmt.Errorf("%w: locks: %w", ErrCorrupt, err)
	}
	for _, text := range w.Doubts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return savedState{}, fmt.Errorf("%w: doubts: %w", ErrCorrupt, err)
		}
		s.doubts = append(s.doubts, a)
	}
	s.lapsed = w.Lapsed
	for _, h := range w.Lost {
		p, err := netip.ParsePrefix(h.Addr)
		if err != nil {
			return savedState{}, fmt.Errorf("%w: lost: %w", ErrCorrupt, err)
		}
		s.lost = append(s.lost, Holding{h.Owner, p})
	}
	if len(w.Paxos) > 0 {
		if s.claims, err = fromWireClaims(w.Paxos); err != nil {
			return savedState{}, fmt.Errorf("%w: votes: %w", ErrCorrupt, err)
		}
	}
	return s, nil
}

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
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
	Disputes []wireDispute
}

type wireHolding struct{ Owner, Addr string }

// wireDispute is a ring.Conflict, and since when, in Unix seconds.
type wireDispute struct {
	Since       int64
	Kind        uint8
	Rival, Ours wireStake
	Lost        []wireLoss
}

type wireStake struct {
	At                  wireAddr
	Peer, Version, Free uint64
}

type wireLoss struct {
	Start, End wireAddr
	To         uint64
}

// wireAddr are the words of an address, or of the end of a range.
type wireAddr struct{ Hi, Lo uint64 }

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
	disputes map[addr.Addr]*dispute
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
	w.Disputes = toWireDisputes(s.disputes)
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
	if s.disputes, err = fromWireDisputes(w.Disputes, addr.FromPrefix(s.universe)); err != nil {
		return savedState{}, fmt.Errorf("%w: disputes: %w", ErrCorrupt, err)
	}
	if len(w.Paxos) > 0 {
		if s.claims, err = fromWireClaims(w.Paxos); err != nil {
			return savedState{}, fmt.Errorf("%w: votes: %w", ErrCorrupt, err)
		}
	}
	return s, nil
}

func toWireDisputes(disputes map[addr.Addr]*dispute) (w []wireDispute) {
	for _, at := range slices.SortedFunc(maps.Keys(disputes), addr.Addr.Compare) {
		d := disputes[at]
		x := wireDispute{
			Since: d.since.Unix(), Kind: uint8(d.conflict.Kind),
			Rival: toWireStake(d.conflict.Rival), Ours: toWireStake(d.conflict.Ours),
		}
		for _, l := range d.conflict.Lost {
			x.Lost = append(x.Lost, wireLoss{toWireAddr(l.Start), toWireAddr(l.End), uint64(l.To)})
		}
		w = append(w, x)
	}
	return w
}

func fromWireDisputes(w []wireDispute, universe addr.Range) (map[addr.Addr]*dispute, error) {
	if len(w) == 0 {
		return nil, nil
	}
	disputes := make(map[addr.Addr]*dispute, len(w))
	for _, x := range w {
		d := &dispute{since: time.Unix(x.Since, 0)}
		d.conflict.Kind = ring.Kind(x.Kind)
		var err error
		if d.conflict.Rival, err = fromWireStake(x.Rival, universe); err != nil {
			return nil, err
		}
		if d.conflict.Ours, err = fromWireStake(x.Ours, universe); err != nil {
			return nil, err
		}
		for _, y := range x.Lost {
			l := ring.Loss{Range: addr.Range{Start: fromWireAddr(y.Start), End: fromWireAddr(y.End)}}
			if l.To, err = peer.FromUint64(y.To); err != nil {
				return nil, err
			}
			if l.Empty() || !universe.Covers(l.Range) {
				return nil, fmt.Errorf("%w: %v", errOutside, l.Range)
			}
			d.conflict.Lost = append(d.conflict.Lost, l)
		}
		disputes[d.conflict.Ours.At] = d
	}
	return disputes, nil
}

var errOutside = errors.New("not in the range of the ring")

func toWireStake(t ring.Token) wireStake {
	return wireStake{toWireAddr(t.At), uint64(t.Peer), uint64(t.Version), t.Free}
}

func fromWireStake(w wireStake, universe addr.Range) (ring.Token, error) {
	p, err := peer.FromUint64(w.Peer)
	t := ring.Token{At: fromWireAddr(w.At), Peer: p, Version: uint32(w.Version), Free: w.Free}
	if err == nil && !universe.Contains(t.At) {
		err = fmt.Errorf("%w: %v", errOutside, t.At)
	}
	return t, err
}

func toWireAddr(a addr.Addr) wireAddr { return wireAddr{a.Words()[0], a.Words()[1]} }

func fromWireAddr(w wireAddr) addr.Addr { return addr.FromWords([2]uint64{w.Hi, w.Lo}) }

package ipam

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// This file alone knows the forms of section 2.3, 2.4 and 5 of the specification: gob streams of one value each. Gob
// matches fields by name and kind. A message is bounded by the carrier's [gossip.MaxMessage], checked again here.

// Tags of unicast messages.
const (
	tagRequest = 0 // body: range
	tagUpdate  = 1 // body: state
	tagDenied  = 2 // body: range
)

var (
	errTooLong = errors.New("message too long")
	errEmpty   = errors.New("empty message")
	errNumber  = errors.New("number out of range")
)

type wireToken struct {
	Token, Peer   uint64
	Version, Free uint64
}

type wireRing struct {
	Start, End, Peer uint64
	Entries          []wireToken
	Seeds            []uint64
}

type wireVoter struct{ Name, UID uint64 }

type wireID struct {
	Round    uint64
	Proposer wireVoter
}

type wireValue struct {
	Value  []uint64
	Origin wireID
}

type wireClaim struct {
	Promise, Accepted wireID
	AcceptedVal       wireValue
}

// wireState is the gossiped state. A nil Paxos is left out, an empty one is sent.
type wireState struct {
	Now       int64
	Nicknames map[uint64]string
	Paxos     map[wireVoter]wireClaim
	Ring      *wireRing
	Joins     bool              // not known to Weave Net, which ignores it; see join.go
	Reclaim   map[uint64]uint64 // the same; seconds, by peer; see reclaim.go
}

type wireRange struct{ Start, End uint64 }

// wireSaved is the state in the store.
type wireSaved struct {
	Peer     uint64
	Universe string
	Ring     *wireRing
	Voter    wireVoter
	Paxos    map[wireVoter]wireClaim
	Ring6    []byte // of IPv6, as in wire6.go
	Contact  int64  // Unix seconds
	Pending  []wirePending
	Reclaim  map[uint64]uint64
}

type wirePending struct {
	From       uint64
	Start, End [2]uint64
}

// state is a gossiped state, decoded.
type state struct {
	now       int64
	nicknames map[peer.Name]string
	claims    paxos.Claims // nil: the sender does not vote
	ring      *ring.Ring   // nil: the sender has none
	copyOf    peer.Name    // the peer whose copy of the ring this is; 0 if it does not say
	joins     bool         // the sender changes over to a better ring; only with a ring
	delays    map[peer.Name]time.Duration
}

// savedState is what the store keeps apart from holdings.
type savedState struct {
	peer     peer.Name
	universe netip.Prefix
	ring     *ring.Ring // nil: none yet
	voter    paxos.Voter
	claims   paxos.Claims // nil: none
	contact  time.Time    // see watch; in whole seconds
	pending  []claimed
	delays   map[peer.Name]time.Duration
}

// codec is a form of messages.
type codec interface {
	encodeState(state) []byte
	decodeState([]byte) (state, error)
	encodeRange(addr.Range) []byte
	decodeRange([]byte) (addr.Range, error)
}

// gobCodec is the form of Weave Net 2.8.
type gobCodec struct{}

func (gobCodec) encodeState(s state) []byte               { return encodeState(s) }
func (gobCodec) decodeState(b []byte) (state, error)      { return decodeState(b) }
func (gobCodec) encodeRange(r addr.Range) []byte          { return encodeRange(r) }
func (gobCodec) decodeRange(b []byte) (addr.Range, error) { return decodeRange(b) }

func encode(v any) []byte {
	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(v); err != nil {
		panic(fmt.Sprintf("ipam: encode %T: %v", v, err)) // our own types, into memory: cannot fail
	}
	return buf.Bytes()
}

func decode(b []byte, v any) error {
	if len(b) > gossip.MaxMessage {
		return fmt.Errorf("%w: %d bytes", errTooLong, len(b))
	}
	return gob.NewDecoder(bytes.NewReader(b)).Decode(v)
}

func encodeState(s state) []byte {
	w := wireState{Now: s.now, Nicknames: make(map[uint64]string, len(s.nicknames)), Reclaim: toWireDelays(s.delays)}
	for n, nick := range s.nicknames {
		w.Nicknames[uint64(n)] = nick
	}
	if s.ring != nil {
		w.Ring, w.Joins = toWireRing(s.ring, s.copyOf), s.joins
	} else {
		w.Paxos = toWireClaims(s.claims)
	}
	return encode(w)
}

// decodeState reads a state. Gob makes room for as many entries of a map as the message says it has, if the map is nil;
// so none is, and whether the votes are absent is found out by a second look when there are none.
func decodeState(b []byte) (state, error) {
	w := wireState{Nicknames: map[uint64]string{}, Paxos: map[wireVoter]wireClaim{}, Reclaim: map[uint64]uint64{}}
	if err := decode(b, &w); err != nil {
		return state{}, fmt.Errorf("ipam: decode state: %w", err)
	}
	s := state{now: w.Now, nicknames: make(map[peer.Name]string, len(w.Nicknames)), delays: fromWireDelays(w.Reclaim)}
	for n, nick := range w.Nicknames {
		if name, err := peer.FromUint64(n); err == nil && len(nick) <= math.MaxUint8 {
			s.nicknames[name] = nick
		}
	}
	var err error
	if w.Ring != nil && len(w.Ring.Entries) > 0 {
		s.copyOf, _ = peer.FromUint64(w.Ring.Peer) // 0 if it is no name
		s.joins = w.Joins
		s.ring, err = fromWireRing(w.Ring)
	} else if len(w.Paxos) > 0 || hasEmptyVotes(b) {
		s.claims, err = fromWireClaims(w.Paxos)
	}
	if err != nil {
		return state{}, fmt.Errorf("ipam: decode state: %w", err)
	}
	return s, nil
}

// hasEmptyVotes tells present from absent, for a message whose map of votes is empty if it is there.
func hasEmptyVotes(b []byte) bool {
	var w struct {
		Now   int64 // something to have in common with a state of no votes
		Paxos *map[wireVoter]wireClaim
	}
	return decode(b, &w) == nil && w.Paxos != nil
}

func encodeRange(r addr.Range) []byte {
	return encode(wireRange{r.Start.Uint64(), r.End.Uint64()})
}

func decodeRange(b []byte) (addr.Range, error) {
	var w wireRange
	if err := decode(b, &w); err != nil {
		return addr.Range{}, fmt.Errorf("ipam: decode range: %w", err)
	}
	if w.Start > math.MaxUint32 || w.End > math.MaxUint32 {
		return addr.Range{}, fmt.Errorf("ipam: decode range: %w", errNumber)
	}
	return addr.Range{Start: addr.From64(w.Start), End: addr.From64(w.End)}, nil
}

func encodeUnicast(tag byte, body []byte) []byte {
	return append(append(make([]byte, 0, 1+len(body)), tag), body...)
}

func toWireRing(r *ring.Ring, copyOf peer.Name) *wireRing {
	w := &wireRing{Start: r.Range.Start.Uint64(), End: r.Range.End.Uint64(), Peer: uint64(copyOf)}
	w.Entries = make([]wireToken, len(r.Tokens))
	for i, t := range r.Tokens {
		w.Entries[i] = wireToken{t.At.Uint64(), uint64(t.Peer), uint64(t.Version), t.Free}
	}
	for _, p := range r.Seeds {
		w.Seeds = append(w.Seeds, uint64(p))
	}
	return w
}

func fromWireRing(w *wireRing) (*ring.Ring, error) {
	if w.Start > math.MaxUint32 || w.End > math.MaxUint32 {
		return nil, errNumber
	}
	r := ring.New(addr.Range{Start: addr.From64(w.Start), End: addr.From64(w.End)})
	r.Tokens = make([]ring.Token, len(w.Entries))
	for i, e := range w.Entries {
		name, err := peer.FromUint64(e.Peer)
		if err != nil {
			return nil, err
		}
		if e.Token > math.MaxUint32 || e.Version > math.MaxUint32 || e.Free > math.MaxUint32 {
			return nil, errNumber
		}
		r.Tokens[i] = ring.Token{At: addr.From64(e.Token), Peer: name, Version: uint32(e.Version), Free: e.Free}
	}
	var err error
	r.Seeds, err = fromWireNames(w.Seeds)
	return r, err
}

func fromWireNames(list []uint64) ([]peer.Name, error) {
	if len(list) == 0 {
		return nil, nil
	}
	names := make([]peer.Name, len(list))
	for i, n := range list {
		var err error
		if names[i], err = peer.FromUint64(n); err != nil {
			return nil, err
		}
	}
	return names, nil
}

func toWireDelays(delays map[peer.Name]time.Duration) map[uint64]uint64 {
	if len(delays) == 0 {
		return nil
	}
	w := make(map[uint64]uint64, len(delays))
	for p, d := range delays {
		w[uint64(p)] = uint64(d / time.Second)
	}
	return w
}

// fromWireDelays leaves out what makes no sense.
func fromWireDelays(w map[uint64]uint64) map[peer.Name]time.Duration {
	if len(w) == 0 {
		return nil
	}
	delays := make(map[peer.Name]time.Duration, len(w))
	for n, s := range w {
		if p, err := peer.FromUint64(n); err == nil && s > 0 && s < math.MaxInt64/uint64(time.Second) {
			delays[p] = time.Duration(s) * time.Second
		}
	}
	return delays
}

func toWireVoter(v paxos.Voter) wireVoter { return wireVoter{uint64(v.Name), uint64(v.UID)} }

func fromWireVoter(w wireVoter) paxos.Voter {
	return paxos.Voter{Name: peer.Name(w.Name), UID: peer.UID(w.UID)}
}

func toWireID(id paxos.ID) wireID { return wireID{id.Round, toWireVoter(id.Proposer)} }

func fromWireID(w wireID) paxos.ID {
	return paxos.ID{Round: w.Round, Proposer: fromWireVoter(w.Proposer)}
}

func toWireClaims(claims paxos.Claims) map[wireVoter]wireClaim {
	if claims == nil {
		return nil
	}
	w := make(map[wireVoter]wireClaim, len(claims))
	for v, c := range claims {
		wc := wireClaim{Promise: toWireID(c.Promise), Accepted: toWireID(c.Accepted)}
		for _, n := range c.Value.Peers {
			wc.AcceptedVal.Value = append(wc.AcceptedVal.Value, uint64(n))
		}
		wc.AcceptedVal.Origin = toWireID(c.Value.Origin)
		w[toWireVoter(v)] = wc
	}
	return w
}

func fromWireClaims(w map[wireVoter]wireClaim) (paxos.Claims, error) {
	claims := make(paxos.Claims, len(w))
	for v, wc := range w {
		if _, err := peer.FromUint64(v.Name); err != nil {
			return nil, err
		}
		names, err := fromWireNames(wc.AcceptedVal.Value)
		if err != nil {
			return nil, err
		}
		claims[fromWireVoter(v)] = paxos.Claim{
			Promise:  fromWireID(wc.Promise),
			Accepted: fromWireID(wc.Accepted),
			Value:    paxos.Value{Peers: names, Origin: fromWireID(wc.AcceptedVal.Origin)},
		}
	}
	return claims, nil
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
	for _, x := range s.pending {
		w.Pending = append(w.Pending, wirePending{uint64(x.from), x.Start.Words(), x.End.Words()})
	}
	w.Reclaim = toWireDelays(s.delays)
	return encode(w)
}

func decodeSaved(b []byte) (savedState, error) {
	w := wireSaved{Paxos: map[wireVoter]wireClaim{}, Reclaim: map[uint64]uint64{}}
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&w); err != nil {
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
	for _, x := range w.Pending {
		r := addr.Range{Start: addr.FromWords(x.Start), End: addr.FromWords(x.End)}
		s.pending = append(s.pending, claimed{peer.Name(x.From), r})
	}
	s.delays = fromWireDelays(w.Reclaim)
	if len(w.Paxos) > 0 {
		if s.claims, err = fromWireClaims(w.Paxos); err != nil {
			return savedState{}, fmt.Errorf("%w: votes: %w", ErrCorrupt, err)
		}
	}
	return s, nil
}

// What Weave Net 2.8 stores (section 5.1): bucket "top", and these values.
type (
	weaveCIDR struct {
		Addr      uint64
		PrefixLen int
	}
	weaveOwned struct {
		IsContainer bool
		Cidrs       []weaveCIDR
	}
)

// loadWeave reads the bucket of Weave Net 2.8, if it is there and complete.
func loadWeave(tx *bolt.Tx) (Saved, error) {
	top := tx.Bucket([]byte("top"))
	if top == nil || top.Get([]byte("peername")) == nil || top.Get([]byte("ring")) == nil {
		return Saved{}, nil
	}
	var name uint64
	var w wireRing
	owned := map[string]weaveOwned{}
	for key, into := range map[string]any{"peername": &name, "ring": &w, "ownedAddresses": &owned} {
		v := top.Get([]byte(key))
		if v == nil {
			continue
		}
		if err := gob.NewDecoder(bytes.NewReader(v)).Decode(into); err != nil {
			return Saved{}, fmt.Errorf("%w: %s of Weave Net: %w", ErrCorrupt, key, err)
		}
	}
	return fromWeave(name, &w, owned)
}

func fromWeave(name uint64, w *wireRing, owned map[string]weaveOwned) (Saved, error) {
	self, err := peer.FromUint64(name)
	if err != nil {
		return Saved{}, fmt.Errorf("%w: peer name of Weave Net: %w", ErrCorrupt, err)
	}
	r, err := fromWireRing(w)
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return Saved{}, fmt.Errorf("%w: ring of Weave Net: %w", ErrCorrupt, err)
	}
	universe, ok := prefixOf(r.Range)
	if !ok || r.Empty() {
		return Saved{}, nil
	}
	saved := Saved{State: encodeSaved(savedState{peer: self, universe: universe, ring: r}), Rewrite: true}
	for owner, o := range owned {
		for _, c := range o.Cidrs {
			p := netip.PrefixFrom(addr.From64(c.Addr).Netip(true), c.PrefixLen)
			if c.Addr > math.MaxUint32 || !p.IsValid() {
				return Saved{}, fmt.Errorf("%w: address of %q of Weave Net", ErrCorrupt, owner)
			}
			saved.Holdings = append(saved.Holdings, Holding{owner, p})
		}
	}
	return saved, nil
}

// prefixOf returns the prefix that r is, if it is one.
func prefixOf(r addr.Range) (netip.Prefix, bool) {
	start := r.Start.Netip(r.End.Words()[0] == 0 && r.End.Uint64() <= 1<<32)
	for bits := 0; bits <= start.BitLen(); bits++ {
		p := netip.PrefixFrom(start, bits).Masked()
		if addr.FromPrefix(p) == r {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// The forms of section 2.3 and 2.4 of the specification: gob streams of one value each. Gob matches fields by name and
// kind.

// Tags of unicast messages.
const (
	tagRequest = 0 // body: range
	tagUpdate  = 1 // body: state
	tagDenied  = 2 // body: range
)

const (
	// maxSeeds is how many peers a ring may have been divided among first: no vote has more.
	maxSeeds = paxos.MaxVoters
	// maxDying is how many peers may be taken over at once.
	maxDying = 1 << 12
)

var (
	errOrder   = errors.New("names are not ascending")
	errTooMany = errors.New("too many names")
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
	Reclaim   map[uint64]uint64 // the same, as all below; seconds, by peer; see delays.go
	Dying     []uint64          // see reclaim.go
	Round     uint64
	Epochs    uint64
	Locks     []wireLock
	Contact   uint64 // seconds ago, plus 1; 0: not told
}

// wireLock is what the sender has agreed to.
type wireLock struct {
	Proposer, Round, Epochs uint64
	Dying                   []uint64
}

type wireRange struct{ Start, End uint64 }

// state is a gossiped state, decoded.
type state struct {
	now       int64
	nicknames map[peer.Name]string
	claims    paxos.Claims // nil: the sender does not vote
	ring      *ring.Ring   // nil: the sender has none
	copyOf    peer.Name    // the peer whose copy of the ring this is; 0 if it does not say
	joins     bool         // the sender changes over to a better ring; only with a ring
	delays    map[peer.Name]time.Duration
	proposal                         // what the sender proposes; see reclaim.go
	locks     map[peer.Name]proposal // what the sender has agreed to, by proposer
	contact   time.Time              // when a majority was last in the sender's reach; zero: not told; only for what is sent
	age       uint64                 // how long that is ago, in seconds, plus 1; 0: not told; only of what was received
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

func encodeState(s state) []byte {
	w := wireState{
		Now: s.now, Nicknames: make(map[uint64]string, len(s.nicknames)),
		Reclaim: toWireDelays(s.delays), Contact: toWireAge(s),
		Dying: toWireNames(s.dying), Round: s.round, Epochs: s.epochs, Locks: toWireLocks(s.locks),
	}
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
	s := state{now: w.Now, nicknames: make(map[peer.Name]string, len(w.Nicknames)), delays: fromWireDelays(w.Reclaim), age: w.Contact}
	s.round, s.epochs = w.Round, w.Epochs
	for n, nick := range w.Nicknames {
		if name, err := peer.FromUint64(n); err == nil && len(nick) <= math.MaxUint8 {
			s.nicknames[name] = nick
		}
	}
	var err error
	if s.dying, err = fromWireDying(w.Dying); err == nil {
		s.locks, err = fromWireLocks(w.Locks)
	}
	if err != nil {
		return state{}, fmt.Errorf("ipam: decode state: %w", err)
	}
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
	w.Seeds = toWireNames(r.Seeds)
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
	if len(w.Seeds) > maxSeeds {
		return nil, errTooMany
	}
	var err error
	r.Seeds, err = fromWireNames(w.Seeds)
	return r, err
}

func toWireNames(list []peer.Name) (w []uint64) {
	for _, p := range list {
		w = append(w, uint64(p))
	}
	return w
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

func fromWireDying(list []uint64) ([]peer.Name, error) {
	names, err := fromWireNames(list)
	if err == nil {
		err = checkDying(names)
	}
	return names, err
}

// checkDying tests a list of peers to be taken over.
func checkDying(list []peer.Name) error {
	if len(list) > maxDying {
		return errTooMany
	}
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return errOrder
		}
	}
	return nil
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

// toWireAge returns the age of a contact at the time of s, plus 1.
func toWireAge(s state) uint64 {
	if s.contact.IsZero() {
		return 0
	}
	return uint64(max(s.now-s.contact.Unix(), 0)) + 1
}

func toWireLocks(locks map[peer.Name]proposal) (w []wireLock) {
	for _, q := range slices.Sorted(maps.Keys(locks)) {
		w = append(w, wireLock{uint64(q), locks[q].round, locks[q].epochs, toWireNames(locks[q].dying)})
	}
	return w
}

func fromWireLocks(w []wireLock) (map[peer.Name]proposal, error) {
	if len(w) == 0 {
		return nil, nil
	}
	if len(w) > maxLocks {
		return nil, errTooMany
	}
	locks := make(map[peer.Name]proposal)
	for _, x := range w {
		q, err := peer.FromUint64(x.Proposer)
		if err != nil {
			return nil, err
		}
		dying, err := fromWireDying(x.Dying)
		if err != nil {
			return nil, err
		}
		locks[q] = proposal{x.Round, x.Epochs, dying}
	}
	return locks, nil
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
		wc.AcceptedVal.Value = toWireNames(c.Value.Peers)
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

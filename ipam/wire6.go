package ipam

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// The form of messages on [Channel6], where no peer of Weave Net listens. A state is
//
//	version (1 byte, 1), flags (1 byte), clock (varint, Unix seconds),
//	nicknames: count, then name, length, text each
//	delays:    count, then name, seconds each
//	contact:   its age in seconds, plus 1, or 0
//	proposal:  round, epochs, count, names
//	locks:     count, then proposer, round, epochs, count, names each
//	ring:      whose copy (name), start, end (16 bytes each), seeds: count, names;
//	           tokens: count, then distance from the one before (from the start for the first), name, version, free each
//	votes:     count, then voter, promise, accepted, value's names: count, names; value's origin each
//
// with ring and votes only if their flag is set. A voter is a name and a UID; a proposal a round and a voter. Names are 6
// bytes, numbers are uvarints, and a distance is its length in bytes (1 byte) and these, big-endian. A range is 32 bytes.

const (
	compactVersion = 1

	flagRing  = 1 << 0
	flagVotes = 1 << 1
	flagJoins = 1 << 2
)

var errMalformed = errors.New("malformed message")

// compactCodec is the form above.
type compactCodec struct{}

var _ codec = compactCodec{}

func (compactCodec) encodeState(s state) []byte {
	var flags byte
	if s.ring != nil {
		flags |= flagRing
		if s.joins {
			flags |= flagJoins
		}
	} else if s.claims != nil {
		flags |= flagVotes
	}
	b := binary.AppendVarint([]byte{compactVersion, flags}, s.now)
	b = binary.AppendUvarint(b, uint64(len(s.nicknames)))
	for _, p := range slices.Sorted(maps.Keys(s.nicknames)) {
		b = binary.AppendUvarint(appendName(b, p), uint64(len(s.nicknames[p])))
		b = append(b, s.nicknames[p]...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.delays)))
	for _, p := range slices.Sorted(maps.Keys(s.delays)) {
		b = binary.AppendUvarint(appendName(b, p), uint64(s.delays[p]/time.Second))
	}
	b = appendProposal(binary.AppendUvarint(b, toWireAge(s)), s.proposal)
	b = binary.AppendUvarint(b, uint64(len(s.locks)))
	for _, q := range slices.Sorted(maps.Keys(s.locks)) {
		b = appendProposal(appendName(b, q), s.locks[q])
	}
	switch {
	case flags&flagRing != 0:
		b = appendRing(b, s.ring, s.copyOf)
	case flags&flagVotes != 0:
		b = appendClaims(b, s.claims)
	}
	return b
}

func appendName(b []byte, p peer.Name) []byte {
	raw := p.Bytes()
	return append(b, raw[:]...)
}

func appendProposal(b []byte, x proposal) []byte {
	return appendNames(binary.AppendUvarint(binary.AppendUvarint(b, x.round), x.epochs), x.dying)
}

func appendNames(b []byte, list []peer.Name) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, p := range list {
		b = appendName(b, p)
	}
	return b
}

func appendAddr(b []byte, a addr.Addr) []byte {
	w := a.Words()
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, w[0]), w[1])
}

func appendRing(b []byte, r *ring.Ring, copyOf peer.Name) []byte {
	b = appendAddr(appendAddr(appendName(b, copyOf), r.Range.Start), r.Range.End)
	b = appendNames(b, r.Seeds)
	b = binary.AppendUvarint(b, uint64(len(r.Tokens)))
	last := r.Range.Start
	for _, t := range r.Tokens {
		raw := appendAddr(nil, t.At.Sub(last))
		for len(raw) > 0 && raw[0] == 0 {
			raw = raw[1:]
		}
		b = append(append(b, byte(len(raw))), raw...)
		b = binary.AppendUvarint(binary.AppendUvarint(appendName(b, t.Peer), uint64(t.Version)), t.Free)
		last = t.At
	}
	return b
}

func appendClaims(b []byte, claims paxos.Claims) []byte {
	order := func(x, y paxos.Voter) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.UID, y.UID)) }
	b = binary.AppendUvarint(b, uint64(len(claims)))
	for _, v := range slices.SortedFunc(maps.Keys(claims), order) {
		c := claims[v]
		b = appendID(appendID(appendVoter(b, v), c.Promise), c.Accepted)
		b = appendID(appendNames(b, c.Value.Peers), c.Value.Origin)
	}
	return b
}

func appendVoter(b []byte, v paxos.Voter) []byte {
	return binary.AppendUvarint(appendName(b, v.Name), uint64(v.UID))
}

func appendID(b []byte, id paxos.ID) []byte {
	return appendVoter(binary.AppendUvarint(b, id.Round), id.Proposer)
}

func (compactCodec) encodeRange(r addr.Range) []byte {
	return appendAddr(appendAddr(nil, r.Start), r.End)
}

func (compactCodec) decodeRange(b []byte) (addr.Range, error) {
	d := reader{b: b}
	r := addr.Range{Start: d.addr(), End: d.addr()}
	return r, d.end("range")
}

func (compactCodec) decodeState(b []byte) (state, error) {
	if len(b) > gossip.MaxMessage {
		return state{}, fmt.Errorf("ipam: decode state: %w: %d bytes", errTooLong, len(b))
	}
	d := reader{b: b}
	if d.byte() != compactVersion {
		return state{}, fmt.Errorf("ipam: decode state: %w: version", errMalformed)
	}
	flags := d.byte()
	s := state{now: d.varint(), nicknames: make(map[peer.Name]string)}
	for range d.count(peer.NameSize + 1) {
		p := d.name()
		if text := d.bytes(d.count(1)); len(text) <= math.MaxUint8 && p != 0 {
			s.nicknames[p] = string(text)
		}
	}
	raw := make(map[uint64]uint64)
	for range d.count(peer.NameSize + 1) {
		p := d.name()
		raw[uint64(p)] = d.uvarint()
	}
	s.delays = fromWireDelays(raw)
	s.age, s.proposal = d.uvarint(), d.proposal()
	for range d.count(peer.NameSize + 3) {
		if s.locks == nil {
			s.locks = make(map[peer.Name]proposal)
		}
		s.locks[d.someone()] = d.proposal()
	}
	d.bad = d.bad || len(s.locks) > maxLocks
	switch {
	case flags&flagRing != 0:
		s.ring, s.copyOf = d.ring()
		s.joins = flags&flagJoins != 0
	case flags&flagVotes != 0:
		s.claims = d.claims()
	}
	if err := d.end("state"); err != nil {
		return state{}, err
	}
	if s.ring != nil && s.ring.Empty() {
		s.ring, s.copyOf, s.joins = nil, 0, false
	}
	return s, nil
}

// reader takes values from a message. After the first error all are zero, and counts too.
type reader struct {
	b   []byte
	bad bool
}

// end returns whether all went well and nothing is left.
func (d *reader) end(what string) error {
	if d.bad || len(d.b) > 0 {
		return fmt.Errorf("ipam: decode %s: %w", what, errMalformed)
	}
	return nil
}

func (d *reader) bytes(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *reader) byte() byte {
	if raw := d.bytes(1); raw != nil {
		return raw[0]
	}
	return 0
}

func (d *reader) number(n int) {
	if n <= 0 {
		d.bad, d.b = true, nil
		return
	}
	d.b = d.b[n:]
}

func (d *reader) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.number(n); d.bad {
		return 0
	}
	return v
}

func (d *reader) varint() int64 {
	v, n := binary.Varint(d.b)
	if d.number(n); d.bad {
		return 0
	}
	return v
}

// count reads how many entries follow, each of size bytes at least: never more than there is room for.
func (d *reader) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

// name reads a name, which may be 0.
func (d *reader) name() peer.Name {
	var n peer.Name
	for _, x := range d.bytes(peer.NameSize) {
		n = n<<8 | peer.Name(x)
	}
	return n
}

// someone reads a name that is not 0.
func (d *reader) someone() peer.Name {
	p := d.name()
	d.bad = d.bad || p == 0
	return p
}

func (d *reader) names() []peer.Name {
	var out []peer.Name
	for range d.count(peer.NameSize) {
		out = append(out, d.someone())
	}
	return out
}

func (d *reader) addr() addr.Addr {
	raw := d.bytes(16)
	if raw == nil {
		return addr.Addr{}
	}
	return addr.FromWords([2]uint64{binary.BigEndian.Uint64(raw), binary.BigEndian.Uint64(raw[8:])})
}

// distance reads up to 16 bytes with their number before them.
func (d *reader) distance() addr.Addr {
	n := int(d.byte())
	if n > 16 {
		d.bad = true
		return addr.Addr{}
	}
	var full [16]byte
	copy(full[16-n:], d.bytes(n))
	sub := reader{b: full[:]}
	return sub.addr()
}

func (d *reader) ring() (*ring.Ring, peer.Name) {
	copyOf := d.name()
	r := ring.New(addr.Range{Start: d.addr(), End: d.addr()})
	r.Seeds = d.names()
	d.bad = d.bad || len(r.Seeds) > maxSeeds
	n := d.count(peer.NameSize + 3)
	r.Tokens = make([]ring.Token, 0, n)
	at := r.Range.Start
	for range n {
		at = at.Add(d.distance())
		t := ring.Token{At: at, Peer: d.someone()}
		version := d.uvarint()
		t.Version, t.Free = uint32(version), d.uvarint()
		d.bad = d.bad || version > math.MaxUint32
		r.Tokens = append(r.Tokens, t)
	}
	return r, copyOf
}

func (d *reader) voter() paxos.Voter { return paxos.Voter{Name: d.name(), UID: peer.UID(d.uvarint())} }

func (d *reader) proposal() proposal {
	x := proposal{round: d.uvarint(), epochs: d.uvarint(), dying: d.names()}
	d.bad = d.bad || checkDying(x.dying) != nil
	return x
}

func (d *reader) id() paxos.ID { return paxos.ID{Round: d.uvarint(), Proposer: d.voter()} }

func (d *reader) claims() paxos.Claims {
	const least = 4*(peer.NameSize+1) + 3 + 1
	claims := make(paxos.Claims)
	for range d.count(least) {
		v := d.voter()
		d.bad = d.bad || v.Name == 0
		c := paxos.Claim{Promise: d.id(), Accepted: d.id()}
		c.Value = paxos.Value{Peers: d.names(), Origin: d.id()}
		claims[v] = c
	}
	return claims
}

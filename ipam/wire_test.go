package ipam

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

func into[T any](t *testing.T, raw json.RawMessage) T {
	var v T
	require.NoError(t, json.Unmarshal(raw, &v))
	return v
}

// TestGobVectors decodes every payload of Weave Net, and decodes our encoding of it again.
func TestGobVectors(t *testing.T) {
	for _, x := range loadVectors(t).Gob {
		t.Run(x.Name, func(t *testing.T) {
			raw := unhex(t, x.Hex)
			switch x.Type {
			case "state":
				requireState(t, into[vecState](t, x.Decoded).state(), raw)
			case "range":
				requireRange(t, into[vecRange](t, x.Decoded), raw)
			case "unicast":
				want := into[vecUnicast](t, x.Decoded)
				require.Equal(t, want.Tag, raw[0])
				if want.Tag == tagUpdate {
					requireState(t, want.State.state(), raw[1:])
				} else {
					requireRange(t, *want.Range, raw[1:])
				}
			case "peername":
				var name uint64
				require.NoError(t, decodeStored(raw, &name))
				require.Equal(t, into[peer.Name](t, x.Decoded), peer.Name(name))
			case "ring":
				var w wireRing
				require.NoError(t, decodeStored(raw, &w))
				r, err := fromWireRing(&w)
				require.NoError(t, err)
				require.Equal(t, into[vecRing](t, x.Decoded).ring(), r)
			case "owned":
				requireOwned(t, into[map[string]vecOwned](t, x.Decoded), raw)
			case "strings", "string":
				require.Contains(t, []string{"persisted-direct-peers", "persisted-flag"}, x.Name)
				// the peers that a router was told to connect to, and marks of programs: in the same file, and not the allocator's
			default:
				require.Fail(t, "unknown type", x.Type)
			}
		})
	}
}

// vecOwned is what Weave Net stores of an owner.
type vecOwned struct {
	CIDRs       []netip.Prefix
	IsContainer bool
}

func requireOwned(t *testing.T, want map[string]vecOwned, raw []byte) {
	t.Helper()
	w, got := map[string]weaveOwned{}, map[string]vecOwned{}
	require.NoError(t, decodeStored(raw, &w))
	for owner, o := range w {
		v := vecOwned{IsContainer: o.IsContainer}
		for _, c := range o.Cidrs {
			v.CIDRs = append(v.CIDRs, netip.PrefixFrom(addr.From64(c.Addr).Netip(true), c.PrefixLen))
		}
		got[owner] = v
	}
	require.Equal(t, want, got)
}

func requireState(t *testing.T, want state, raw []byte) {
	t.Helper()
	got, err := decodeState(raw)
	require.NoError(t, err)
	require.Equal(t, want, got)
	again, err := decodeState(encodeState(got))
	require.NoError(t, err)
	require.Equal(t, want, again)
}

func requireRange(t *testing.T, want vecRange, raw []byte) {
	t.Helper()
	got, err := decodeRange(raw)
	require.NoError(t, err)
	require.Equal(t, want.span(), got)
	again, err := decodeRange(encodeRange(got))
	require.NoError(t, err)
	require.Equal(t, got, again)
}

// TestFieldsOnTheWire looks at our encoding as Weave Net would: names and kinds of fields, and what is left out.
func TestFieldsOnTheWire(t *testing.T) {
	type theirRing struct {
		Start, End uint32
		Peer       uint64
		Entries    []*struct {
			Token         uint32
			Peer          uint64
			Version, Free uint32
		}
		Seeds []uint64
	}
	var w struct {
		Now       int64
		Nicknames map[uint64]string
		Paxos     map[struct{ Name, UID uint64 }]struct {
			Promise struct {
				Round    uint
				Proposer struct{ Name, UID uint64 }
			}
		}
		Ring *theirRing
	}
	r := ring.Divide(addr.FromPrefix(netip.MustParsePrefix("10.32.0.0/12")), []peer.Name{1, 2})
	s := state{now: 7, nicknames: map[peer.Name]string{1: "one"}, ring: r, copyOf: 2}
	require.NoError(t, gob.NewDecoder(bytes.NewReader(encodeState(s))).Decode(&w))
	require.EqualValues(t, 7, w.Now)
	require.Equal(t, map[uint64]string{1: "one"}, w.Nicknames)
	require.Nil(t, w.Paxos)
	require.EqualValues(t, 2, w.Ring.Peer)
	require.Len(t, w.Ring.Entries, 2)
	require.Equal(t, uint32(0x0a280000), w.Ring.Entries[1].Token)

	w.Ring = nil
	require.NoError(t, gob.NewDecoder(bytes.NewReader(encodeState(state{claims: paxos.Claims{}}))).Decode(&w))
	require.NotNil(t, w.Paxos, "an elector sends its votes even if there are none")
	require.Nil(t, w.Ring)

	w.Paxos = nil
	require.NoError(t, gob.NewDecoder(bytes.NewReader(encodeState(state{}))).Decode(&w))
	require.Nil(t, w.Paxos, "an observer sends no votes")
}

// TestHostileMaps: a message of a few bytes must not make room for as many entries as it says it has.
func TestHostileMaps(t *testing.T) {
	b := encodeState(state{claims: paxos.Claims{{Name: 1, UID: 1}: {}}, nicknames: map[peer.Name]string{1: "x"}})
	for i := range b {
		hostile := append(bytes.Clone(b[:i]), 0xfb, 0x7f, 0xff, 0xff, 0xff, 0xff) // a length of 2^39
		_, _ = decodeState(append(hostile, b[min(i+6, len(b)):]...))
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, w := range map[string]wireState{
		"owner nobody":    {Ring: &wireRing{Start: 0, End: 256, Entries: []wireToken{{Token: 1}}}},
		"token too large": {Ring: &wireRing{Start: 0, End: 256, Entries: []wireToken{{Token: 1 << 32, Peer: 1}}}},
		"seed nobody":     {Ring: &wireRing{Start: 0, End: 256, Entries: []wireToken{{Peer: 1}}, Seeds: []uint64{0}}},
		"end too large":   {Ring: &wireRing{Start: 0, End: 1 << 33, Entries: []wireToken{{Peer: 1}}}},
		"voter nobody":    {Paxos: map[wireVoter]wireClaim{{}: {}}},
	} {
		_, err := decodeState(encode(w))
		require.Error(t, err, name)
	}
	_, err := decodeRange(encode(wireRange{0, 1 << 32}))
	require.ErrorIs(t, err, errNumber)
	_, err = decodeState(make([]byte, 11<<20))
	require.ErrorIs(t, err, errTooLong)
}

func FuzzDecodeState(f *testing.F) {
	for _, x := range loadVectors(f).Gob {
		if x.Type == "state" {
			f.Add(unhex(f, x.Hex))
		}
	}
	for _, s := range compactStates() {
		if s.ring == nil || s.ring.Range.End.Words()[0] == 0 {
			f.Add(encodeState(s))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := decodeState(encodeState(s))
		require.NoError(t, err)
		s.age = 0 // what is sent is a contact
		require.Equal(t, s, again)
	})
}

// TestStatesAreReadAsWritten, with everything that they can hold.
func TestStatesAreReadAsWritten(t *testing.T) {
	for _, want := range compactStates() {
		if want.ring != nil {
			want.ring = ring.Divide(addr.FromPrefix(netip.MustParsePrefix("10.32.0.0/12")), []peer.Name{1, 2})
		}
		got, err := decodeState(encodeState(want))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func FuzzDecodeRange(f *testing.F) {
	for _, x := range loadVectors(f).Gob {
		if x.Type == "range" {
			f.Add(unhex(f, x.Hex))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRange(b); err == nil {
			again, err := decodeRange(encodeRange(r))
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
	})
}

func FuzzDecodeSaved(f *testing.F) {
	r := ring.Divide(addr.FromPrefix(netip.MustParsePrefix("10.32.0.0/12")), []peer.Name{1, 2})
	f.Add(encodeSaved(savedState{peer: 1, universe: netip.MustParsePrefix("10.32.0.0/12"), ring: r}))
	f.Add(encodeSaved(savedState{peer: 1, universe: netip.MustParsePrefix("10.32.0.0/12"), claims: paxos.Claims{{Name: 1, UID: 2}: {}}}))
	f.Add(encodeSaved(savedState{
		peer: 1, universe: netip.MustParsePrefix("10.32.0.0/12"), ring: r, contact: testTime, lapsed: true,
		locks:  map[peer.Name]proposal{4: {round: 9, epochs: 2, dying: []peer.Name{2, 3}}},
		doubts: []netip.Addr{netip.MustParseAddr("10.32.0.9")}, lost: []Holding{{"x", netip.MustParsePrefix("10.32.0.9/12")}},
		disputes: testDisputes(netip.MustParsePrefix("10.32.0.0/12")),
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeSaved(b); err == nil && s.ring != nil {
			require.NoError(t, s.ring.Check())
		}
	})
}

// testDisputes is one with two losses, the second of which ends with the universe.
func testDisputes(universe netip.Prefix) map[addr.Addr]*dispute {
	all := addr.FromPrefix(universe)
	mid := all.Start.Add(all.Size().Half())
	return map[addr.Addr]*dispute{all.Start: {since: testTime, conflict: ring.Conflict{
		Kind:  ring.Newer,
		Rival: ring.Token{At: all.Start, Peer: 2, Version: 102, Free: 7},
		Ours:  ring.Token{At: all.Start, Peer: 1, Version: 1},
		Lost:  []ring.Loss{{Range: addr.Range{Start: all.Start, End: mid}, To: 2}, {Range: addr.Range{Start: mid, End: all.End}, To: 3}},
	}}}
}

func TestSavedRoundTrip(t *testing.T) {
	universe := netip.MustParsePrefix("10.32.0.0/12")
	voter := paxos.Voter{Name: 1, UID: 2}
	for _, s := range []savedState{
		{peer: 1, universe: universe, ring: ring.Divide(addr.FromPrefix(universe), []peer.Name{1, 2})},
		{peer: 1, universe: universe, voter: voter, claims: paxos.Claims{voter: {Promise: paxos.ID{Round: 3, Proposer: voter}}}},
		{peer: 1, universe: universe, doubts: []netip.Addr{netip.MustParseAddr("10.32.0.9"), netip.MustParseAddr("10.32.0.1")}},
		{peer: 1, universe: universe, ring: ring.Divide(addr.FromPrefix(universe), []peer.Name{1, 2}), disputes: testDisputes(universe)},
		{
			peer: 1, universe: universe, contact: testTime, lapsed: true, round: 7, delays: map[peer.Name]time.Duration{2: time.Hour},
			locks: map[peer.Name]proposal{4: {round: 9, epochs: 2, dying: []peer.Name{2, 3}}},
			lost:  []Holding{{"x", netip.MustParsePrefix("10.32.0.9/12")}},
		},
	} {
		got, err := decodeSaved(encodeSaved(s))
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
	_, err := decodeSaved([]byte("garbage"))
	require.ErrorIs(t, err, ErrCorrupt)
}

// weaveFile writes what Weave Net 2.8 would have stored, from the vectors.
func weaveFile(t *testing.T, values map[string]string) *BoltStore {
	path := filepath.Join(t.TempDir(), "weavedata.db")
	db, err := bolt.Open(path, 0o660, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("top"))
		require.NoError(t, err)
		require.NoError(t, b.Put([]byte("version"), []byte{1, 0}))
		for _, x := range loadVectors(t).Gob {
			if key, ok := values[x.Name]; ok {
				require.NoError(t, b.Put([]byte(key), unhex(t, x.Hex)))
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
	s, err := OpenStore(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestLoadWeave(t *testing.T) {
	s := weaveFile(t, map[string]string{
		"persisted-peername": "peername", "persisted-ring": "ring", "persisted-owned-one": "ownedAddresses",
	})
	saved, err := s.Load()
	require.NoError(t, err)
	require.True(t, saved.Rewrite)
	require.Equal(t, []Holding{
		{"0123456789ab", netip.MustParsePrefix("10.32.0.1/12")}, {"0123456789ab", netip.MustParsePrefix("10.2.7.1/24")},
	}, saved.Holdings)
	got, err := decodeSaved(saved.State)
	require.NoError(t, err)
	require.Equal(t, peer.MustParse("01:00:00:00:02:00"), got.peer)
	require.Equal(t, netip.MustParsePrefix("10.32.0.0/12"), got.universe)
	require.Len(t, got.ring.Tokens, 3)

	require.NoError(t, s.Commit(Change{State: saved.State, Put: saved.Holdings}))
	again, err := s.Load()
	require.NoError(t, err)
	require.False(t, again.Rewrite, "from now on the file is ours")
	require.Equal(t, saved.Holdings, again.Holdings)
}

func TestLoadWeaveWithoutAddresses(t *testing.T) {
	for _, owned := range []string{"persisted-owned-empty", "persisted-owned-not-container"} {
		s := weaveFile(t, map[string]string{
			"persisted-peername": "peername", "persisted-ring": "ring", owned: "ownedAddresses",
		})
		saved, err := s.Load()
		require.NoError(t, err)
		require.NotNil(t, saved.State)
		require.Equal(t, owned == "persisted-owned-not-container", len(saved.Holdings) == 1)
	}
	incomplete := weaveFile(t, map[string]string{"persisted-peername": "peername"})
	saved, err := incomplete.Load()
	require.NoError(t, err)
	require.Nil(t, saved.State)
}

func TestSubnetVectors(t *testing.T) {
	for _, x := range loadVectors(t).ParseSubnet {
		p, err := netip.ParsePrefix(x.In)
		if err != nil {
			require.Equal(t, "invalid CIDR address: "+x.In, x.Error, "does not come as far as this")
			continue
		}
		switch err := checkSubnet(p); {
		case x.Error == "" || p.Addr().Is6(): // Weave Net 2.8 has no IPv6
			require.NoError(t, err, x.In)
		default:
			require.EqualError(t, err, x.Error)
		}
	}
}

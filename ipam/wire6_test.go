package ipam

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// compactStates are states with everything that a state can hold.
func compactStates() []state {
	r := ring.Divide(addr.FromPrefix(netip.MustParsePrefix("fd00:1::/48")), []peer.Name{1, 2, 3})
	granted, err := r.Grant(1, 4, addr.FromPrefix(netip.MustParsePrefix("fd00:1::5/128")))
	if err != nil {
		panic(err)
	}
	id := paxos.ID{Round: 7, Proposer: paxos.Voter{Name: 2, UID: 1 << 63}}
	return []state{
		{now: -5, nicknames: map[peer.Name]string{}},
		{now: 1500000000, nicknames: map[peer.Name]string{1: "one", 2: ""}, claims: paxos.Claims{}},
		{nicknames: map[peer.Name]string{}, claims: paxos.Claims{
			{Name: 1, UID: 9}: {Promise: id, Accepted: id, Value: paxos.Value{Peers: []peer.Name{1, 2}, Origin: id}},
			{Name: 2, UID: 3}: {},
		}},
		{
			nicknames: map[peer.Name]string{3: "three"}, ring: granted, copyOf: 1, joins: true,
			delays:   map[peer.Name]time.Duration{1: time.Hour, 3: time.Minute},
			proposal: proposal{round: 1500000000, epochs: 3, dying: []peer.Name{2, 3}},
			locks:    map[peer.Name]proposal{4: {round: 9, epochs: 1, dying: []peer.Name{2}}, 5: {round: 1 << 40, epochs: maxEpochs}},
		},
	}
}

func TestCompactStates(t *testing.T) {
	for _, want := range compactStates() {
		raw := compactCodec{}.encodeState(want)
		got, err := compactCodec{}.decodeState(raw)
		require.NoError(t, err)
		require.Equal(t, want, got)
		for n := range raw {
			_, err := compactCodec{}.decodeState(raw[:n])
			require.Error(t, err, "cut to %d bytes", n)
		}
		_, err = compactCodec{}.decodeState(append(slices.Clone(raw), 0))
		require.Error(t, err, "one byte more")
	}
	r := addr.FromPrefix(netip.MustParsePrefix("fd00::/64"))
	got, err := compactCodec{}.decodeRange(compactCodec{}.encodeRange(r))
	require.NoError(t, err)
	require.Equal(t, r, got)
}

// TestCompactCountsAreBounded: a count that the message has no room for is refused before anything is made for it.
func TestCompactCountsAreBounded(t *testing.T) {
	raw := []byte{compactVersion, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}
	require.Less(t, testing.AllocsPerRun(10, func() {
		_, err := compactCodec{}.decodeState(raw)
		require.ErrorIs(t, err, errMalformed)
	}), 20.0)
}

// TestContactTravelsAsAge, by the sender's clock.
func TestContactTravelsAsAge(t *testing.T) {
	for _, form := range []codec{gobCodec{}, compactCodec{}} {
		for contact, age := range map[time.Time]uint64{{}: 0, time.Unix(1000, 0): 1, time.Unix(940, 0): 61, time.Unix(2000, 0): 1} {
			s, err := form.decodeState(form.encodeState(state{now: 1000, copyOf: 1, contact: contact}))
			require.NoError(t, err)
			require.Equal(t, age, s.age)
		}
	}
}

func FuzzCompactRange(f *testing.F) {
	f.Add(compactCodec{}.encodeRange(addr.FromPrefix(netip.MustParsePrefix("fd00::/64"))))
	f.Add(compactCodec{}.encodeRange(addr.Range{}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := (compactCodec{}).decodeRange(raw); err == nil {
			require.Equal(t, raw, compactCodec{}.encodeRange(r))
		}
	})
}

func FuzzCompactState(f *testing.F) {
	for _, s := range compactStates() {
		f.Add(compactCodec{}.encodeState(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := compactCodec{}.decodeState(raw)
		if err != nil {
			return
		}
		again, err := compactCodec{}.decodeState(compactCodec{}.encodeState(s))
		require.NoError(t, err)
		s.age = 0 // what is sent is a contact
		require.Equal(t, s, again)
		if s.ring != nil && s.ring.Check() == nil {
			_, err := ring.New(s.ring.Range).Merge(s.ring, 1, func(addr.Range) bool { return false })
			require.NoError(t, err)
		}
	})
}

package ring_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// shredded is a ring whose first two tokens are peer 1's, in which others have put a token at each address from begin to end,
// taking turns.
func shredded(begin, end uint64, others ...peer.Name) (ours, theirs *ring.Ring) {
	universe := span("10.0.0.0", "11.0.0.0")
	at := func(i uint64) addr.Addr { return universe.Start.Add(addr.From64(i)) }
	ours = ring.New(universe)
	ours.Seeds, ours.Tokens = []peer.Name{1, 2}, []ring.Token{{At: at(16), Peer: 1}, {At: at(1 << 23), Peer: 1}, {At: at(1<<24 - 16), Peer: 2}}
	theirs = ring.New(universe)
	theirs.Seeds, theirs.Tokens = ours.Seeds, []ring.Token{ours.Tokens[0]}
	for i := begin; i < end; i++ {
		theirs.Tokens = append(theirs.Tokens, ring.Token{At: at(i), Peer: others[i%uint64(len(others))]})
	}
	theirs.Tokens = append(theirs.Tokens, ring.Token{At: at(end), Peer: 1}, ours.Tokens[1], ours.Tokens[2])
	return ours, theirs
}

func conflicts(t *testing.T, ours, theirs *ring.Ring, me peer.Name) []ring.Conflict {
	m, err := ours.Merge(theirs, me, func(addr.Range) bool { return true })
	require.NoError(t, err)
	require.Equal(t, text(ours), text(m.Ring))
	return m.Conflicts
}

// TestLossesAreJoined: what goes to one peer is one loss, over however many tokens.
func TestLossesAreJoined(t *testing.T) {
	ours, theirs := shredded(100, 100_000, 3)
	at := func(i uint64) addr.Addr { return ours.Range.Start.Add(addr.From64(i)) }
	list := conflicts(t, ours, theirs, 1)
	require.Len(t, list, 1)
	require.Equal(t, []ring.Loss{{Range: addr.Range{Start: at(100), End: at(100_000)}, To: 3}}, list[0].Lost)
}

// TestLossesAreBounded: a piece that is claimed by many in small parts is contested as a whole, by the first of them. They are
// stored.
func TestLossesAreBounded(t *testing.T) {
	const most = 1024
	ours, theirs := shredded(100, 100+most, 3, 4)
	require.Len(t, conflicts(t, ours, theirs, 1)[0].Lost, most)

	ours, theirs = shredded(100, 100_001, 3, 4)
	list := conflicts(t, ours, theirs, 1)
	require.Len(t, list, 1)
	require.Equal(t, []ring.Loss{{Range: addr.Range{Start: ours.Tokens[0].At, End: ours.Tokens[1].At}, To: list[0].Rival.Peer}}, list[0].Lost)
	require.Equal(t, theirs.Tokens[1], list[0].Rival)

	// the piece that runs over the end
	theirs.Tokens = nil
	turn := func(i uint64, at addr.Addr) {
		theirs.Tokens = append(theirs.Tokens, ring.Token{At: at, Peer: peer.Name(3 + i%2)})
	}
	ours.Tokens[0].At, ours.Tokens[2].At = ours.Range.Start.Add(addr.From64(most)), ours.Range.End.Sub(addr.From64(8))
	for i := range uint64(most) {
		turn(i, ours.Range.Start.Add(addr.From64(i)))
	}
	theirs.Tokens = append(theirs.Tokens, ours.Tokens[:2]...)
	for i := range uint64(8) {
		turn(i, ours.Tokens[2].At.Add(addr.From64(i)))
	}
	list = conflicts(t, ours, theirs, 2)
	require.Len(t, list, 1)
	require.Equal(t, []ring.Loss{
		{Range: addr.Range{Start: ours.Range.Start, End: ours.Tokens[0].At}, To: list[0].Rival.Peer},
		{Range: addr.Range{Start: ours.Tokens[2].At, End: ours.Range.End}, To: list[0].Rival.Peer},
	}, list[0].Lost)
}

// TestWorn: half of what an epoch has room for, in any epoch.
func TestWorn(t *testing.T) {
	r := ring.Divide(small(), []peer.Name{1, 2})
	for epoch := range uint64(ring.MaxEpoch + 1) {
		first := ring.Later(0, epoch)
		for version, want := range map[uint32]bool{first: false, first + 1<<25 - 1: false, first + 1<<25: true, first + 1<<26 - 1: true} {
			r.Tokens[1].Version = version
			worn, ok := r.Worn()
			require.Equal(t, want, ok, "%x", version)
			require.Equal(t, want, worn == r.Tokens[1])
			require.Equal(t, epoch > 0, r.Tokens[1].Reclaimed())
			require.Equal(t, epoch < ring.MaxEpoch, r.CanReclaim(2))
		}
	}
}

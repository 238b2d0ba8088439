package ipam

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// without has everybody in reach but some.
type without struct {
	everybody
	gone map[peer.Name]bool
}

func (w without) reachable(p peer.Name) bool { return !w.gone[p] }

// TestOldPeersKeepTheirRing: as long as a peer of Weave Net, which would refuse the better ring, shares ours and is in reach, we do not
// change over and leave it behind. Both rings stay, as with the old rules, and ours is used on.
func TestOldPeersKeepTheirRing(t *testing.T) {
	x := actor(t, 2, "10.32.0.0/24", Seed(p(2), p(3)))
	x.birth = Consensus(2) // or it would keep its ring in any case
	x.start(testTime)
	ours := x.ring
	require.NoError(t, x.receive(p(3), state{ring: ours}, testTime), "2.8 tells neither whose copy this is nor that it joins")
	_, _, err := x.allocate("x", x.subnet, testTime)
	require.NoError(t, err)
	better := ring.Divide(x.universe, []peer.Name{p(1), p(4)})
	better.Tokens[0].Free--
	meet := func(at time.Duration) error {
		return x.receive(p(1), state{ring: better, copyOf: p(1), joins: true}, testTime.Add(at))
	}
	require.ErrorIs(t, meet(0), ring.ErrSeeds)
	require.Equal(t, ours.Seeds, x.ring.Seeds)
	require.Len(t, x.faults, 1)
	_, w, err := x.allocate("y", x.subnet, testTime)
	require.NoError(t, err)
	require.Nil(t, w, "what we have is given out all the while")

	x.members = without{gone: map[peer.Name]bool{p(3): true}}
	for at := tick; at < lingering; at += tick {
		x.tick(testTime.Add(at))
		require.ErrorIs(t, meet(at), ring.ErrSeeds, "it may only be restarted")
	}
	x.tick(testTime.Add(lingering))
	x.tick(testTime.Add(lingering + tick))
	require.Equal(t, better.Seeds, x.ring.Seeds, "nobody is left behind")
	require.Len(t, x.listStrays(), 2)
}

// TestBetterRingIsForgotten: what was awaited, and is gone for long, is not changed over to when at last that might be.
func TestBetterRingIsForgotten(t *testing.T) {
	x := actor(t, 2, "10.32.0.0/24", Seed(p(2), p(3)))
	x.birth = Consensus(2)
	x.start(testTime)
	ours := x.ring
	require.NoError(t, x.receive(p(3), state{ring: ours}, testTime))
	better := ring.Divide(x.universe, []peer.Name{p(1), p(4)})
	better.Tokens[0].Free--
	require.ErrorIs(t, x.receive(p(1), state{ring: better, copyOf: p(1), joins: true}, testTime), ring.ErrSeeds)
	asked := 0
	for s := tick; s < time.Hour; s += tick {
		if s == 30*time.Minute {
			x.members = without{gone: map[peer.Name]bool{p(1): true, p(3): true, p(4): true}}
		}
		x.tick(testTime.Add(s))
		asked += len(x.takeOut().surveys)
	}
	require.Equal(t, ours.Seeds, x.ring.Seeds)
	require.LessOrEqual(t, asked, 5, "who shares ours was asked less and less often, and no longer than needed")
}

// TestJoinersTellOfIt: with a new peer beside us that tells that it changes over too, we do.
func TestJoinersTellOfIt(t *testing.T) {
	x := actor(t, 2, "10.32.0.0/24", Seed(p(2), p(3)))
	x.birth = Consensus(2)
	x.start(testTime)
	ours := x.ring
	require.NoError(t, x.receive(p(3), state{ring: ours, copyOf: p(3), joins: true}, testTime))
	better := ring.Divide(x.universe, []peer.Name{p(1), p(4)})
	better.Tokens[0].Free--
	require.NoError(t, x.receive(p(1), state{ring: better, copyOf: p(1), joins: true}, testTime))
	require.Equal(t, better.Seeds, x.ring.Seeds)
	require.True(t, x.takeOut().broadcast, "those behind us are to hear of it at once")
}

package ipam

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestARingHeardLate: who has voted, and hears of the ring for the first time after so long that others may have taken over what it
// gives us, is fenced before it gives out anything. One who hears in time is not, however long it had waited before the vote.
func TestARingHeardLate(t *testing.T) {
	for after, fences := range map[time.Duration]bool{time.Minute: false, 13 * time.Hour: true} {
		a, b := actor(t, 1, "10.32.0.0/24", Consensus(3)), actor(t, 2, "10.32.0.0/24", Consensus(3))
		a.start(testTime)
		b.start(testTime)
		now := testTime.Add(20 * time.Hour)
		a.tick(now)
		tells := func(from, to *core) {
			s, err := decodeState(encodeState(from.gossiped()))
			require.NoError(t, err)
			require.NoError(t, to.receive(from.me, s, now))
		}
		b.startVote(now)
		for range 2 {
			tells(b, a)
			tells(a, b)
		}
		require.True(t, b.hasRing())
		require.False(t, a.hasRing())
		require.NotEmpty(t, b.ring.Owned(a.me))
		now = now.Add(after)
		tells(b, a)
		require.NotEmpty(t, a.ring.Owned(a.me))
		require.Equal(t, fences, a.standing.has(fenced), "%v", after)
		_, w, err := a.allocate("x", a.subnet, now)
		require.NoError(t, err)
		require.Equal(t, fences, w != nil)
	}
}

package ipam_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// inDispute starts three peers, of which the second was taken over by the first while it was down, and is back and knows
// it. The rival does not use what is held.
func inDispute(t *testing.T, f func(w *world, b *node, held netip.Prefix)) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{Delay: 2 * time.Second}, func(t *testing.T, w *world) {
		three := seed(1, 2, 3)
		a, b := w.start(1, three), w.start(2, three)
		w.start(3, three)
		w.pass(time.Minute)
		held := w.allocate(b, "x")
		require.Equal(t, "10.32.0.128/24", held.String(), "where the piece begins")
		w.pass(time.Minute)
		w.kill(b.name)
		w.pass(time.Minute)
		w.bus.Partition([]peer.Name{a.name, b.name}, []peer.Name{name(3)})
		w.pass(time.Minute)
		_, err := a.TakeOver(w.within(time.Minute), b.name)
		require.NoError(t, err)
		w.pass(time.Minute)
		b = w.start(2, three)
		w.eventually(time.Minute, "in dispute", func() bool { return len(b.Status().Disputes) > 0 })
		f(w, b, held)
	})
}

// TestDisputeOverARestart: what the rival grants while we are down is no sign of a twin.
func TestDisputeOverARestart(t *testing.T) {
	inDispute(t, func(w *world, b *node, held netip.Prefix) {
		w.pass(time.Second) // the request is on its way
		w.stop(b.name)
		w.pass(time.Minute)
		b = w.start(2, seed(1, 2, 3))
		for range 120 {
			w.pass(time.Second)
			require.False(w.t, b.Status().Twin)
		}
		w.bus.Heal()
		w.pass(5 * time.Minute)
		require.Empty(w.t, b.Status().Disputes)
		require.Equal(w.t, held, b.Lookup("x", netip.Prefix{})[0])
		w.requireOneRing()
	})
}

// TestDisputeIsRemembered: after a restart we meet one who knows nothing of it, and whose ring says that all is ours.
func TestDisputeIsRemembered(t *testing.T) {
	inDispute(t, func(w *world, b *node, _ netip.Prefix) {
		before := b.Status().Disputes
		w.kill(b.name)
		w.bus.Partition([]peer.Name{name(1)}, []peer.Name{b.name, name(3)})
		w.pass(10 * time.Minute)
		b = w.start(2, seed(1, 2, 3))
		w.pass(5 * time.Minute)
		after := b.Status().Disputes
		require.Len(w.t, after, 1)
		require.Equal(w.t, before[0].Reason, after[0].Reason)
		require.Equal(w.t, before[0].Ranges, after[0].Ranges)
		require.Equal(w.t, before[0].Since.Unix(), after[0].Since.Unix())
		require.Zero(w.t, b.Status().FreeIPs)
		w.allocate(b, "y") // from the third
		w.requireNoDouble()
		w.bus.Heal()
		w.pass(5 * time.Minute)
		require.Empty(w.t, b.Status().Disputes)
		w.requireOneRing()
	})
}

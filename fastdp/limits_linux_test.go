package fastdp

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

// TestIntegrationManyReaders wants more readers than there are processors: nothing has to be put right.
func TestIntegrationManyReaders(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	h, err := labtest.New(t).Host("h")
	require.NoError(t, err)
	ns, err := os.Open(h.Path())
	require.NoError(t, err)
	defer ns.Close()
	for _, readers := range []int{1, possibleCPUs() + 3} {
		d, err := New(Config{
			Self: self, Readers: readers, Forwarder: overlay.NewForwarder(self), Sweep: 20 * time.Millisecond, ODP: odp.Config{NetNS: int(ns.Fd())},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		require.Eventually(t, func() bool { return d.sweepNo.Load() > 10 }, 10*time.Second, 10*time.Millisecond)
		require.Zero(t, d.Status().Counts["repairs"], "%+v", d.Status())
		cancel()
		require.NoError(t, <-done)
	}
}

// TestIntegrationLongFlow has a flow with as many steps as there may be: the kernel takes it, and tells it again though it does not
// list it in full.
func TestIntegrationLongFlow(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	c, w := inKernel(t)
	s := &session{Datapath: w.d, kernel: &kernel{conn: c, dp: w.dp}}
	for _, ends := range []outer{toB, {netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}} {
		var steps []step
		for i := range maxSteps {
			steps = append(steps, step{kind: stepTunnel, vni: newVNI(1, peer.ShortID(i)), outer: ends})
		}
		k := flowKey{shape: shapeFromPort, port: 1, mac: all}
		w.put(k, verdict{steps: steps}, time.Now())
		w.execute(&odp.Upcall{Packet: frameFor(all, here1)}, actions(steps))
		require.NoError(t, w.run(t.Context()))
		require.Zero(t, w.d.stats.flowErrors.Load()+w.d.stats.executeErrors.Load())
		listed := 0
		for f, err := range c.Flows(t.Context(), w.dp, odp.DumpOptions{}) {
			require.NoError(t, err)
			listed++
			require.Empty(t, f.Actions, "or this test is for nothing")
			got, ok := parseActions(s.withActions(t.Context(), f).Actions)
			require.True(t, ok)
			require.Equal(t, steps, got)
		}
		require.Equal(t, 1, listed)
	}
}

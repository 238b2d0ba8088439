package fastdp

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// TestIntegrationManyReaders has more readers than there are processors: nothing has to be put right.
func TestIntegrationManyReaders(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	h, err := labtest.New(t).Host("h")
	require.NoError(t, err)
	ns, err := os.Open(h.Path())
	require.NoError(t, err)
	defer ns.Close()
	for _, readers := range []int{1, runtime.NumCPU() + 3} {
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

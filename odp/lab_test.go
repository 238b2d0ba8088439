//go:build linux

package odp_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

// openKernel opens a Conn to the running kernel.
func openKernel(t testing.TB) *odp.Conn {
	t.Helper()
	c, err := odp.Open(context.Background(), odp.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// newDatapath makes a datapath that goes away with the test.
func newDatapath(t testing.TB, c *odp.Conn, spec odp.DatapathSpec) odp.Datapath {
	t.Helper()
	if old, err := c.Datapath(t.Context(), spec.Name); err == nil {
		require.NoError(t, c.DeleteDatapath(t.Context(), old.Index))
	}
	dp, err := c.CreateDatapath(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := c.DeleteDatapath(context.Background(), dp.Index); !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
	})
	return dp
}

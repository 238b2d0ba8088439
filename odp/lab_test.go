//go:build linux

package odp_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/odp"
)

// inKernel reports whether a test runs on a kernel with the datapath and the features; else it has run in a guest. Then it is in a
// network namespace of its own, of which nothing is left afterwards: the goroutine keeps its thread, and the thread ends with it.
// Other goroutines are outside, and subtests are such; a Conn may be used from anywhere.
func inKernel(t *testing.T, features ...lab.Feature) bool {
	t.Helper()
	if !labtest.RequireKernel(t, append([]lab.Feature{lab.OpenVSwitch}, features...)...) {
		return false
	}
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	loopback, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(loopback))
	return true
}

// openKernel opens a Conn to the running kernel, as the thread sees it.
func openKernel(t testing.TB) *odp.Conn {
	t.Helper()
	c, err := odp.Open(context.Background(), odp.Config{Timeout: time.Minute}) // a busy machine is slow, which is no error
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

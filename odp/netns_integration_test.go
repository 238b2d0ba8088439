//go:build linux

package odp_test

import (
	"context"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/odp"
)

// A Conn opened in another namespace sees that namespace's datapaths, from whatever thread it is used.
func TestIntegrationNamespace(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	ns := make(chan netns.NsHandle)
	go func() { // on a thread that ends with it: it is locked and never unlocked
		runtime.LockOSThread()
		h, _ := netns.New()
		ns <- h
	}()
	handle := <-ns
	require.True(t, handle.IsOpen())
	defer handle.Close()
	here := openKernel(t)
	there, err := odp.Open(context.Background(), odp.Config{NetNS: int(handle)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, there.Close()) })
	newDatapath(t, there, odp.DatapathSpec{Name: "odptestns"})
	_, err = there.Datapath(t.Context(), "odptestns")
	require.NoError(t, err)
	_, err = here.Datapath(t.Context(), "odptestns")
	require.ErrorIs(t, err, os.ErrNotExist)
	r := openUpcalls(t, there)
	require.NotZero(t, r.PID())
}

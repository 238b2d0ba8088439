//go:build linux

package odp_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/overweave/overweave/odp"
)

// A Conn opened in another namespace sees that namespace's datapaths, from whatever thread it is used.
func TestIntegrationNamespace(t *testing.T) {
	if !inKernel(t) {
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

// elsewhere runs f on a thread that is in the namespace in which the program began.
func elsewhere(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// What a Conn opens later, and whatever thread it does it on, is where the Conn was opened; and nothing stays open after it.
func TestIntegrationNamespaceOfOpener(t *testing.T) {
	if !inKernel(t) {
		return
	}
	require.NoError(t, openKernel(t).Close()) // the runtime opens something of its own the first time
	before := descriptors(t)
	c, err := odp.Open(t.Context(), odp.Config{})
	require.NoError(t, err)
	dp, err := c.CreateDatapath(t.Context(), odp.DatapathSpec{Name: "odptest19"})
	require.NoError(t, err)
	var events *odp.EventReader
	var madeErr error
	elsewhere(func() {
		events, err = c.Subscribe(odp.VportEvents)
		madeErr = c.CreateTunnelDevice(t.Context(), odp.TunnelDevice{Name: "odptun", Kind: odp.VXLAN})
	})
	require.NoError(t, err)
	require.NoError(t, madeErr)
	_, err = netlink.LinkByName("odptun")
	require.NoError(t, err)
	_, err = c.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: "odptun", Type: odp.Netdev})
	require.NoError(t, err)
	event, err := events.Read(t.Context())
	require.NoError(t, err)
	require.NotNil(t, event.Vport)
	require.Equal(t, "odptun", event.Vport.Name)
	require.NoError(t, events.Close())
	require.NoError(t, c.DeleteDatapath(t.Context(), dp.Index))
	require.NoError(t, c.Close())
	_, err = c.Subscribe(odp.VportEvents)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, before, descriptors(t))
}

// descriptors returns how many files this process has open.
func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

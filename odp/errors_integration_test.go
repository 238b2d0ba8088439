//go:build linux

package odp_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/odp"
)

// Errors of the kernel come back as what they are, and nothing hangs.
func TestIntegrationErrors(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest3"})
	ctx := t.Context()
	_, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: "odptest3"})
	require.ErrorIs(t, err, os.ErrExist)
	_, err = c.Datapath(ctx, "nowhere")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: "odptest3", Type: odp.Internal})
	require.ErrorIs(t, err, os.ErrExist)
	_, err = c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: "nodevice", Type: odp.Netdev})
	require.ErrorIs(t, err, os.ErrNotExist)
	v, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: "odpint", Type: odp.Internal, Number: 7})
	require.NoError(t, err)
	require.EqualValues(t, 7, v.Number)
	_, err = c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: "odpint2", Type: odp.Internal, Number: 7})
	require.ErrorIs(t, err, syscall.EBUSY)
	require.ErrorIs(t, c.Probe(ctx, dp.Index, odp.FeatureDrop), odp.ErrNotSupported)
	require.NoError(t, c.Probe(ctx, dp.Index, odp.FeatureDecTTL))
	err = c.PutFlow(ctx, dp.Index, odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(1))}, Actions: []odp.Action{odp.Drop(0)}})
	require.ErrorIs(t, err, odp.ErrNotSupported)
	require.ErrorContains(t, err, "drop with a reason")
	require.NoError(t, c.DeleteDatapath(ctx, dp.Index))
	require.ErrorIs(t, c.FlushFlows(ctx, dp.Index), os.ErrNotExist)
	for _, err := range c.Flows(ctx, dp.Index, odp.DumpOptions{}) {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, c.FlushFlows(canceled, dp.Index), context.Canceled)
}

// Devices and UDP ports that others have are told as what they are.
func TestIntegrationTaken(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest24"}).Index
	create := func(s odp.VportSpec) error {
		_, err := c.CreateVport(t.Context(), dp, s)
		return err
	}
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 6790})
	require.NoError(t, err)
	defer socket.Close()
	require.ErrorIs(t, create(odp.VportSpec{Name: "odpt1", Type: odp.VXLAN, DstPort: 6790}), syscall.EADDRINUSE)
	_, err = c.Vport(t.Context(), "odpt1")
	require.ErrorIs(t, err, os.ErrNotExist, "nothing is left of it")

	require.NoError(t, c.CreateTunnelDevice(t.Context(), odp.TunnelDevice{Name: "odpt2", Kind: odp.VXLAN, Port: 6791}))
	t.Cleanup(func() { require.NoError(t, c.DeleteDevice(context.Background(), "odpt2")) })
	require.ErrorIs(t, create(odp.VportSpec{Name: "odpt3", Type: odp.VXLAN, DstPort: 6791}), os.ErrExist)
	require.ErrorIs(t, create(odp.VportSpec{Name: "odpt2", Type: odp.VXLAN, DstPort: 6792}), os.ErrExist)
	err = c.CreateTunnelDevice(t.Context(), odp.TunnelDevice{Name: "odpt4", Kind: odp.VXLAN, Port: 6791})
	require.ErrorIs(t, err, os.ErrExist)
	var op *odp.OpError
	require.ErrorAs(t, err, &op)
	require.NotEmpty(t, op.Message, "rtnetlink says why")

	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "odptbr"}}
	require.NoError(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { require.NoError(t, netlink.LinkDel(bridge)) })
	device := newTap(t, "odpt5", false)
	link, err := netlink.LinkByName(device.name)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetMaster(link, bridge))
	require.ErrorIs(t, create(odp.VportSpec{Name: device.name, Type: odp.Netdev}), syscall.EBUSY)
	require.NoError(t, netlink.LinkSetNoMaster(link))
	require.NoError(t, create(odp.VportSpec{Name: device.name, Type: odp.Netdev}))
	require.ErrorIs(t, create(odp.VportSpec{Name: device.name, Type: odp.Netdev}), os.ErrExist)
	require.ErrorIs(t, create(odp.VportSpec{Name: "lo", Type: odp.Netdev}), syscall.EINVAL)
}

// A datapath that somebody else deletes is gone for all requests, batches too, and upcalls of others still come.
func TestIntegrationDeletedUnderUs(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c, other := openKernel(t), openKernel(t)
	gone := newDatapath(t, c, odp.DatapathSpec{Name: "odptest25"}).Index
	stays := newDatapath(t, c, odp.DatapathSpec{Name: "odptest26"}).Index
	r := openUpcalls(t, c)
	for _, dp := range []odp.Index{gone, stays} {
		_, err := c.SetUpcallPIDs(t.Context(), dp, odp.LocalPort, r.PID())
		require.NoError(t, err)
	}
	require.NoError(t, other.DeleteDatapath(t.Context(), gone))

	var b odp.Batch
	b.PutFlow(gone, flowOn(1))
	b.PutFlow(stays, flowOn(1))
	b.Execute(gone, odp.Execute{Packet: udpFrame(t)})
	err := c.Run(t.Context(), &b)
	var failed *odp.BatchError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 2)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, 1, count(t, c, stays))
	_, err = c.SetUpcallPIDs(t.Context(), gone, odp.LocalPort, 0)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, c.SetMeter(t.Context(), gone, odp.MeterInfo{ID: 1, Rate: 1}), os.ErrNotExist)
	for _, err := range c.Vports(t.Context(), gone) {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	misses(t, c, stays, 1)
	require.Equal(t, stays, read(t, r).Datapath)
}

//go:build linux

package odp_test

import (
	"context"
	"encoding/hex"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/odp"
)

// udpFrame is an Ethernet frame with a UDP datagram of 4 bytes from 10.0.0.1:1000 to 10.0.0.2:2000.
func udpFrame(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString("020000000002020000000001" + "0800" +
		"450000200001000040110" + "000" + "0a0000010a000002" + "03e807d0000c0000" + "61626364")
	require.NoError(t, err)
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	b[24], b[25] = byte(^sum>>8), byte(^sum)
	return b
}

func openUpcalls(t testing.TB, c *odp.Conn) *odp.UpcallReader {
	t.Helper()
	r, err := c.OpenUpcalls(odp.UpcallConfig{Batch: 8})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// read returns the next upcall.
func read(t testing.TB, r *odp.UpcallReader) odp.Upcall {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ups := make([]odp.Upcall, 1)
	_, err := r.Read(ctx, ups)
	require.NoError(t, err)
	return ups[0]
}

// A packet that no flow matches comes up; a flow made from its key matches the next one. In each way of dispatch.
func TestIntegrationMiss(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest2"})
	r := openUpcalls(t, c)
	for _, perCPU := range []bool{false, true} {
		if perCPU {
			d, err := c.SetFeatures(t.Context(), dp.Index, odp.Unaligned|odp.PerCPU, []uint32{r.PID()})
			require.NoError(t, err)
			require.Equal(t, odp.Unaligned|odp.PerCPU, d.Features)
			require.Equal(t, []uint32{r.PID()}, d.UpcallPIDs)
			_, err = c.SetUpcallPIDs(t.Context(), dp.Index, odp.LocalPort)
			require.NoError(t, err)
		} else {
			_, err := c.SetUpcallPIDs(t.Context(), dp.Index, odp.LocalPort, r.PID())
			require.NoError(t, err)
		}
		require.NoError(t, c.FlushFlows(t.Context(), dp.Index))
		again := odp.Execute{Packet: udpFrame(t), HasInPort: true, Actions: []odp.Action{odp.Recirc(7)}}
		require.NoError(t, c.Execute(t.Context(), dp.Index, again))
		up := read(t, r)
		require.Equal(t, odp.MissUpcall, up.Kind)
		require.Equal(t, udpFrame(t), up.Packet)
		port, ok := up.Key.InPort()
		require.True(t, ok)
		require.EqualValues(t, odp.LocalPort, port)

		m, err := up.Key.Match()
		require.NoError(t, err)
		f := odp.Flow{Match: m}
		f.UFID, err = m.UFID()
		require.NoError(t, err)
		var b odp.Batch
		b.CreateFlow(dp.Index, f)
		b.Execute(dp.Index, again)
		b.Execute(dp.Index, again)
		require.NoError(t, c.Run(t.Context(), &b))
		got, err := c.GetFlow(t.Context(), dp.Index, odp.Flow{UFID: f.UFID})
		require.NoError(t, err)
		require.EqualValues(t, 2, got.Stats.Packets)
		idle, used := got.Stats.Idle(odp.MonotonicTime())
		require.True(t, used)
		require.Less(t, idle, time.Minute)
		require.EqualValues(t, 1, r.Stats().Received-uint64(bitOf(perCPU)))
	}
}

func bitOf(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestIntegrationVports(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest4"})
	events, err := c.Subscribe(odp.VportEvents | odp.DatapathEvents)
	require.NoError(t, err)
	defer events.Close()
	for _, spec := range []odp.VportSpec{
		{Name: "odpvx", Type: odp.VXLAN, DstPort: 6784, GBP: true},
		{Name: "odpgen", Type: odp.Geneve},
		{Name: "odpgre", Type: odp.GRE},
		{Name: "odpin", Type: odp.Internal, UpcallPIDs: []uint32{5}},
	} {
		v, err := c.CreateVport(t.Context(), dp.Index, spec)
		require.NoError(t, err)
		require.Equal(t, spec.Type, v.Type)
		require.Equal(t, spec.GBP, v.GBP)
		if spec.DstPort != 0 {
			require.Equal(t, spec.DstPort, v.DstPort)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		e, err := events.Read(ctx)
		cancel()
		require.NoError(t, err)
		require.Equal(t, odp.Created, e.Change)
		require.Equal(t, spec.Name, e.Vport.Name)
		byName, err := c.Vport(t.Context(), spec.Name)
		require.NoError(t, err)
		byNumber, err := c.VportByNumber(t.Context(), dp.Index, v.Number)
		require.NoError(t, err)
		require.Equal(t, byName.Number, byNumber.Number)
	}
	names := map[string]bool{}
	for v, err := range c.Vports(t.Context(), dp.Index) {
		require.NoError(t, err)
		names[v.Name] = true
	}
	require.Len(t, names, 5)
	require.NoError(t, events.Close())
	_, err = events.Read(t.Context())
	require.ErrorIs(t, err, net.ErrClosed)
}

// Tunnels work as devices of their own too, and flows address them.
func TestIntegrationTunnelDevices(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest6"})
	for _, d := range []odp.TunnelDevice{
		{Name: "odptvx", Kind: odp.VXLAN, Port: 6785}, {Name: "odptgnv", Kind: odp.Geneve, Port: 6786}, {Name: "odptgre", Kind: odp.GRE},
	} {
		require.NoError(t, c.CreateTunnelDevice(t.Context(), d))
		require.ErrorIs(t, c.CreateTunnelDevice(t.Context(), d), os.ErrExist)
		v, err := c.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: d.Name, Type: odp.Netdev})
		require.NoError(t, err)
		send, err := odp.ParseActions("set(tunnel(tun_id=0x5,src=127.0.0.1,dst=127.0.0.1,ttl=64,flags(df|key)))")
		require.NoError(t, err)
		send = append(send, odp.Output(v.Number))
		require.NoError(t, c.Execute(t.Context(), dp.Index, odp.Execute{Packet: udpFrame(t), Actions: send}))
		v, err = c.VportByNumber(t.Context(), dp.Index, v.Number)
		require.NoError(t, err)
		require.EqualValues(t, 1, v.Stats.TxPackets, d.Name)
		raised, err := c.RaiseDevice(t.Context(), d.Name)
		require.NoError(t, err)
		require.False(t, raised, "it is up")
		link, err := netlink.LinkByName(d.Name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetDown(link))
		raised, err = c.RaiseDevice(t.Context(), d.Name)
		require.NoError(t, err)
		require.True(t, raised)
		raised, err = c.RaiseDevice(t.Context(), d.Name)
		require.NoError(t, err)
		require.False(t, raised)
		require.NoError(t, c.DeleteDevice(t.Context(), d.Name))
		_, err = c.RaiseDevice(t.Context(), d.Name)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorIs(t, c.DeleteDevice(t.Context(), d.Name), os.ErrNotExist)
	}
}

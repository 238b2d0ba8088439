//go:build linux

package odp_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

// misses has n packets missed on the local port.
func misses(t *testing.T, c *odp.Conn, dp odp.Index, n int) {
	t.Helper()
	var b odp.Batch
	for range n {
		b.Execute(dp, odp.Execute{Packet: udpFrame(t), HasInPort: true, Actions: []odp.Action{odp.Recirc(1)}})
	}
	require.NoError(t, c.Run(t.Context(), &b))
}

// A reader that is too slow loses packets. The kernel counts them, the reader says so, and afterwards all is as before.
func TestIntegrationUpcallOverload(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	const sent = 500
	for _, keep := range []bool{false, true} {
		dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest20"}).Index
		r, err := c.OpenUpcalls(odp.UpcallConfig{ReceiveBuffer: 8192, KeepQueueing: keep})
		require.NoError(t, err)
		_, err = c.SetUpcallPIDs(t.Context(), dp, odp.LocalPort, r.PID())
		require.NoError(t, err)
		misses(t, c, dp, sent)
		d, err := c.DatapathByIndex(t.Context(), dp)
		require.NoError(t, err)
		require.EqualValues(t, sent, d.Stats.Missed)
		require.Greater(t, d.Stats.Lost, uint64(sent/2))
		readAll(t, sent-int(d.Stats.Lost), r)
		if keep {
			require.Zero(t, r.Stats().Overruns, "it was not to be told")
		} else {
			require.EqualValues(t, 1, r.Stats().Overruns)
		}
		misses(t, c, dp, 1)
		require.Equal(t, udpFrame(t), read(t, r).Packet)
		require.NoError(t, r.Close())
		require.NoError(t, c.DeleteDatapath(t.Context(), dp))
	}
}

// A subscriber that is too slow is told that it lost something; what it lists then, and is told afterwards, is complete.
func TestIntegrationEventOverload(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest21"}).Index
	small, err := odp.Open(t.Context(), odp.Config{ReceiveBuffer: 8192})
	require.NoError(t, err)
	defer small.Close()
	r, err := small.Subscribe(odp.FlowEvents)
	require.NoError(t, err)
	defer r.Close()
	var b odp.Batch
	for i := range uint32(500) {
		b.PutFlow(dp, flowOn(i))
	}
	require.NoError(t, c.Run(t.Context(), &b))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = r.Read(ctx)
	require.ErrorIs(t, err, odp.ErrEventsLost)
	require.Equal(t, 500, count(t, c, dp))
	require.NoError(t, c.PutFlow(t.Context(), dp, flowOn(501)))
	e, err := r.Read(ctx)
	require.NoError(t, err)
	port, _, _ := odp.Get[odp.InPort](e.Flow.Match)
	require.EqualValues(t, 501, port, "what was queued before the listing is in the listing")
}

// Reading upcalls from the kernel allocates nothing.
func TestIntegrationReadAllocates(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest22"}).Index
	r := openUpcalls(t, c)
	_, err := c.SetUpcallPIDs(t.Context(), dp, odp.LocalPort, r.PID())
	require.NoError(t, err)
	const runs = 100
	misses(t, c, dp, runs+2)
	ups := make([]odp.Upcall, 1)
	ctx := t.Context()
	var failed error
	readOne := func() {
		if n, err := r.Read(ctx, ups); n != 1 || err != nil {
			failed = errors.Join(failed, err, errors.New("not one"))
		}
	}
	readOne()
	require.Zero(t, testing.AllocsPerRun(runs, readOne))
	require.NoError(t, failed)
	require.Equal(t, udpFrame(t), ups[0].Packet)
}

// Whoever changes datapaths, vports and flows, subscribers are told; also of a device that goes away by itself.
func TestIntegrationEvents(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	device := newTap(t, "odpgoes", false)
	r, err := c.Subscribe(odp.DatapathEvents | odp.VportEvents | odp.FlowEvents)
	require.NoError(t, err)
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	next := func(change odp.Change) odp.Event {
		t.Helper()
		e, err := r.Read(ctx)
		require.NoError(t, err)
		require.Equal(t, change, e.Change)
		return e
	}
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest23"}).Index
	require.Equal(t, "odptest23", next(odp.Created).Datapath.Name)
	_, err = c.SetFeatures(ctx, dp, odp.Unaligned, nil)
	require.NoError(t, err)
	require.Equal(t, odp.Unaligned, next(odp.Changed).Datapath.Features)

	v, err := c.CreateVport(ctx, dp, odp.VportSpec{Name: device.name, Type: odp.Netdev})
	require.NoError(t, err)
	require.Equal(t, v.Number, next(odp.Created).Vport.Number)
	_, err = c.SetUpcallPIDs(ctx, dp, v.Number, 77)
	require.NoError(t, err)
	require.Equal(t, []uint32{77}, next(odp.Changed).Vport.UpcallPIDs)

	require.NoError(t, c.PutFlow(ctx, dp, flowOn(1)))
	require.Equal(t, []odp.Action{odp.Output(2)}, next(odp.Created).Flow.Actions)
	other := flowOn(1)
	other.Actions = []odp.Action{odp.Output(3)}
	require.NoError(t, c.ModifyFlow(ctx, dp, other))
	require.Equal(t, other.Actions, next(odp.Changed).Flow.Actions)
	_, err = c.DeleteFlow(ctx, dp, other)
	require.NoError(t, err)
	require.NotNil(t, next(odp.Deleted).Flow)

	require.NoError(t, c.DeleteDevice(ctx, device.name))
	require.Equal(t, device.name, next(odp.Deleted).Vport.Name)
	require.NoError(t, c.DeleteDatapath(ctx, dp))
	require.Equal(t, dp, next(odp.Deleted).Index)
}

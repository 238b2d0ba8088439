package odp_test

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

func open(t testing.TB, k *odptest.Kernel) (*odp.Conn, odp.Datapath) {
	t.Helper()
	c, err := odp.Open(t.Context(), odp.Config{Dial: k.Dial})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	dp, err := c.CreateDatapath(t.Context(), odp.DatapathSpec{Name: "dp0"})
	require.NoError(t, err)
	return c, dp
}

func flowOn(port uint32) odp.Flow {
	return odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(port))}, Actions: []odp.Action{odp.Output(port + 1)}}
}

func count(t testing.TB, c *odp.Conn, dp odp.Index) (n int) {
	t.Helper()
	for _, err := range c.Flows(t.Context(), dp, odp.DumpOptions{}) {
		require.NoError(t, err)
		n++
	}
	return n
}

func TestNoModule(t *testing.T) {
	k := odptest.New()
	k.RemoveModule()
	_, err := odp.Open(t.Context(), odp.Config{Dial: k.Dial})
	require.ErrorIs(t, err, odp.ErrNotSupported)
	require.ErrorContains(t, err, "modprobe openvswitch")
}

func TestFlows(t *testing.T) {
	k := odptest.New()
	k.SendUnknown()
	c, dp := open(t, k)
	require.NoError(t, c.PutFlow(t.Context(), dp.Index, flowOn(1)))
	require.ErrorIs(t, c.CreateFlow(t.Context(), dp.Index, flowOn(1)), os.ErrExist)
	require.ErrorIs(t, c.ModifyFlow(t.Context(), dp.Index, flowOn(2)), os.ErrNotExist)
	got, err := c.GetFlow(t.Context(), dp.Index, flowOn(1))
	require.NoError(t, err)
	require.Equal(t, []odp.Action{odp.Output(2)}, got.Actions)
	require.EqualValues(t, 99, got.Unknown[0].Type)
	require.Equal(t, 1, count(t, c, dp.Index))
	_, err = c.DeleteFlow(t.Context(), dp.Index, odp.Flow{})
	require.ErrorIs(t, err, odp.ErrInvalidFlow, "an empty flow must not name all flows")
	require.Equal(t, 1, count(t, c, dp.Index))
	require.NoError(t, c.FlushFlows(t.Context(), dp.Index))
	require.Zero(t, count(t, c, dp.Index))
}

func TestBatch(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	var b odp.Batch
	const n = 3000 // more than one system call's worth
	for i := range uint32(n) {
		b.PutFlow(dp.Index, flowOn(i))
	}
	require.NoError(t, c.Run(t.Context(), &b))
	require.Equal(t, n, count(t, c, dp.Index))

	b.Reset()
	b.CreateFlow(dp.Index, flowOn(1))
	b.PutFlow(dp.Index, odp.Flow{Actions: []odp.Action{odp.Trunc(1)}})
	b.DeleteFlow(dp.Index, flowOn(2))
	b.DeleteFlow(dp.Index, flowOn(n+1))
	err := c.Run(t.Context(), &b)
	var failed *odp.BatchError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 3)
	require.ErrorIs(t, err, os.ErrExist)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, err, odp.ErrInvalidFlow)
	require.Equal(t, n-1, count(t, c, dp.Index))
}

func TestInterruptedDump(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	require.NoError(t, c.PutFlow(t.Context(), dp.Index, flowOn(1)))
	k.InterruptDumps(2)
	require.Equal(t, 1, count(t, c, dp.Index), "each flow once, though the listing was begun three times")
	k.InterruptDumps(100)
	for _, err := range c.Flows(t.Context(), dp.Index, odp.DumpOptions{}) {
		require.ErrorIs(t, err, odp.ErrDumpInterrupted)
	}
}

// Other requests can be made inside the loop over a listing.
func TestRequestInsideListing(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	require.NoError(t, c.PutFlow(t.Context(), dp.Index, flowOn(1)))
	require.NoError(t, c.PutFlow(t.Context(), dp.Index, flowOn(2)))
	for f, err := range c.Flows(t.Context(), dp.Index, odp.DumpOptions{}) {
		require.NoError(t, err)
		_, err = c.DeleteFlow(t.Context(), dp.Index, f)
		require.NoError(t, err)
	}
	require.Zero(t, count(t, c, dp.Index))
}

func TestLostAndStaleReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := odptest.New()
		c, err := odp.Open(context.Background(), odp.Config{Dial: k.Dial})
		require.NoError(t, err)
		defer c.Close()
		dp, err := c.CreateDatapath(context.Background(), odp.DatapathSpec{Name: "dp0"})
		require.NoError(t, err)
		k.LoseReplies(1)
		start := time.Now()
		err = c.PutFlow(context.Background(), dp.Index, flowOn(1))
		require.ErrorIs(t, err, odp.ErrUnknownOutcome)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 5*time.Second, time.Since(start))

		k.SendStale(1)
		_, err = c.GetFlow(context.Background(), dp.Index, flowOn(7))
		require.ErrorIs(t, err, os.ErrNotExist, "the answer to an older request is not taken for this one's")

		k.LoseReplies(1)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		require.ErrorIs(t, c.FlushFlows(ctx, dp.Index), context.Canceled)
		require.NoError(t, c.FlushFlows(context.Background(), dp.Index))

		k.LoseReplies(1)
		time.AfterFunc(time.Second, func() { _ = c.Close() })
		require.ErrorIs(t, c.FlushFlows(context.Background(), dp.Index), net.ErrClosed)
		require.ErrorIs(t, c.FlushFlows(context.Background(), dp.Index), net.ErrClosed)
	})
}

func TestRefusal(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	k.Refuse(syscall.EBUSY)
	_, err := c.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: "v", Type: odp.Internal})
	require.ErrorIs(t, err, syscall.EBUSY)
	var op *odp.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "create vport v", op.Op)
	k.Refuse(syscall.EAFNOSUPPORT)
	_, err = c.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: "v", Type: odp.VXLAN})
	require.ErrorIs(t, err, odp.ErrNotSupported)
	require.ErrorIs(t, c.SetMeter(t.Context(), dp.Index, odp.MeterInfo{ID: 1, Rate: 1}), odp.ErrNotSupported)
	require.NoError(t, c.DeleteDatapath(t.Context(), dp.Index))
	require.ErrorIs(t, c.FlushFlows(t.Context(), dp.Index), os.ErrNotExist)
}

func TestUpcalls(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	r, err := c.OpenUpcalls(odp.UpcallConfig{ReceiveBuffer: 4096})
	require.NoError(t, err)
	v, err := c.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: "v", Type: odp.Internal, UpcallPIDs: []uint32{r.PID()}})
	require.NoError(t, err)
	frame := make([]byte, 60)
	key := odptest.Key(odp.InPort(v.Number), odp.Ethernet{Src: odp.MAC{2}, Dst: odp.MAC{4}})
	for range 3 {
		require.True(t, k.Miss(dp.Index, v.Number, frame, key))
	}
	ups := make([]odp.Upcall, 16)
	n, err := r.Read(t.Context(), ups)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, frame, ups[2].Packet)
	port, _ := ups[2].Key.InPort()
	require.Equal(t, v.Number, port)

	for k.Miss(dp.Index, v.Number, frame, key) {
	}
	n, err = r.Read(t.Context(), ups)
	require.NoError(t, err)
	require.Positive(t, n)
	require.EqualValues(t, 1, r.Stats().Overruns)
	d, err := c.DatapathByIndex(t.Context(), dp.Index)
	require.NoError(t, err)
	require.EqualValues(t, 1, d.Stats.Lost)

	require.NoError(t, c.Execute(t.Context(), dp.Index, odp.Execute{Packet: frame, Key: key, Actions: []odp.Action{odp.Output(1)}}))
	done := k.Executed()
	require.Len(t, done, 1)
	require.Equal(t, key, done[0].Key)

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	for err = nil; err == nil; {
		_, err = r.Read(ctx, ups)
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	_, err = r.Read(t.Context(), ups)
	require.ErrorIs(t, err, net.ErrClosed)
	require.False(t, k.Miss(dp.Index, v.Number, frame, key))
}

func TestEvents(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	r, err := c.Subscribe(odp.DatapathEvents | odp.VportEvents | odp.FlowEvents)
	require.NoError(t, err)
	defer r.Close()
	_, err = c.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: "v", Type: odp.Internal})
	require.NoError(t, err)
	require.NoError(t, c.PutFlow(t.Context(), dp.Index, flowOn(1)))
	require.NoError(t, c.DeleteDatapath(t.Context(), dp.Index))
	e, err := r.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "v", e.Vport.Name)
	e, err = r.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, odp.Created, e.Change)
	require.NotNil(t, e.Flow)
	e, err = r.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, odp.Deleted, e.Change)
	require.Equal(t, "dp0", e.Datapath.Name)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = r.Read(ctx)
	require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
}

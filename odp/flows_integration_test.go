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

// spanningTree is a frame with a length instead of an EtherType, between the addresses of udp4.
func spanningTree(t testing.TB) []byte {
	b := udp4().build(t, nil)[:60]
	copy(b[12:], []byte{0, 46, 0x42, 0x42, 3})
	return b
}

// The flow for a frame of 802.2 is not for packets of the same addresses that have an EtherType. It is put as it is listed.
func TestIntegrationLLC(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest30")
	for _, frame := range [][]byte{spanningTree(t), append(append(spanningTree(t)[:12:12], 0x81, 0, 0, 5), spanningTree(t)[12:]...)} {
		require.NoError(t, w.conn.FlushFlows(t.Context(), w.dp))
		w.taps[inPort].write(t, frame)
		up := read(t, w.up)
		match, err := up.Key.Match()
		require.NoError(t, err)
		flow := odp.Flow{Match: match, Actions: []odp.Action{odp.Output(outPort)}}
		require.NoError(t, w.conn.CreateFlow(t.Context(), w.dp, flow))
		other := append(append([]byte{}, frame[:len(frame)-48]...), udp4().build(t, nil)[12:]...)
		require.Equal(t, out(outPort, frame), w.through(t, inPort, other, frame))
		require.Equal(t, other, read(t, w.up).Packet)

		listed := only(t, w.conn, w.dp)
		require.Contains(t, listed.Match.String(), "eth_type(0/0xffff)")
		text, err := odp.ParseMatch(listed.Match.String())
		require.NoError(t, err)
		for _, m := range []odp.Match{listed.Match, text} {
			require.NoError(t, w.conn.FlushFlows(t.Context(), w.dp))
			require.NoError(t, w.conn.CreateFlow(t.Context(), w.dp, odp.Flow{Match: m, Actions: flow.Actions}))
			require.Equal(t, listed.Match, only(t, w.conn, w.dp).Match)
		}
	}
}

// A flow for any port is that too after it has been listed and put again.
func TestIntegrationAnyInPort(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest31")
	flow := odp.Flow{Match: odp.Match{odp.Any(odp.InPort(inPort)), odp.Exact(odp.TypeIPv4)}, Actions: []odp.Action{odp.Output(outPort)}}
	frame := udp4().build(t, nil)
	for range 2 {
		require.NoError(t, w.conn.FlushFlows(t.Context(), w.dp))
		require.NoError(t, w.conn.CreateFlow(t.Context(), w.dp, flow))
		require.Equal(t, out(outPort, frame), w.through(t, altPort, frame))
		flow = only(t, w.conn, w.dp)
	}
}

// A flow whose actions do not fit a listing is told from one that drops, and has them when it is asked for.
func TestIntegrationManyActions(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest32"}).Index
	big := odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(1))}}
	for i := range 812 {
		source := odp.Ethernet{Src: odp.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}}
		big.Actions = append(big.Actions, odp.SetBits(source, odp.Ethernet{Src: odp.Broadcast()}), odp.Output(2))
	}
	require.NoError(t, c.CreateFlow(t.Context(), dp, big))
	listed := only(t, c, dp)
	require.True(t, listed.ActionsOmitted)
	require.Empty(t, listed.Actions)
	require.ErrorIs(t, c.PutFlow(t.Context(), dp, listed), odp.ErrInvalidFlow)
	whole, err := c.GetFlow(t.Context(), dp, listed)
	require.NoError(t, err)
	require.False(t, whole.ActionsOmitted)
	require.Len(t, whole.Actions, len(big.Actions))
	drops := odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(2))}}
	require.NoError(t, c.CreateFlow(t.Context(), dp, drops))
	for f, err := range c.Flows(t.Context(), dp, odp.DumpOptions{}) {
		require.NoError(t, err)
		port, _, _ := odp.Get[odp.InPort](f.Match)
		require.Equal(t, port == 1, f.ActionsOmitted)
	}
	for f, err := range c.Flows(t.Context(), dp, odp.DumpOptions{OmitActions: true}) {
		require.NoError(t, err)
		require.True(t, f.ActionsOmitted)
	}
}

// A listing that was given up does not keep the next one from being whole.
func TestIntegrationAbandonedListing(t *testing.T) {
	if !inKernel(t) {
		return
	}
	h := new(hooked)
	c, err := odp.Open(t.Context(), odp.Config{Timeout: time.Minute, Dial: func(o odp.SocketOptions) (_ odp.Socket, err error) {
		h.Socket, err = odp.DialKernel(o)
		return h, err
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest33"}).Index
	const flows = 20000
	var b odp.Batch
	for i := range uint32(flows) {
		b.PutFlow(dp, odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(1)), odp.Exact(odp.SkbMark(i))}})
	}
	require.NoError(t, c.Run(t.Context(), &b))
	ctx, cancel := context.WithCancel(t.Context())
	h.receive = func([][]byte) { cancel() }
	for _, err := range c.Flows(ctx, dp, odp.DumpOptions{}) {
		require.ErrorIs(t, err, context.Canceled)
	}
	h.receive = nil
	require.Equal(t, flows, count(t, c, dp))
}

// Which of several features is missing is found out, and nothing is left of that.
func TestIntegrationMissingFeature(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	r := openUpcalls(t, c)
	_, err := c.CreateDatapath(t.Context(), odp.DatapathSpec{
		Name: "odptest34", Features: odp.Unaligned | odp.PerCPU | odp.TCRecircSharing, UpcallPIDs: []uint32{r.PID()},
	})
	probed := map[odp.Feature]error{}
	for _, f := range []odp.Feature{odp.FeatureUnaligned, odp.FeaturePerCPU, odp.FeatureTCRecirc} {
		probed[f] = c.Probe(t.Context(), 0, f)
		if errors.Is(probed[f], odp.ErrNotSupported) {
			require.ErrorContains(t, err, f.String())
		} else {
			require.NoError(t, probed[f])
		}
	}
	require.Equal(t, errors.Join(probed[odp.FeatureUnaligned], probed[odp.FeaturePerCPU], probed[odp.FeatureTCRecirc]) != nil, err != nil)
	for d, err := range c.Datapaths(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, "odptest34", d.Name)
		require.NoError(t, c.DeleteDatapath(t.Context(), d.Index))
	}
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest35"}).Index
	require.NoError(t, c.Probe(t.Context(), dp, odp.FeatureUFID))
	require.NoError(t, c.Probe(t.Context(), dp, odp.FeatureExtHdrs))
	require.Zero(t, count(t, c, dp))
}

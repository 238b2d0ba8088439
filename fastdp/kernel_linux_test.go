package fastdp

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// inKernel is a datapath of the running kernel, in a namespace of its own, and a list of work for it.
func inKernel(t *testing.T) (*odp.Conn, *work) {
	t.Helper()
	h, err := labtest.New(t).Host("h")
	require.NoError(t, err)
	ns, err := os.Open(h.Path())
	require.NoError(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	c, err := odp.Open(t.Context(), odp.Config{NetNS: int(ns.Fd())})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	dp, err := c.CreateDatapath(t.Context(), odp.DatapathSpec{Name: "datapath"})
	require.NoError(t, err)
	d, err := New(Config{Self: self, Forwarder: overlay.NewForwarder(self)})
	require.NoError(t, err)
	return c, newWork(d, c, dp.Index)
}

// TestIntegrationReplace: the actions of a flow are replaced in the kernel whatever it matches, also when the index is wrong
// about what the kernel has; and flows that could match the same frames go first.
func TestIntegrationReplace(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	c, w := inKernel(t)
	ends := outer{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	v6 := proto{set: true, typ: odp.TypeIPv6, ip: odp.ProtoICMPv6, sub: 135}
	group := overlay.MAC{0x33, 0x33, 0, 0, 0, 1}
	for _, k := range []flowKey{
		{shape: shapeSource, port: 1, mac: here1},
		{shape: shapeSource, port: 1, mac: here1, tags: tags{first: 0x8100}},
		{shape: shapeSource, port: 1, mac: here1, tags: tags{first: 0x88a8, second: 0x8100}},
		{shape: shapeToPeer, mac: atB},
		{shape: shapeFromPort, port: 1, mac: atB},
		{shape: shapeFromPort, port: 1, mac: group, proto: v6},
		{shape: shapeArrive, port: 2, mac: atB, vni: 5, outer: ends},
		{shape: shapeSpread, port: 2, mac: here1, vni: 5, outer: ends},
		{shape: shapeSpread, port: 2, mac: group, vni: 5, outer: ends, proto: v6},
		{shape: shapeDeliver, mac: here1},
		{shape: shapeRelay, port: 2, vni: 7, outer: ends},
		{shape: shapeUser, port: 3, mac: here1},
	} {
		for n := range uint32(6) {
			steps := []step{{kind: stepRecirc, port: n}}
			switch n {
			case 2:
				w.d.index.forget(k) // the kernel has it all the same
			case 4:
				_, err := c.DeleteFlow(t.Context(), w.dp, odp.Flow{UFID: k.ufid()}) // the index has it all the same
				require.NoError(t, err)
			}
			w.put(k, verdict{steps: steps}, time.Now())
			require.NoError(t, w.run(t.Context()))
			f, err := c.GetFlow(t.Context(), w.dp, odp.Flow{UFID: k.ufid()})
			require.NoError(t, err, "%+v, round %d", k, n)
			got, ok := parseActions(f.Actions)
			require.True(t, ok)
			require.Equal(t, steps, got, "%+v", k)
			again, ok := parseKey(f.Match, f.UFID)
			require.True(t, ok)
			require.Equal(t, k, again)
		}
	}
	require.Zero(t, w.d.stats.flowErrors.Load())
	n := 0
	for _, err := range c.Flows(t.Context(), w.dp, odp.DumpOptions{}) {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, 10, n, "rivals are gone")
	require.Equal(t, n, w.d.index.len())
}

package fastdp

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

// TestDispatch: ports of this host have the sockets of some readers, tunnels those of others.
func TestDispatch(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		pids := r.upcallPIDs("a")
		require.Len(t, pids, min(2, possibleCPUs()))
		r.mesh()
		require.NoError(t, r.AddPort(t.Context(), "c"))
		for _, device := range []string{"b", "c"} {
			require.Equal(t, pids, r.upcallPIDs(device), device)
		}
		ofTunnels := r.upcallPIDs("vxlan-6784")
		require.Len(t, ofTunnels, 1)
		require.NotContains(t, pids, ofTunnels[0])
		require.True(t, r.miss("a", all, here1))
		require.True(t, r.miss("c", all, here2))
		r.missFromB(newVNI(id(nameB), id(self)), here1, atB)
		r.settle()
		flows := r.consistent()
		require.Contains(t, flows, flowKey{shape: shapeSource, port: r.number("a"), mac: here1})
		require.Contains(t, flows, flowKey{shape: shapeSource, port: r.number("c"), mac: here2})
		require.Contains(t, flows, flowKey{shape: shapeDeliver, mac: here1})
		for _, steps := range flows {
			for _, s := range steps {
				require.True(t, s.kind != stepUser || slices.Contains(pids, s.port))
			}
		}
		read := map[bool]uint64{}
		for _, st := range r.Status().Readers {
			read[st.Tunnels] += st.Stats.Received
		}
		require.Equal(t, map[bool]uint64{false: 2, true: 1}, read)

		for _, s := range r.sockets {
			if s.Port() == pids[0] {
				require.NoError(t, s.Close())
			}
		}
		require.False(t, r.miss("a", all, novel), "nobody reads")
		time.Sleep(time.Second)
		r.settle()
		require.EqualValues(t, 1, r.Status().Counts["reader_restarts"])
		now := r.upcallPIDs("a")
		require.Len(t, now, len(pids))
		require.NotContains(t, now, pids[0])
		require.Equal(t, pids[1:], now[1:])
		require.Equal(t, now, r.upcallPIDs("b"))
		require.True(t, r.miss("a", all, novel))
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeSource, port: r.number("a"), mac: novel})

		_, err := r.conn.SetUpcallPIDs(t.Context(), r.dp(), r.number("b"), 7)
		require.NoError(t, err)
		r.touch()
		r.settle()
		require.Equal(t, now, r.upcallPIDs("b"), "what others change is put right")
	})
}

// TestAdoptDispatch: ports of a former run get the sockets of this one, also if that run had them by processor.
func TestAdoptDispatch(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		require.True(t, r.miss("a", all, here1))
		r.settle()
		before := r.consistent()
		r.stop()
		_, err := r.conn.SetFeatures(t.Context(), r.dp(), odp.Unaligned|odp.PerCPU, []uint32{7})
		require.NoError(t, err)
		r.start(nil)
		require.Equal(t, before, r.consistent())
		r.mesh()
		require.True(t, r.miss("b", all, here2))
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeSource, port: r.number("b"), mac: here2})
	})
}

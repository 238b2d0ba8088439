package fastdp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// TestFloodLimit: so many frames to unknown stations are sent on in a second, and no more.
func TestFloodLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		send := func(n int) (sent int) {
			seen := len(r.k.Executed())
			for i := range n {
				require.True(t, r.miss("a", overlay.MAC{2, 0, 0, 7, byte(i >> 8), byte(i)}, here1))
				if i%32 == 0 {
					synctest.Wait()
				}
			}
			synctest.Wait()
			return len(r.k.Executed()) - seen
		}
		require.Equal(t, spreadPerSecond/spreadShare, send(spreadPerSecond/spreadShare+500))
		require.EqualValues(t, 500, r.Status().Counts["frames_limited"])
		require.LessOrEqual(t, r.index.len(), maxBrief/briefShare+8)
		seen := len(r.k.Executed())
		require.True(t, r.miss("b", novel, here2))
		synctest.Wait()
		require.Len(t, r.executed(&seen), 1, "others are not concerned")
		time.Sleep(1100 * time.Millisecond)
		r.settle()
		require.Equal(t, 100, send(100))
		time.Sleep(3 * time.Second)
		r.settle()
		require.Len(t, r.consistent(), 2, "what is left leads stations in")
	})
}

// TestManyStations: a container that invents sources gets no further than its share, and others have room all the while. What was
// silent longest makes room.
func TestManyStations(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.ODP.ReceiveBuffer = time.Second, 4<<20 })
		r.mesh()
		invent := func(kind byte, n int) {
			for i := range n {
				require.True(t, r.miss("a", here2, overlay.MAC{2, 0, 0, kind, byte(i >> 8), byte(i)}))
				if i%32 == 0 {
					synctest.Wait()
				}
			}
			synctest.Wait()
		}
		require.True(t, r.miss("b", all, here2))
		invent(1, maxStations+200)
		require.EqualValues(t, 200, r.Status().Counts["stations_refused"])
		require.EqualValues(t, maxStations, r.table.stations.count(r.number("a")).Load())
		invent(1, maxStations) // they are known
		require.EqualValues(t, 200, r.Status().Counts["stations_refused"])
		other := overlay.MAC{2, 0, 0, 9, 9, 9}
		require.True(t, r.miss("b", all, other))
		time.Sleep(3 * time.Second)
		r.settle()
		flows := r.consistent()
		require.Contains(t, flows, flowKey{shape: shapeSource, port: r.number("b"), mac: other})
		require.Contains(t, flows, flowKey{shape: shapeSource, port: r.number("b"), mac: here2})
		require.LessOrEqual(t, len(flows), maxStations*3/4+8)
		invent(2, 10)
		require.EqualValues(t, 200, r.Status().Counts["stations_refused"], "there is room again")
	})
}

// TestManyGroups: a container that sends to groups that it invents has no more than its share of the flows.
func TestManyGroups(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.MaxFlows = time.Second, 1600 })
		r.mesh()
		const share = 1600 / localShare
		for i := range 3 * share {
			require.True(t, r.miss("a", overlay.MAC{3, 0, 0, 7, byte(i >> 8), byte(i)}, here1))
			synctest.Wait()
		}
		seen := 0
		r.executed(&seen)
		require.Len(t, r.consistent(), share)
		require.True(t, r.miss("b", all, here2))
		require.True(t, r.miss("a", overlay.MAC{3, 0, 0, 7, 255, 255}, here1))
		synctest.Wait()
		require.Len(t, r.executed(&seen), 2, "frames without a flow are sent on")
		time.Sleep(2 * time.Second)
		r.settle()
		require.LessOrEqual(t, len(r.consistent()), share*3/4+2)
		require.Contains(t, r.flows(), flowKey{shape: shapeFromPort, port: r.number("b"), mac: all})
	})
}

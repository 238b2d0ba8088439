package fastdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// TestLostReplies: the kernel did not answer, and whether it did what it was asked is not known. It is found out.
func TestLostReplies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep = time.Second })
		r.mesh()
		for i := range 4 {
			dp, port := r.dp(), r.number("a")
			r.k.LoseReplies(i + 1)
			r.missAt(dp, port, all, overlay.MAC{2, 0, 0, 0, 5, byte(i)})
			time.Sleep(5 * time.Second)
			r.settle()
			r.consistent()
		}
		require.NotZero(t, r.Status().Counts["replies_lost"])
		r.k.SendStale(3)
		r.miss("a", all, here1)
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeSource, port: r.number("a"), mac: here1})
	})
}

// TestLostMisses: more is missed than there is room for. What is lost is counted, and the next miss is handled.
func TestLostMisses(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.ODP.ReceiveBuffer = time.Second, 4096 })
		r.mesh()
		lost := 0
		for lost < 5 {
			if !r.miss("a", all, here1) {
				lost++
			}
		}
		time.Sleep(2 * time.Second)
		r.settle()
		require.EqualValues(t, lost, r.Status().Kernel.Lost)
		require.NotZero(t, r.Status().Counts["misses_lost_bursts"])
		require.True(t, r.miss("b", all, here2))
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeSource, port: r.number("b"), mac: here2})
	})
}

// TestReaderIsReplaced: a reader whose socket fails is replaced, and misses are heard again.
func TestReaderIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		pid := r.upcallPIDs("a")[0]
		for _, s := range r.sockets {
			if s.Port() == pid {
				require.NoError(t, s.Close())
			}
		}
		require.False(t, r.miss("a", all, here1))
		time.Sleep(time.Second)
		r.settle()
		require.EqualValues(t, 1, r.Status().Counts["reader_restarts"])
		require.True(t, r.miss("a", all, here1))
		r.settle()
		require.Len(t, r.consistent(), 2)
	})
}

// TestReaderIsStuck: another reader takes the place of one that does not come back.
func TestReaderIsStuck(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.Readers = time.Second, 1 })
		r.mesh()
		free := make(chan struct{})
		r.mu.Lock()
		r.onSend = func() { <-free }
		r.mu.Unlock()
		dp, port := r.dp(), r.number("a")
		pid := r.upcallPIDs("a")
		r.missAt(dp, port, all, here1)
		time.Sleep(readerStuck + 2*time.Second)
		r.settle()
		require.EqualValues(t, 1, r.Status().Counts["readers_stuck"])
		require.NotEqual(t, pid, r.upcallPIDs("a"))
		require.Len(t, r.Status().Readers, 2)
		require.True(t, r.miss("a", all, here2))
		r.settle()
		require.Contains(t, r.flows(), flowKey{shape: shapeSource, port: port, mac: here2})
		close(free)
		time.Sleep(3 * time.Second)
		r.settle()
		r.consistent()
	})
}

// TestDatapathDeleted: a datapath that is deleted under us is made again, with its ports.
func TestDatapathDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.miss("a", all, here1)
		r.settle()
		old := r.dp()
		require.NoError(t, r.conn.DeleteDatapath(t.Context(), old))
		r.settle()
		require.False(t, r.Status().Running)
		require.NotEmpty(t, r.Status().Problem)
		time.Sleep(2 * time.Second)
		r.settle()
		require.True(t, r.Status().Running)
		require.NotEqual(t, old, r.dp())
		require.Empty(t, r.consistent())
		require.True(t, r.miss("a", all, here1))
		r.settle()
		require.Len(t, r.consistent(), 2)
		require.EqualValues(t, 1, r.Status().Counts["restarts"])
	})
}

// TestPortsDeleted: ports that others delete are made again, and flows that lead to them are not left.
func TestPortsDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.miss("a", all, here1)
		r.miss("b", all, here2)
		r.settle()
		for _, name := range []string{"vxlan-6784", "b"} {
			number := r.number(name)
			require.NoError(t, r.conn.DeleteVport(t.Context(), r.dp(), number))
			r.settle()
			require.NotZero(t, r.number(name), "it is back")
			r.consistent()
		}
		require.NoError(t, r.RemovePort(t.Context(), "b"))
		r.settle()
		_, err := r.conn.Vport(t.Context(), "b")
		require.True(t, notExist(err))
		require.NoError(t, r.RemovePort(t.Context(), "b"))
		for k, steps := range r.consistent() {
			require.NotContains(t, steps, out(2), "%+v", k)
		}
		require.ErrorContains(t, r.AddPort(t.Context(), "datapath"), "cannot be one")
	})
}

// TestOthersMeddle: flows that others add, change and remove are put right.
func TestOthersMeddle(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep = time.Second })
		r.mesh()
		r.miss("a", all, here1)
		r.settle()
		k := flowKey{shape: shapeFromPort, port: r.number("a"), mac: all}
		before := r.consistent()
		require.NoError(t, r.conn.ModifyFlow(t.Context(), r.dp(), odp.Flow{UFID: k.ufid(), Match: k.match()}))
		foreign := odp.Flow{UFID: "0123456789abcdef", Match: odp.Match{odp.Exact(odp.InPort(8))}}
		require.NoError(t, r.conn.PutFlow(t.Context(), r.dp(), foreign))
		time.Sleep((fullEvery + 1) * time.Second)
		r.settle()
		require.Equal(t, before, r.consistent())
		_, err := r.conn.DeleteFlow(t.Context(), r.dp(), odp.Flow{UFID: k.ufid()})
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		r.settle()
		r.consistent()
		_, err = r.conn.SetFeatures(t.Context(), r.dp(), odp.Unaligned, nil)
		require.NoError(t, err)
		r.settle()
		require.True(t, r.miss("a", all, here1), "its features were put right")
		r.settle()
		require.Equal(t, before, r.consistent())
	})
}

// TestRemoveTunnels: what leads to other peers is gone from a datapath that nobody runs; its other ports are left.
func TestRemoveTunnels(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.miss("a", all, here1)
		r.settle()
		require.NotEmpty(t, r.consistent())
		r.stop()
		udp, err := TunnelPorts(t.Context(), r.conn, r.dp())
		require.NoError(t, err)
		require.Equal(t, []uint16{DefaultPort}, udp)
		require.NoError(t, RemoveTunnels(t.Context(), r.conn, r.dp()))
		require.Empty(t, r.flows())
		require.NotZero(t, r.number("a"))
		udp, err = TunnelPorts(t.Context(), r.conn, r.dp())
		require.NoError(t, err)
		require.Empty(t, udp)
	})
}

// TestTunnelsEnd: a tunnel to a peer with another port is removed when nobody has used it for the hold, and made again when it is
// wanted.
func TestTunnelsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.Hold = time.Second, 10*time.Second })
		r.mesh()
		udp := func() []uint16 {
			ports, err := TunnelPorts(t.Context(), r.conn, r.dp())
			require.NoError(t, err)
			return ports
		}
		at := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.3"), 7783)
		for range 2 {
			b, err := r.sw.Prepare(overlay.Params{
				Self: self, Remote: nameC, Local: addrPort(selfAddr), RemoteAddr: at, Outbound: true,
				ConnUID: uint64(nameC), Features: map[string]string{overlay.FeatureKey: "fastdp"},
			}, func(byte, []byte) error { return nil }, func(overlay.Event) {})
			require.NoError(t, err)
			b.Confirm()
			r.settle()
			require.Equal(t, []uint16{6784, 7784}, udp())
			b.Close()
			time.Sleep(9 * time.Second)
			require.Len(t, udp(), 2)
			time.Sleep(4 * time.Second)
			r.settle()
			require.Equal(t, []uint16{6784}, udp())
			require.Len(t, r.Status().Ports, 4)
			r.consistent()
		}
	})
}

// TestOldNews: packets that a flow has seen before its station moved do not move it back.
func TestOldNews(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.missFromB(newVNI(id(nameB), id(self)), all, atB)
		r.settle()
		k := flowKey{shape: shapeArrive, port: r.number("vxlan-6784"), mac: atB, vni: newVNI(id(nameB), id(self)), outer: fromB}
		require.True(t, r.k.Hit(r.dp(), k.ufid(), 100))
		s := &session{Datapath: r.Datapath, kernel: r.kernel.Load()}
		r.fwd.LearnRemote(time.Now(), atB, nameC)
		f := odp.Flow{UFID: k.ufid(), Stats: odp.FlowStats{Packets: 5, Bytes: 500}}
		s.sweepOne(newWork(r.Datapath, r.conn, r.dp()), k, f, 1, false, time.Now()) // listed before
		at, _ := r.fwd.Station(atB)
		require.Equal(t, nameC, at)

		r.miss("a", all, here1)
		r.settle()
		k = flowKey{shape: shapeSource, port: r.number("a"), mac: here1}
		r.table.stations.learn(here1, r.number("b"), time.Now())
		f.UFID = k.ufid()
		s.sweepOne(newWork(r.Datapath, r.conn, r.dp()), k, f, 1, false, time.Now())
		port, _ := r.table.stations.port(here1)
		require.Equal(t, r.number("b"), port)
	})
}

// TestFormerLosses: what was lost before this run is not news.
func TestFormerLosses(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		dp, port := r.dp(), r.number("a")
		require.False(t, r.missAt(dp, port, all, here1))
		r.start(func(c *Config) { c.Sweep = time.Second })
		time.Sleep(3 * time.Second)
		r.settle()
		require.EqualValues(t, 1, r.Status().Kernel.Lost)
		require.Zero(t, r.Status().Counts["misses_lost_bursts"])
	})
}

// TestPortsChangeBetween: a port that becomes another one while the datapath is set up again has none of its flows.
func TestPortsChangeBetween(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.miss("a", all, here1)
		r.settle()
		port := r.number("a")
		k := flowKey{shape: shapeSource, port: port, mac: here1}
		require.Contains(t, r.consistent(), k)
		r.want("a", false)
		for _, s := range r.sockets {
			require.NoError(t, s.Close())
		}
		r.settle()
		require.False(t, r.Status().Running)
		require.NoError(t, r.conn.DeleteVport(t.Context(), r.dp(), port))
		_, err := r.conn.CreateVport(t.Context(), r.dp(), odp.VportSpec{Name: "c", Type: odp.Netdev, Number: port})
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		r.settle()
		require.True(t, r.Status().Running)
		require.NotContains(t, r.consistent(), k)
	})
}

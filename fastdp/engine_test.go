package fastdp

import (
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 6783) }

func (r *rig) tunnelStep(v vni) step {
	return step{kind: stepTunnel, port: r.number("vxlan-6784"), vni: v, outer: toB}
}

// TestMiss: a miss makes the flows for its source and its destination at once, and sends the frame on.
func TestMiss(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		seen := len(r.k.Executed())
		require.True(t, r.miss("a", all, here1))
		r.settle()
		flows := r.consistent()
		require.Len(t, flows, 2)
		a, b := r.number("a"), r.number("b")
		require.Equal(t, []step{{kind: stepRecirc, port: stageLocal}}, flows[flowKey{shape: shapeSource, port: a, mac: here1}])
		want := []step{out(b), r.tunnelStep(newVNI(id(self), id(nameB)))}
		require.True(t, sameSteps(want, flows[flowKey{shape: shapeFromPort, port: a, mac: all}]), "%+v", flows)
		got := r.executed(&seen)
		require.Len(t, got, 1)
		require.True(t, sameSteps(want, got[0]))
		at, known := r.fwd.Station(here1)
		require.True(t, known)
		require.Equal(t, self, at)

		r.missFromB(newVNI(id(nameB), id(self)), here1, atB)
		r.settle()
		require.Equal(t, [][]step{{out(a)}}, r.executed(&seen))
		flows = r.consistent()
		require.Equal(t, []step{out(a)}, flows[flowKey{shape: shapeDeliver, mac: here1}])
		require.Len(t, flows, 4)
		require.EqualValues(t, 2, r.Status().Counts["misses"])
		require.Equal(t, map[string]int{"source": 1, "from_port": 1, "arrive": 1, "deliver": 1}, r.Status().Flows)
	})
}

// TestUnrelatedChange: what does not matter to a flow does not touch it, and its statistics go on.
func TestUnrelatedChange(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.connect(nameC, netip.MustParseAddr("10.0.0.3"), "sleeve")
		r.fwd.LearnRemote(time.Now(), atB, nameB)
		r.fwd.LearnRemote(time.Now(), atD, nameD)
		for _, dst := range []overlay.MAC{all, atB, atD} {
			r.miss("a", dst, here1)
		}
		r.settle()
		before := r.consistent()
		toD := flowKey{shape: shapeToPeer, mac: atD}
		require.Contains(t, before, toD)
		for range 5 {
			require.True(t, r.k.Hit(r.dp(), toD.ufid(), 100))
		}
		requests := r.k.Requests()
		r.routes.IDs[0x0a00000000ff] = 0x7ff
		r.routes.Hops[0x0a00000000ff] = nameC
		r.fwd.SetRoutes(r.routes)
		r.fwd.LearnRemote(time.Now(), novel, nameB)
		r.settle()
		require.Equal(t, requests, r.k.Requests(), "nothing was asked of the kernel")

		r.routes.Hops[nameD] = nameC // by sleeve
		r.fwd.SetRoutes(r.routes)
		r.settle()
		require.Equal(t, requests+1, r.k.Requests(), "one flow is replaced")
		after := r.consistent()
		require.Equal(t, stepUser, after[toD][0].kind)
		f, err := r.conn.GetFlow(t.Context(), r.dp(), odp.Flow{UFID: toD.ufid()})
		require.NoError(t, err)
		require.EqualValues(t, 5, f.Stats.Packets, "its statistics are kept")
	})
}

// TestLateMiss: what changes while a flow is being made is not forgotten.
func TestLateMiss(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.fwd.LearnRemote(time.Now(), atB, nameB)
		r.settle()
		r.mu.Lock()
		r.onSend = func() { r.fwd.LearnRemote(time.Now(), atB, nameD) } // decided, but not yet told to the kernel
		r.mu.Unlock()
		r.miss("a", atB, here1)
		r.settle()
		flows := r.consistent()
		require.Equal(t, newVNI(id(self), id(nameD)), flows[flowKey{shape: shapeToPeer, mac: atB}][0].vni)

		r.mu.Lock()
		r.onSend = func() { r.fwd.LearnLocal(time.Now().Add(time.Minute), atD) }
		r.mu.Unlock()
		r.fwd.LearnRemote(time.Now(), atD, nameD)
		r.miss("a", atD, here1)
		r.settle()
		require.NotContains(t, r.consistent(), flowKey{shape: shapeToPeer, mac: atD}, "it is not at another peer any more")

		r.fwd.LearnRemote(time.Now().Add(2*time.Minute), atD, nameD)
		r.settle()
		r.mu.Lock()
		r.onSend = func() { // the flow is removed by others before it is there
			r.fwd.LearnLocal(time.Now().Add(4*time.Minute), atD)
			time.Sleep(20 * time.Millisecond)
		}
		r.mu.Unlock()
		r.miss("a", atD, here1)
		r.settle()
		time.Sleep(50 * time.Millisecond)
		r.settle()
		require.NotContains(t, r.consistent(), flowKey{shape: shapeToPeer, mac: atD})
	})
}

// TestUnknown: a flow for an unknown station is short, and ends at once when the station is known.
func TestUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.miss("a", novel, here1)
		r.settle()
		flood := flowKey{shape: shapeFromPort, port: r.number("a"), mac: novel}
		require.Contains(t, r.consistent(), flood)
		time.Sleep(2 * time.Second)
		r.settle()
		require.NotContains(t, r.consistent(), flood)

		r.miss("a", novel, here1)
		r.settle()
		r.miss("b", all, novel)
		r.settle()
		require.Equal(t, []step{out(r.number("b"))}, r.consistent()[flood])
		r.missFromB(newVNI(id(nameB), id(self)), here1, atB)
		r.miss("a", atB, here1)
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeToPeer, mac: atB})
	})
}

// TestWrongWay: a frame is not learned from that comes from a neighbour that has it from us.
func TestWrongWay(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.missFromB(newVNI(id(nameC), id(self)), all, atC)
		r.settle()
		_, known := r.fwd.Station(atC)
		require.False(t, known)
		for k, steps := range r.consistent() {
			require.Equal(t, shapeArrive, k.shape)
			require.Empty(t, steps)
		}
		r.routes.Floods[nameC] = nil // the connection between C and us is gone: it comes by B
		r.routes.Hops[nameC] = nameB
		r.fwd.SetRoutes(r.routes)
		r.settle()
		r.missFromB(newVNI(id(nameC), id(self)), all, atC)
		r.settle()
		at, _ := r.fwd.Station(atC)
		require.Equal(t, nameC, at)
	})
}

// TestTwoBehindOneAddress: two peers are reached at one address. Which of them a frame is from, its VNI says; and when the younger
// link is gone, the older one is there still.
func TestTwoBehindOneAddress(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.routes.Floods = map[peer.Name][]peer.Name{self: {nameC, nameB}, nameB: {nameC}, nameC: {nameB}}
		r.fwd.SetRoutes(r.routes)
		c := r.connect(nameC, addrB, "fastdp sleeve")
		learned := func(from peer.Name, m overlay.MAC) {
			t.Helper()
			r.missFromB(newVNI(id(from), id(self)), all, m)
			r.settle()
			at, _ := r.fwd.Station(m)
			require.Equal(t, from, at)
			k := flowKey{shape: shapeArrive, port: r.number("vxlan-6784"), mac: m, vni: newVNI(id(from), id(self)), outer: fromB}
			require.Equal(t, []step{{kind: stepRecirc, port: stageArrived}}, r.consistent()[k])
		}
		learned(nameB, atB)
		learned(nameC, atC)
		c.Close()
		r.settle()
		learned(nameB, overlay.MAC{2, 0, 0, 0, 2, 2})
	})
}

// TestStrangers: what comes from an address without a link makes short flows that drop.
func TestStrangers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		b := r.mesh()
		b.Close()
		r.settle()
		r.missFromB(newVNI(id(nameB), id(self)), all, atB)
		r.settle()
		for k, steps := range r.consistent() {
			require.Equal(t, shapeArrive, k.shape)
			require.Empty(t, steps)
		}
		_, known := r.fwd.Station(atB)
		require.False(t, known)
		require.Empty(t, r.k.Executed()[len(r.k.Executed()):])
		time.Sleep(2 * time.Second)
		r.settle()
		require.Empty(t, r.consistent())
	})
}

// TestNobody: a frame from nobody that is no heartbeat makes no flow, since heartbeats would match it.
func TestNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		seen := len(r.k.Executed())
		r.missFromB(newVNI(id(nameB), id(self)), here1, overlay.MAC{})
		r.settle()
		require.Empty(t, r.consistent())
		require.Empty(t, r.executed(&seen))
	})
}

// TestHold: flows outlive the link that carries them for a while, and no longer.
func TestHold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.Idle = time.Second, time.Hour })
		b := r.mesh()
		r.missFromB(newVNI(id(nameB), id(self)), all, atB)
		r.miss("a", atB, here1)
		r.miss("a", all, here1)
		r.settle()
		before := r.consistent()
		require.Len(t, before, 5)
		b.Close()
		r.fwd.SetRoutes(overlaytest.Routes{})
		r.fwd.ForgetPeer(nameB)
		time.Sleep(defaultHold - time.Second)
		r.settle()
		require.Equal(t, before, r.consistent(), "as it was")
		r.fwd.LearnRemote(time.Now(), atB, nameB)
		b = r.mesh()
		time.Sleep(20 * time.Second)
		r.settle()
		require.Equal(t, before, r.consistent(), "it came back")
		r.fwd.SetRoutes(overlaytest.Routes{})
		b.Close()
		time.Sleep(defaultHold + 2*time.Second)
		r.settle()
		after := r.consistent()
		require.NotContains(t, after, flowKey{shape: shapeToPeer, mac: atB})
		require.Equal(t, []step{out(r.number("b"))}, after[flowKey{shape: shapeFromPort, port: r.number("a"), mac: all}])
	})
}

// TestAdopt: a datapath that starts anew keeps the flows of the one before, learns from them, and removes what is not ours.
func TestAdopt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.missFromB(newVNI(id(nameB), id(self)), here1, atB)
		for _, dst := range []overlay.MAC{atB, all} {
			r.miss("a", dst, here1)
		}
		r.settle()
		r.missFromB(newVNI(id(nameB), id(self)), here1, atB)
		r.settle()
		time.Sleep(1100 * time.Millisecond) // the end of what is short
		r.settle()
		before := r.consistent()
		require.Len(t, before, 5)
		r.stop()
		ctx := t.Context()
		require.NoError(t, r.conn.PutFlow(ctx, r.dp(), odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(9))}, Actions: []odp.Action{odp.Output(1)}}))
		foreign := odp.Flow{UFID: "0123456789abcdef", Match: odp.Match{odp.Exact(odp.InPort(8))}}
		require.NoError(t, r.conn.PutFlow(ctx, r.dp(), foreign))

		r.start(func(c *Config) { c.Sweep, c.Hold = time.Second, 10*time.Second })
		require.Equal(t, before, r.consistent(), "before the mesh is back")
		require.EqualValues(t, 5, r.Status().Counts["flows_adopted"])
		require.EqualValues(t, 2, r.Status().Counts["flows_orphaned"])
		time.Sleep(5 * time.Second)
		r.settle()
		require.Equal(t, before, r.consistent())
		r.mesh()
		at, _ := r.fwd.Station(atB)
		require.Equal(t, nameB, at, "learned from the flows")
		at, _ = r.fwd.Station(here1)
		require.Equal(t, self, at)
		time.Sleep(20 * time.Second) // the hold is over, and nobody misses a heartbeat yet
		r.settle()
		require.Equal(t, before, r.consistent())
	})
}

// TestAdoptInVain: if the mesh does not come back, what leads to it goes.
func TestAdoptInVain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.mesh()
		r.missFromB(newVNI(id(nameB), id(self)), all, atB)
		r.miss("a", atB, here1)
		r.settle()
		require.Len(t, r.consistent(), 4)
		r.stop()
		r.start(func(c *Config) { c.Sweep = time.Second })
		time.Sleep(defaultHold + 20*time.Second)
		r.settle()
		for k := range r.consistent() {
			require.Equal(t, shapeSource, k.shape)
		}
	})
}

// TestSweep: flows in use keep their stations known, those that are not used go.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Sweep, c.Idle = time.Second, time.Minute })
		b := r.mesh()
		r.missFromB(newVNI(id(nameB), id(self)), all, atB)
		r.miss("a", all, here1)
		r.settle()
		used := flowKey{shape: shapeArrive, port: r.number("vxlan-6784"), mac: atB, vni: newVNI(id(nameB), id(self)), outer: fromB}
		require.Contains(t, r.consistent(), used)
		for range 30 {
			require.True(t, r.k.Hit(r.dp(), used.ufid(), 100))
			time.Sleep(30 * time.Second)
			r.fwd.Expire(time.Now())
		}
		r.settle()
		require.Equal(t, map[string]int{"arrive": 1}, r.Status().Flows)
		_, known := r.fwd.Station(atB)
		require.True(t, known)
		_, known = r.fwd.Station(here1)
		require.False(t, known)
		require.EqualValues(t, 30, b.Statuses()[0].Received.Frames)
		require.EqualValues(t, 3000, b.Statuses()[0].Received.Bytes)
	})
}

// TestSend sends frames that came over another overlay, and heartbeats.
func TestSend(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		b := r.mesh()
		seen := 0
		heartbeats := r.executed(&seen)
		require.True(t, sameSteps([]step{r.tunnelStep(newVNI(id(self), id(nameB)))}, heartbeats[0]))
		l := r.fwd.Link(nameB, nameC, nameB)
		require.NotNil(t, r.table.links.own(l))
		l.Send([]overlay.Frame{
			{Data: frameFor(atD, atC), Src: nameC, Dst: nameD}, {Data: frameFor(all, atC), Src: nameC, Dst: nameB, Flooded: true},
			{Data: frameFor(all, atC), Src: 0x0aff, Dst: nameB},
		})
		got := r.executed(&seen)
		require.Len(t, got, 2)
		require.True(t, sameSteps([]step{r.tunnelStep(newVNI(id(nameC), id(nameD)))}, got[0]))
		require.True(t, sameSteps([]step{r.tunnelStep(newVNI(id(nameC), id(nameB)))}, got[1]))
		require.EqualValues(t, 2, b.Statuses()[0].Sent.Frames)
		require.EqualValues(t, 1, b.Statuses()[0].Drops["no_short_id"])
		b.Close()
		l.Send([]overlay.Frame{{Data: frameFor(all, atC), Src: nameC, Dst: nameB}})
		require.Empty(t, r.executed(&seen))
		require.EqualValues(t, 1, l.Status().Drops["closed"])
	})
}

// TestNoDatapath: a kernel without it is told by the error of Run.
func TestNoDatapath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := New(Config{Self: self, Forwarder: overlay.NewForwarder(self), ODP: odp.Config{Dial: func(odp.SocketOptions) (odp.Socket, error) {
			return nil, os.ErrPermission
		}}})
		require.NoError(t, err)
		require.ErrorIs(t, d.Run(t.Context()), os.ErrPermission)
		require.ErrorIs(t, d.Run(t.Context()), errRunTwice)
	})
}

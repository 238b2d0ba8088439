package overlay_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

// overDatapath is a switch with links to B and C, each over a datapath and over two others, of which the datapath carries
// what carries says.
func overDatapath(t *testing.T, carries func(src, dst peer.Name) bool) (fast, second, third *stub, port *overlaytest.Port, sw *overlay.Switch) {
	fast, second, third = &stub{name: "fast", carries: carries}, &stub{name: "second"}, &stub{name: "third"}
	port = overlaytest.NewPort("mem0")
	sw = newSwitch(t, port, fast, second, third)
	run(t, sw)
	for _, n := range []peer.Name{peerB, peerC} {
		link(t, sw, n, "fast second third")
	}
	sw.Forwarder().SetRoutes(starRoutes())
	sw.Forwarder().LearnLocal(now, mac(macA))
	return fast, second, third, port, sw
}

// sentBy returns how many frames each link of an overlay has sent since it was last asked.
func sentBy(s *stub) (counts [2]int) {
	for i, l := range s.links {
		counts[i] = len(l.take())
	}
	return counts
}

// TestDatapathSendsItsPart: the switch does not send again what a datapath has sent, but what came over a link.
func TestDatapathSendsItsPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, second, third, port, sw := overDatapath(t, func(peer.Name, peer.Name) bool { return true })
		require.NoError(t, port.Inject(ethernet(all, macA)))
		synctest.Wait()
		require.Equal(t, [2]int{}, sentBy(fast), "captured: the datapath has sent it")
		require.Equal(t, [2]int{}, sentBy(second))
		sw.Forwarder().LearnRemote(now, mac(macB), peerB)
		require.NoError(t, port.Inject(ethernet(macB, macA)))
		synctest.Wait()
		require.Equal(t, [2]int{1, 0}, sentBy(fast), "for a single peer: the datapath thought that another link carries it")

		fast.links[0].Report(overlay.Event{Kind: overlay.OnHold, Err: errTest})
		require.NoError(t, port.Inject(ethernet(all, macA)))
		synctest.Wait()
		require.Equal(t, [2]int{}, sentBy(fast))
		require.Equal(t, [2]int{1, 0}, sentBy(second), "the datapath goes to C only")
		require.Equal(t, overlay.Link(second.links[0]), sw.Forwarder().Link(peerB, peerA, peerB))
		require.Equal(t, overlay.Link(datapathLink{fast.links[1]}), sw.Forwarder().Link(peerC, peerA, peerD))

		second.links[0].Receive([]overlay.Frame{
			{Data: ethernet(all, macB), Src: peerB, Dst: peerA},
			{Data: ethernet(macC, macB), Src: peerB, Dst: peerD},
			{Data: ethernet(macB, macC), Src: peerC, Dst: peerB},
		})
		require.Equal(t, [2]int{0, 2}, sentBy(fast), "from a link on, flooded and relayed")
		require.Equal(t, [2]int{1, 0}, sentBy(second))
		require.Equal(t, [2]int{}, sentBy(third))
		require.Empty(t, sw.Status().Drops)
	})
}

// TestDatapathThatCannotCarry: frames go over the next link in order, on hold or not, and never over one before the best.
func TestDatapathThatCannotCarry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, second, third, port, sw := overDatapath(t, func(_, dst peer.Name) bool { return dst != peerD })
		f := sw.Forwarder()
		f.LearnRemote(now, mac(macC), peerD)
		toD := ethernet(macC, macA)
		sendToD := func() {
			require.NoError(t, port.Inject(toD))
			synctest.Wait()
		}
		sendToD()
		require.Equal(t, [2]int{0, 1}, sentBy(second))
		require.Equal(t, overlay.Link(second.links[1]), f.Link(peerC, peerA, peerD))
		require.Equal(t, overlay.Link(datapathLink{fast.links[1]}), f.Link(peerC, peerA, peerC))

		second.links[1].Report(overlay.Event{Kind: overlay.OnHold, Err: errTest})
		sendToD()
		require.Equal(t, [2]int{0, 1}, sentBy(second), "on hold, but what there is")

		second.links[1].Report(overlay.Event{Kind: overlay.Failed, Err: errTest})
		sendToD()
		require.Equal(t, [2]int{0, 1}, sentBy(third))
		require.Empty(t, sw.Status().Drops)

		third.links[1].Report(overlay.Event{Kind: overlay.Failed, Err: errTest})
		sendToD()
		require.Equal(t, map[string]uint64{"no_link": 1}, sw.Status().Drops)
		require.Nil(t, f.Link(peerC, peerA, peerD))
		require.Nil(t, f.Link(peerD, peerA, peerD), "no neighbour")
		require.Equal(t, [2]int{}, sentBy(fast))
	})
}

// TestDatapathSecond: a datapath that is not the best is not used.
func TestDatapathSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, fast := &stub{name: "first"}, &stub{name: "fast", carries: func(peer.Name, peer.Name) bool { return true }}
		port := overlaytest.NewPort("mem0")
		sw := newSwitch(t, port, first, fast)
		run(t, sw)
		link(t, sw, peerB, "first fast")
		sw.Forwarder().SetRoutes(starRoutes())
		require.NoError(t, port.Inject(ethernet(all, macA)))
		synctest.Wait()
		require.Len(t, first.last().take(), 1)
		require.Empty(t, fast.last().take())
		first.last().Report(overlay.Event{Kind: overlay.Failed, Err: errTest})
		require.NoError(t, port.Inject(ethernet(all, macA)))
		synctest.Wait()
		require.Empty(t, fast.last().take(), "now it sends by itself")
	})
}

// TestDatapathBehindOneOnHold: what it cannot carry does not go over a link that was better once.
func TestDatapathBehindOneOnHold(t *testing.T) {
	first, fast, last := &stub{name: "first"}, &stub{name: "fast", carries: func(peer.Name, peer.Name) bool { return false }}, &stub{name: "last"}
	sw := newSwitch(t, nil, first, fast, last)
	link(t, sw, peerB, "first fast last")
	first.last().Report(overlay.Event{Kind: overlay.OnHold, Err: errTest})
	require.Equal(t, overlay.Link(last.last()), sw.Forwarder().Link(peerB, peerA, peerB))
}

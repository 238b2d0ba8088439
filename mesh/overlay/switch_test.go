package overlay_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

// TestVectorFrameDecisions runs twenty frames through a switch and compares what it sends, and what it knows then, with what
// Weave Net 2.8 did.
func TestVectorFrameDecisions(t *testing.T) {
	var v struct {
		Decisions struct {
			Steps []struct {
				Actions []string
				Dst     string            `json:"dst_mac"`
				Src     string            `json:"src_mac"`
				From    string            // "bridge" or "overlay"
				DstPeer string            `json:"dst_peer"`
				SrcPeer string            `json:"src_peer"`
				MACs    map[string]string `json:"mac_table_after"`
				What    string
			}
		} `json:"frame_decisions"`
	}
	loadVectors(t, "sleeve.json", &v)
	require.Len(t, v.Decisions.Steps, 20)
	letters := map[peer.Name]string{peerA: "A", peerB: "B", peerC: "C", peerD: "D"}
	names := map[string]peer.Name{"A": peerA, "B": peerB, "C": peerC, "D": peerD}

	synctest.Test(t, func(t *testing.T) {
		carrier, port := &stub{name: "x"}, overlaytest.NewPort("mem0")
		sw := newSwitch(t, port, carrier)
		run(t, sw)
		link(t, sw, peerB, "x")
		link(t, sw, peerC, "x")
		sw.Forwarder().SetRoutes(starRoutes())
		var refused string
		for i, step := range v.Decisions.Steps {
			if i == len(v.Decisions.Steps)-1 {
				sw.Forwarder().ForgetPeer(peerD) // "after peer D was garbage-collected"
			}
			if step.What == "own name as source, for us" { // 2.8 takes it; section 12.3 of the specification wants it refused
				step.Actions, refused = nil, step.Src
			}
			delete(step.MACs, refused)
			frame := ethernet(step.Dst, step.Src)
			if step.From == "bridge" {
				require.NoError(t, port.Inject(frame))
			} else {
				carrier.links[0].Receive([]overlay.Frame{{Data: frame, Src: names[step.SrcPeer], Dst: names[step.DstPeer]}})
			}
			synctest.Wait()
			var actions []string
			for range len(port.Written()) {
				require.Equal(t, frame, <-port.Written())
				actions = append(actions, "inject hint=false")
			}
			for _, l := range carrier.links {
				for _, f := range l.take() {
					require.Equal(t, frame, f.Data)
					actions = append(actions, fmt.Sprintf("send to %s src=%s dst=%s hint=%t", letters[l.Remote], letters[f.Src], letters[f.Dst], f.Flooded))
				}
			}
			require.ElementsMatch(t, step.Actions, actions, "step %d: %s", i, step.What)
			table := map[string]string{}
			for _, e := range sw.Status().MACs {
				table[e.MAC.String()] = letters[e.Peer]
			}
			require.Equal(t, step.MACs, table, "step %d: %s", i, step.What)
		}
	})
}

// run runs a switch until the test ends.
func run(t testing.TB, sw *overlay.Switch) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

// host is a peer with a switch over two in-memory overlays.
type host struct {
	name       peer.Name
	fast, slow *overlaytest.Overlay
	port       *overlaytest.Port
	sw         *overlay.Switch
}

func newHost(t *testing.T, n *overlaytest.Network, name peer.Name) *host {
	h := &host{name: name, fast: n.Overlay(name, "fast"), slow: n.Overlay(name, "slow"), port: overlaytest.NewPort(name.String())}
	var err error
	h.sw, err = overlay.NewSwitch(overlay.SwitchConfig{Self: name, Overlays: []overlay.Overlay{h.fast, h.slow}, Port: h.port})
	require.NoError(t, err)
	run(t, h.sw)
	return h
}

// cable is what the mesh does for a connection of two switches.
type cable struct {
	bundles [2]*overlay.Bundle
	events  [2]chan overlay.Event
}

func join(t *testing.T, x, y *host) *cable {
	c := &cable{events: [2]chan overlay.Event{make(chan overlay.Event, 8), make(chan overlay.Event, 8)}}
	type control struct {
		tag     byte
		payload []byte
	}
	inbox := [2]chan control{make(chan control, 64), make(chan control, 64)}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, ends := range [][2]*host{{x, y}, {y, x}} {
		p := overlay.Params{
			Self: ends[0].name, Remote: ends[1].name, Outbound: i == 0, ConnUID: uint64(x.name ^ y.name),
			Features: map[string]string{overlay.FeatureKey: ends[1].sw.Offer()},
		}
		var err error
		c.bundles[i], err = ends[0].sw.Prepare(p,
			func(tag byte, payload []byte) error { inbox[1-i] <- control{tag, payload}; return nil },
			func(e overlay.Event) { c.events[i] <- e })
		require.NoError(t, err)
		wg.Go(func() {
			for {
				select {
				case m := <-inbox[i]:
					c.bundles[i].Control(m.tag, m.payload)
				case <-stop:
					return
				}
			}
		})
	}
	c.bundles[0].Confirm()
	c.bundles[1].Confirm()
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		c.bundles[0].Close()
		c.bundles[1].Close()
	})
	synctest.Wait()
	return c
}

// line is three hosts in a row: A - B - C.
func line(t *testing.T) (a, b, c *host, ab *cable) {
	n := overlaytest.NewNetwork()
	a, b, c = newHost(t, n, peerA), newHost(t, n, peerB), newHost(t, n, peerC)
	ab = join(t, a, b)
	join(t, b, c)
	set := func(h *host, hops map[peer.Name]peer.Name, floods map[peer.Name][]peer.Name) {
		h.sw.Forwarder().SetRoutes(overlaytest.Routes{Hops: hops, Floods: floods})
	}
	set(a, map[peer.Name]peer.Name{peerB: peerB, peerC: peerB}, map[peer.Name][]peer.Name{peerA: {peerB}})
	set(b, map[peer.Name]peer.Name{peerA: peerA, peerC: peerC}, map[peer.Name][]peer.Name{peerA: {peerC}, peerB: {peerA, peerC}, peerC: {peerA}})
	set(c, map[peer.Name]peer.Name{peerA: peerB, peerB: peerB}, map[peer.Name][]peer.Name{peerC: {peerB}})
	return a, b, c, ab
}

const (
	macA = "52:54:00:00:00:0a"
	macB = "52:54:00:00:00:0b"
	macC = "52:54:00:00:00:0c"
	all  = "ff:ff:ff:ff:ff:ff"
)

// say sends a frame from a station of h and returns to which of the hosts it came.
func say(t *testing.T, h *host, dst, src string, hosts ...*host) (heard []peer.Name) {
	frame := ethernet(dst, src)
	require.NoError(t, h.port.Inject(frame))
	synctest.Wait()
	for _, to := range hosts {
		for range len(to.port.Written()) {
			require.Equal(t, frame, <-to.port.Written())
			heard = append(heard, to.name)
		}
	}
	return heard
}

func TestSwitchesInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c, ab := line(t)
		require.Equal(t, overlay.Established, (<-ab.events[0]).Kind)
		require.Equal(t, []peer.Name{peerB, peerC}, say(t, a, all, macA, a, b, c), "a broadcast, over B")
		require.Equal(t, []peer.Name{peerA}, say(t, c, macA, macC, a, b, c), "an answer, relayed by B")
		require.Equal(t, []peer.Name{peerC}, say(t, a, macC, macA, a, b, c))
		require.Equal(t, []peer.Name{peerA, peerC}, say(t, b, all, macB, a, b, c))
		require.Empty(t, say(t, a, macA, macA, a, b, c), "both stations are here")

		require.NoError(t, a.port.Inject(make([]byte, 13)))
		synctest.Wait()
		require.Equal(t, map[string]uint64{"short": 1, "local": 1}, a.sw.Status().Drops)
		require.Equal(t, []string{"fast", "slow"}, a.sw.Status().Overlays)
		require.Equal(t, a.name.String(), a.sw.Status().Port)

		time.Sleep(overlay.MACAge + 2*time.Minute)
		require.Empty(t, a.sw.Status().MACs, "stations age")
	})
}

// TestSwitchFallsBackAndReturns breaks the better overlay in each way there is.
func TestSwitchFallsBackAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c, ab := line(t)
		require.Equal(t, overlay.Established, (<-ab.events[0]).Kind)
		carried := func() [2]uint64 {
			st := ab.bundles[0].Statuses()
			return [2]uint64{st[0].Sent.Frames, st[1].Sent.Frames}
		}
		hears := func(what string) {
			t.Helper()
			synctest.Wait() // for what was reported
			require.Equal(t, []peer.Name{peerB, peerC}, say(t, a, all, macA, a, b, c), what)
		}
		hears("both work")
		require.Equal(t, [2]uint64{1, 0}, carried())

		a.fast.Hold(peerB, errTest)
		hears("fast on hold")
		require.Equal(t, [2]uint64{1, 1}, carried())
		require.Equal(t, "slow", ab.bundles[0].Status().Overlay)
		require.Equal(t, errTest.Error(), ab.bundles[0].Statuses()[0].Reason)

		a.fast.Release(peerB)
		hears("fast again")
		require.Equal(t, [2]uint64{2, 1}, carried())

		a.fast.Fail(peerB, errTest)
		hears("fast failed")
		require.Equal(t, [2]uint64{2, 2}, carried())

		require.Empty(t, ab.events[0], "the mesh need not know")
		a.slow.Fail(peerB, errTest)
		synctest.Wait()
		require.Equal(t, overlay.Failed, (<-ab.events[0]).Kind)
		require.Empty(t, say(t, a, all, macA, a, b, c))
		require.Equal(t, uint64(1), a.sw.Status().Drops["no_link"])
		require.Zero(t, a.fast.Links()+a.slow.Links(), "failed links are closed")
	})
}

func TestSwitchPrefersWhatIsEstablished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := overlaytest.NewNetwork()
		a, b := newHost(t, n, peerA), newHost(t, n, peerB)
		a.fast.Cut(peerB)
		ab := join(t, a, b)
		require.Equal(t, "slow", ab.bundles[0].Status().Overlay)
		a.fast.Heal(peerB)
		synctest.Wait()
		require.Equal(t, "fast", ab.bundles[0].Status().Overlay)
		require.Len(t, ab.events[0], 1)
	})
}

func TestSwitchRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		port := overlaytest.NewPort("mem0")
		sw := newSwitch(t, port, &stub{name: "x"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- sw.Run(ctx) }()
		synctest.Wait()
		cancel()
		require.NoError(t, <-done)
		require.ErrorIs(t, port.Inject([]byte("x")), net.ErrClosed, "the switch closes its port")

		sw = newSwitch(t, &brokenPort{Port: overlaytest.NewPort("mem1")}, &stub{name: "x"})
		require.ErrorIs(t, sw.Run(t.Context()), errTest)
	})
}

// brokenPort fails at once.
type brokenPort struct{ *overlaytest.Port }

func (*brokenPort) Read([][]byte, []int) (int, error) { return 0, errTest }
func (*brokenPort) Write([][]byte) error              { return errTest }

// TestSwitchWithoutPort relays all the same, and a port that fails to write disturbs nobody else.
func TestSwitchWithoutPort(t *testing.T) {
	for name, port := range map[string]overlay.Port{"none": nil, "broken": &brokenPort{Port: overlaytest.NewPort("mem0")}} {
		carrier := &stub{name: "x"}
		sw := newSwitch(t, port, carrier)
		link(t, sw, peerB, "x")
		sw.Forwarder().SetRoutes(starRoutes())
		carrier.last().Receive([]overlay.Frame{
			{Data: ethernet(all, macC), Src: peerC, Dst: peerA},
			{Data: []byte("short"), Src: peerC, Dst: peerA},
			{Data: ethernet(macB, macC), Src: peerC, Dst: peerB},
		})
		require.Len(t, carrier.last().take(), 2, name)
		st := sw.Status()
		require.Equal(t, map[string]uint64{"short": 1}, st.Drops)
		require.Equal(t, port != nil, st.PortErrors == 1)
	}
}

// TestSwitchConcurrency moves frames while connections and routes change; the race detector does the rest.
func TestSwitchConcurrency(t *testing.T) {
	carrier := &stub{name: "x"}
	port := overlaytest.NewPort("mem0")
	sw := newSwitch(t, port, carrier)
	run(t, sw)
	link(t, sw, peerB, "x")
	feed := carrier.links[0].Receive
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range 300 {
				feed([]overlay.Frame{
					{Data: ethernet(all, fmt.Sprintf("56:54:00:00:%02x:%02x", g, i%256)), Src: peerB, Dst: peerA},
					{Data: ethernet(macC, macB), Src: peerB, Dst: peerC},
				})
			}
		})
	}
	wg.Go(func() {
		for range 300 {
			_ = port.Inject(ethernet(all, macA))
			link(t, sw, peerC, "x").Close()
			sw.Forwarder().SetRoutes(starRoutes())
			_ = sw.Status()
		}
	})
	wg.Wait()
	learned := 0
	for _, e := range sw.Status().MACs {
		if e.Peer == peerB {
			learned++
		}
	}
	require.Equal(t, 3*256, learned)
}

// TestAnswersFromWithinSend: a link may answer the sender of a frame while it is being sent.
func TestAnswersFromWithinSend(t *testing.T) {
	carrier, port := &stub{name: "x"}, overlaytest.NewPort("mem0")
	sw := newSwitch(t, port, carrier)
	link(t, sw, peerB, "x")
	sw.Forwarder().SetRoutes(starRoutes())
	l := carrier.last()
	l.onSend = func(frames []overlay.Frame) {
		var answers []overlay.Frame
		for range frames {
			answers = append(answers, overlay.Frame{Data: ethernet(macA, macB), Src: peerB, Dst: peerA})
		}
		l.Receive(answers)
	}
	sw.Forwarder().Captured(time.Now(), group, mac(macA))
	l.Receive([]overlay.Frame{{Data: ethernet(macB, macC), Src: peerC, Dst: peerB}})
	require.Equal(t, ethernet(macA, macB), <-port.Written())
}

package sleeve_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

// line is the routes of peers in a line, in which peer i has the name i.
type line struct{ self, last peer.Name }

func (l line) NextHop(dst peer.Name) (peer.Name, bool) {
	switch {
	case dst < l.self && dst > 0:
		return l.self - 1, true
	case dst > l.self && dst <= l.last:
		return l.self + 1, true
	}
	return 0, false
}

func (l line) Flood(src peer.Name) (hops []peer.Name) {
	if src >= l.self && l.self > 1 {
		hops = append(hops, l.self-1)
	}
	if src <= l.self && l.self < l.last {
		hops = append(hops, l.self+1)
	}
	return hops
}

func (l line) FloodHop(src, dst peer.Name) (peer.Name, bool) {
	if src > l.self && dst >= l.self || src < l.self && dst <= l.self {
		return 0, false
	}
	return l.NextHop(dst)
}

func (l line) Peers() (names []peer.Name) {
	for p := peer.Name(1); p <= l.last; p++ {
		names = append(names, p)
	}
	return names
}

func (l line) ShortID(peer.Name) (peer.ShortID, bool) { return 0, false }
func (l line) Named(peer.ShortID) (peer.Name, bool)   { return 0, false }

// station is a peer with a switch, and a port on which one host sits.
type station struct {
	*overlay.Switch
	port *overlaytest.Port
	addr netip.AddrPort
}

func newStation(t *testing.T, network *sleevetest.Network, self, last peer.Name) *station {
	t.Helper()
	s := &station{port: overlaytest.NewPort("memory"), addr: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:6783", self))}
	conn, err := network.Listen(s.addr)
	require.NoError(t, err)
	s.Switch, err = overlay.NewSwitch(overlay.SwitchConfig{
		Self: self, Overlays: []overlay.Overlay{start(t, self, conn)}, Port: s.port,
	})
	require.NoError(t, err)
	s.Forwarder().SetRoutes(line{self, last})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return s
}

// connect joins two neighbours as the mesh would, with a mesh connection that loses nothing.
func connect(t *testing.T, a, b *station, nameA, nameB peer.Name) {
	t.Helper()
	established := make(chan overlay.Event, 2)
	var bundles [2]*overlay.Bundle
	prepare := func(i int, s *station, p overlay.Params) {
		p.ConnUID, p.Key, p.Features = uint64(nameA), testKey, map[string]string{overlay.FeatureKey: "sleeve"}
		var err error
		bundles[i], err = s.Prepare(p, func(tag byte, payload []byte) error {
			go bundles[1-i].Control(tag, payload)
			return nil
		}, func(e overlay.Event) { established <- e })
		require.NoError(t, err)
		t.Cleanup(bundles[i].Close)
	}
	prepare(0, a, overlay.Params{Self: nameA, Remote: nameB, RemoteAddr: b.addr, Outbound: true})
	prepare(1, b, overlay.Params{Self: nameB, Remote: nameA, RemoteAddr: a.addr})
	bundles[0].Confirm()
	bundles[1].Confirm()
	for range bundles {
		require.Equal(t, overlay.Established, (<-established).Kind)
	}
}

// TestSwitches carries frames between stations behind four peers in a line: floods reach everybody once, what is known goes
// to its station alone, over relays that see to the MTU on their way.
func TestSwitches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const last = 4
		network := sleevetest.New(1)
		var peers [last + 1]*station
		for i := peer.Name(1); i <= last; i++ {
			peers[i] = newStation(t, network, i, last)
		}
		for i := peer.Name(1); i < last; i++ {
			connect(t, peers[i], peers[i+1], i, i+1)
		}
		time.Sleep(time.Minute)
		requireArrives := func(from, to int, f []byte) {
			t.Helper()
			require.NoError(t, peers[from].port.Inject(f))
			synctest.Wait()
			for i := 1; i <= last; i++ {
				select {
				case got := <-peers[i].port.Written():
					require.True(t, to == 0 && i != from || i == to, "a frame at %d", i)
					require.Equal(t, f, got)
				default:
					require.False(t, to == 0 && i != from || i == to, "no frame at %d", i)
				}
			}
		}
		broadcast := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6}, make([]byte, 46)...)
		requireArrives(1, 0, broadcast)
		reply := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 4, 8, 6}, make([]byte, 46)...)
		requireArrives(4, 1, reply)
		known := frame(t, 1414, true).Data
		copy(known, []byte{2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 1})
		requireArrives(1, 4, known)

		// The answer to what is too big comes from the first peer, at the port of who sent it.
		big := frame(t, 1600, true).Data
		copy(big, known[:12])
		require.NoError(t, peers[1].port.Inject(big))
		synctest.Wait()
		answer := <-peers[1].port.Written()
		require.Equal(t, known[6:12], answer[0:6])
		require.Empty(t, peers[4].port.Written())
	})
}

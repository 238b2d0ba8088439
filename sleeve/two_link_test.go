package sleeve_test

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

// simulate2 is simulate for sleeve2, with the links up.
func simulate2(t *testing.T, shape sleevetest.Shape, test func(t *testing.T, p *pair)) {
	t.Helper()
	for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := sleevetest.New(7)
				network.SetShape(shape)
				connA, err := network.Listen(addrA)
				require.NoError(t, err)
				connB, err := network.Listen(addrB)
				require.NoError(t, err)
				p := &pair{network: network, connB: connB}
				p.a, p.b = second(newEnd(t, nameA, addrA, connA)), second(newEnd(t, nameB, addrB, connB))
				p.Conn = overlaytest.Connect(p.a, p.b, 0x1234, key)
				t.Cleanup(p.Close)
				require.NoError(t, p.A.Prepare())
				require.NoError(t, p.B.Prepare())
				p.up(t)
				test(t, p)
			})
		})
	}
}

// mtu2 is the MTU of sleeve2 on a path.
func mtu2(s *overlaytest.Side, pmtu int) int {
	if s.Params.Key != nil {
		return pmtu - 84
	}
	return pmtu - 76
}

// requirePasses sees that a frame of the largest size arrives whole.
func requirePasses(t *testing.T, p *pair, mtu int) {
	t.Helper()
	f := frame(t, mtu+14, true)
	p.A.Link.Send([]overlay.Frame{f})
	got := arrived(p.B)
	require.Len(t, got, 1)
	require.Equal(t, f.Data, got[0].Data)
}

func TestPath2(t *testing.T) {
	for name, shape := range map[string]sleevetest.Shape{
		"usual":              {MTU: 1500},
		"jumbo":              {MTU: 9000},
		"hop that tells not": {MTU: 1500, RealMTU: 1400},
		"jumbo at home only": {MTU: 9000, RealMTU: 1500},
		"small":              {MTU: 700, RealMTU: 576},
		"slow and lossy":     {MTU: 1500, RealMTU: 1472, Delay: 80 * time.Millisecond, Loss: 0.05},
	} {
		t.Run(name, func(t *testing.T) {
			simulate2(t, shape, func(t *testing.T, p *pair) {
				real := shape.MTU
				if shape.RealMTU != 0 {
					real = shape.RealMTU
				}
				got := p.A.Link.Status().MTU
				require.LessOrEqual(t, got, mtu2(p.A, real))
				if shape.Loss == 0 {
					require.InDelta(t, mtu2(p.A, real), got, 10)
					require.Equal(t, overlay.MTUProbed, p.A.Link.Status().MTUFrom)
					requirePasses(t, p, got)
				}
			})
		})
	}
}

// TestPathChanges2 lets the path shrink, with and without the system knowing of it, and grow again.
func TestPathChanges2(t *testing.T) {
	simulate2(t, sleevetest.Shape{MTU: 1500}, func(t *testing.T, p *pair) {
		p.network.SetShape(sleevetest.Shape{MTU: 1500, RealMTU: 1300}) // a black hole
		time.Sleep(time.Minute)
		synctest.Wait()
		got := p.A.Link.Status().MTU
		require.InDelta(t, mtu2(p.A, 1300), got, 10)
		require.LessOrEqual(t, got, mtu2(p.A, 1300))
		requirePasses(t, p, got)

		p.network.SetShape(sleevetest.Shape{MTU: 1500, RealMTU: 560}) // pings pass, and nothing that is of use
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, mtu2(p.A, 576), p.A.Link.Status().MTU)
		require.Equal(t, overlay.MTUAssumed, p.A.Link.Status().MTUFrom)

		p.network.SetShape(sleevetest.Shape{MTU: 1500})
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		require.Equal(t, mtu2(p.A, 1500), p.A.Link.Status().MTU)
		require.Equal(t, overlay.MTUProbed, p.A.Link.Status().MTUFrom)

		p.network.SetShape(sleevetest.Shape{MTU: 1200}) // the system says so
		p.A.Link.Send([]overlay.Frame{frame(t, mtu2(p.A, 1500)+14, true)})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, mtu2(p.A, 1200), p.A.Link.Status().MTU)
		requirePasses(t, p, mtu2(p.A, 1200))
		require.Empty(t, p.A.Events)
	})
}

func TestHold2(t *testing.T) {
	simulate2(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.network.SetShape(sleevetest.Shape{Loss: 1})
		begin := time.Now()
		for _, s := range []*overlaytest.Side{p.A, p.B} {
			e := <-s.Events
			require.Equal(t, overlay.OnHold, e.Kind)
			require.ErrorContains(t, e.Err, "no answer")
			require.Contains(t, s.Link.Status().Reason, "no answer")
		}
		require.LessOrEqual(t, time.Since(begin), 10*time.Second)
		time.Sleep(time.Hour)
		require.Empty(t, p.A.Events, "it waits")
		p.network.SetShape(sleevetest.Shape{})
		require.Equal(t, overlay.Event{Kind: overlay.Healthy}, <-p.A.Events)
		require.Equal(t, overlay.Event{Kind: overlay.Healthy}, <-p.B.Events)
		require.Empty(t, p.A.Link.Status().Reason)
		requirePasses(t, p, 1000)
	})
}

func TestRoaming2(t *testing.T) {
	simulate2(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		moved := netip.MustParseAddrPort("192.0.2.9:4711")
		p.connB.SetOutside(moved)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		require.Equal(t, moved, p.A.Link.Status().Remote)
		requirePasses(t, p, 1000)
		require.Empty(t, p.A.Events)
	})
}

// snooping notes the epochs of the datagrams of sleeve2 that leave a socket, and keeps copies of some.
type snooping struct {
	sleeve.Conn
	mu     sync.Mutex
	epochs map[byte]bool
	kept   [][]byte
}

func (s *snooping) WriteBatch(msgs []sleeve.Message) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		if len(m.Data) > 1 && m.Data[0]&1 != 0 {
			s.epochs[m.Data[1]] = true
			if len(s.kept) < 100 {
				s.kept = append(s.kept, append([]byte(nil), m.Data...))
			}
		}
	}
	return s.Conn.WriteBatch(msgs)
}

// TestRekey2 changes keys several times under load, on a network that reorders: every frame arrives, once.
func TestRekey2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := sleevetest.New(3)
		network.SetShape(sleevetest.Shape{Delay: 5 * time.Millisecond, Jitter: 60 * time.Millisecond})
		connA, err := network.Listen(addrA)
		require.NoError(t, err)
		snoop := &snooping{Conn: connA, epochs: map[byte]bool{}}
		a, b := second(newEnd(t, nameA, addrA, snoop)), second(memoryEnd(t, network, nameB, addrB))
		p := &pair{network: network, a: a, b: b, Conn: overlaytest.Connect(a, b, 9, testKey)}
		t.Cleanup(p.Close)
		require.NoError(t, p.A.Prepare())
		require.NoError(t, p.B.Prepare())
		p.up(t)
		next, seen := uint32(0), map[uint32]bool{}
		for range 32 * 60 {
			for range 10 {
				f := frame(t, 100, true)
				binary.BigEndian.PutUint32(f.Data[34:], next)
				next++
				p.A.Link.Send([]overlay.Frame{f})
				time.Sleep(100 * time.Millisecond)
			}
			for _, f := range arrived(p.B) {
				n := binary.BigEndian.Uint32(f.Data[34:])
				require.False(t, seen[n])
				seen[n] = true
			}
		}
		time.Sleep(time.Second)
		require.Len(t, seen, int(next)-len(arrived(p.B)))
		require.Equal(t, map[byte]bool{0: true, 1: true, 2: true, 3: true}, snoop.epochs)
		require.Empty(t, p.A.Events)

		// What was kept from the first epoch opens no more, nor does anything that is changed.
		stranger, err := network.Listen(netip.MustParseAddrPort("10.0.0.66:1"))
		require.NoError(t, err)
		before := p.B.Link.Status()
		for i, d := range snoop.kept {
			if i%2 == 0 {
				d[len(d)-1-i%20] ^= 4
			}
			_, err := stranger.WriteBatch([]sleeve.Message{{Data: d, Remote: addrB}})
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		require.Empty(t, arrived(p.B))
		after := p.B.Link.Status()
		require.Equal(t, addrA, after.Remote)
		require.EqualValues(t, len(snoop.kept), after.Drops["not_authentic"]-before.Drops["not_authentic"])
	})
}

// TestFallback2 offers both overlays: frames go over sleeve2, over sleeve while that does not work, and over it again.
func TestFallback2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := sleevetest.New(1)
		sockets := [2]*deaf{}
		var bundles [2]*overlay.Bundle
		established := make(chan overlay.Event, 8)
		names, addrs := [2]string{"a", "b"}, [2]netip.AddrPort{addrA, addrB}
		for i, self := range []overlay.Params{{Self: nameA, Remote: nameB, Outbound: true}, {Self: nameB, Remote: nameA}} {
			conn, err := network.Listen(addrs[i])
			require.NoError(t, err)
			sockets[i] = &deaf{Conn: conn}
			o := start(t, self.Self, sockets[i])
			sw, err := overlay.NewSwitch(overlay.SwitchConfig{
				Self: self.Self, Overlays: []overlay.Overlay{o.Sleeve2(), o}, Port: overlaytest.NewPort(names[i]),
			})
			require.NoError(t, err)
			p := self
			p.RemoteAddr, p.ConnUID, p.Key = addrs[1-i], 5, testKey
			p.Features = map[string]string{overlay.FeatureKey: sw.Offer()}
			bundles[i], err = sw.Prepare(p, func(tag byte, payload []byte) error {
				go bundles[1-i].Control(tag, payload)
				return nil
			}, func(e overlay.Event) { established <- e })
			require.NoError(t, err)
			t.Cleanup(bundles[i].Close)
		}
		bundles[0].Confirm()
		bundles[1].Confirm()
		uses := func(name string) {
			t.Helper()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			require.Equal(t, name, bundles[0].Status().Overlay)
			require.Equal(t, name, bundles[1].Status().Overlay)
		}
		uses(sleeve.Name2)
		sockets[1].set(true)
		uses(sleeve.Name)
		sockets[1].set(false)
		uses(sleeve.Name2)
		for range 2 {
			require.Equal(t, overlay.Established, (<-established).Kind)
		}
		require.Empty(t, established, "the connection never noticed")
	})
}

// deaf is a socket that can be made to lose what sleeve2 sends.
type deaf struct {
	sleeve.Conn
	mu   sync.Mutex
	lose bool
}

func (d *deaf) set(lose bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lose = lose
}

func (d *deaf) WriteBatch(msgs []sleeve.Message) (int, error) {
	d.mu.Lock()
	lose := d.lose
	d.mu.Unlock()
	if lose && msgs[0].Data[0]&1 != 0 {
		return len(msgs), nil // a call has datagrams of one overlay
	}
	return d.Conn.WriteBatch(msgs)
}

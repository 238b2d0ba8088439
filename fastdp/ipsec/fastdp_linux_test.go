package ipsec_test

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

// site is a machine with fastdp and a station:
//
//	station --- datapath --- vxlan-6784 ---[under]---
type site struct {
	*machine
	ns  netns.NsHandle
	fwd *overlay.Forwarder
	dp  *fastdp.Datapath
	sw  *overlay.Switch
}

func twoSites(t *testing.T, atA, atB netip.Addr) (a, b *site) {
	ma, mb := joinedMachines(t, long, atA, atB)
	sites := [2]*site{{machine: ma}, {machine: mb}}
	for _, s := range sites {
		var err error
		s.ns, err = netns.GetFromPath(s.at.Path())
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.ns.Close() })
		s.startAll()
		s.addStation()
	}
	return sites[0], sites[1]
}

// startAll starts protection and datapath; stop ends them as a kill does.
func (s *site) startAll() {
	s.start()
	s.fwd = overlay.NewForwarder(s.name)
	var err error
	cfg := fastdp.Config{Self: s.name, Forwarder: s.fwd, Protector: s.p}
	cfg.ODP.NetNS = int(s.ns)
	s.dp, err = fastdp.New(cfg)
	require.NoError(s.t, err)
	overlays := []overlay.Overlay{s.dp.Overlay2(), s.dp.Overlay()}
	s.sw, err = overlay.NewSwitch(overlay.SwitchConfig{Self: s.name, Overlays: overlays, Forwarder: s.fwd})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(s.t, s.dp.Run(ctx)) })
	wg.Go(func() { require.NoError(s.t, s.sw.Run(ctx)) })
	protection := s.stop
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		protection()
	})
	s.t.Cleanup(s.stop)
	require.Eventually(s.t, func() bool { return s.dp.Status().Running }, patience, time.Millisecond, "%s", s.dp.Status().Problem)
}

const stationDevice = "station"

func (s *site) addStation() {
	c, err := s.at.Container("station-" + s.name.String())
	require.NoError(s.t, err)
	there, err := netns.GetFromPath(c.Path())
	require.NoError(s.t, err)
	defer there.Close()
	require.NoError(s.t, s.at.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = stationDevice, fastdp.DefaultMTU
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(there)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	}))
	require.NoError(s.t, c.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth, addr24(s.inner)); err != nil {
			return err
		}
		return netlink.LinkSetUp(eth)
	}))
	s.station = c
	require.NoError(s.t, s.dp.AddPort(s.t.Context(), stationDevice))
}

// control is a connection of the mesh between two sites.
type control struct {
	ends  [2]*overlay.Bundle
	done  chan struct{}
	pumps sync.WaitGroup
	close func()
}

func dial(t *testing.T, a, b *site, uid uint64, offer [2]string) *control {
	c := &control{done: make(chan struct{})}
	type message struct {
		tag     byte
		payload []byte
	}
	sites := [2]*site{a, b}
	inbox := [2]chan message{make(chan message, 256), make(chan message, 256)}
	for i, self := range sites {
		other := sites[1-i]
		p := overlay.Params{
			Self: self.name, Remote: other.name, Local: netip.AddrPortFrom(self.addr, 6783), RemoteAddr: netip.AddrPortFrom(other.addr, 6783),
			Outbound: i == 0, ConnUID: uid, Key: &[32]byte{byte(uid)}, Features: map[string]string{overlay.FeatureKey: offer[1-i]},
		}
		send := func(tag byte, payload []byte) error {
			select {
			case inbox[1-i] <- message{tag, bytes.Clone(payload)}:
			case <-c.done:
			}
			return nil
		}
		var err error
		c.ends[i], err = self.sw.Prepare(p, send, func(overlay.Event) {})
		require.NoError(t, err)
	}
	for i, self := range sites {
		other := sites[1-i].name
		self.fwd.SetRoutes(overlaytest.Routes{
			Hops: map[peer.Name]peer.Name{other: other}, Floods: map[peer.Name][]peer.Name{self.name: {other}},
			Trees: map[peer.Name]map[peer.Name]peer.Name{self.name: {other: other}}, IDs: map[peer.Name]peer.ShortID{nameA: 0xa, nameB: 0xb},
		})
		c.pumps.Go(func() {
			for {
				select {
				case m := <-inbox[i]:
					c.ends[i].Control(m.tag, m.payload)
				case <-c.done:
					return
				}
			}
		})
	}
	c.ends[0].Confirm()
	c.ends[1].Confirm()
	c.close = sync.OnceFunc(func() {
		close(c.done)
		c.pumps.Wait()
		c.ends[0].Close()
		c.ends[1].Close()
	})
	t.Cleanup(c.close)
	return c
}

func (c *control) awaitUse(t *testing.T, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		a, b := c.ends[0].Status(), c.ends[1].Status()
		return a.Overlay == name && a.Established && b.Overlay == name && b.Established
	}, patience, time.Millisecond, "%+v\n%+v", c.ends[0].Statuses(), c.ends[1].Statuses())
}

// offloadsWork waits until a self-test has shown that unfinished packets come through ESP as they should.
func (s *site) offloadsWork(t *testing.T) {
	t.Helper()
	counts := func() map[string]uint64 { return s.dp.Status().Counts }
	require.Eventually(t, func() bool { return counts()["offload_tests"] > 0 }, patience, time.Millisecond, "%+v", s.dp.Status())
	require.Zero(t, counts()["offload_tests_failed"])
}

// fastdp with its flows over the protection: start, traffic, a kill, the next start, a connection that replaces another, and
// the end, all in front of a capture.
func TestKernelFastDP(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP, lab.OpenVSwitch) {
		return
	}
	six := [2]netip.Addr{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")}
	for name, c := range map[string]struct {
		at    [2]netip.Addr
		offer [2]string
		use   string
	}{
		"old wire":        {[2]netip.Addr{addrA, addrB}, [2]string{"fastdp", "fastdp"}, fastdp.Name},
		"new peers":       {[2]netip.Addr{addrA, addrB}, [2]string{"fastdp2 fastdp", "fastdp2 fastdp"}, fastdp.Name2},
		"new peers, IPv6": {six, [2]string{"fastdp2 fastdp", "fastdp2 fastdp"}, fastdp.Name2},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoSites(t, c.at[0], c.at[1])
			seen := startCapture(t, a.machine)
			x := startTraffic(t, a.machine, b.machine)
			x.sends()
			first := dial(t, a, b, 1, c.offer)
			first.awaitUse(t, c.use)
			x.flows()
			if c.use == fastdp.Name2 {
				a.offloadsWork(t)
				b.offloadsWork(t)
			}

			a.stop() // A is killed
			first.close()
			x.flows()
			a.startAll()
			require.NoError(t, a.dp.AddPort(t.Context(), stationDevice))
			x.flows()
			require.NotZero(t, a.p.Status().Adopted)
			second := dial(t, a, b, 2, c.offer)
			second.awaitUse(t, c.use)
			x.flows()
			third := dial(t, b, a, 3, c.offer)
			third.awaitUse(t, c.use)
			second.close()
			x.flows()

			third.close()
			x.sends()
			a.stop() // both are killed
			b.stop()
			a.endHold()
			b.endHold()
			x.silent(seen)
			for _, s := range x {
				s.requireSilence()
			}
			seen.requireNoneClear()
			require.NotZero(t, seen.esp.Load())
		})
	}
}

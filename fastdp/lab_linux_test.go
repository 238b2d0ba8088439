package fastdp_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
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
	"github.com/overweave/overweave/odp"
)

// site is a host of the lab with a datapath.
type site struct {
	*lab.Host
	i    int
	ns   *os.File
	node *node
	wire *lab.Link
}

// sites are hosts on one switch, or on a chain of links.
type sites struct {
	t   *testing.T
	lab *lab.Lab
	w   *world
	all []*site
}

func (s *sites) spec(at *site, port overlay.Port, others []overlay.Overlay, second bool) nodeSpec {
	return nodeSpec{
		name: peer.Name(0x0a0000000000 + uint64(at.i)), id: peer.ShortID(0x100 + at.i),
		addr: netip.AddrPortFrom(outerAddr(at.i), 6783), port: port, others: others, second: second,
		config: func(c *fastdp.Config) {
			c.ODP = odp.Config{NetNS: int(at.ns.Fd())}
			if port != nil {
				c.UserPort = port.Name()
			}
			if testing.Verbose() {
				c.Log = slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})).With("host", at.i)
			}
		},
	}
}

func outerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 7, byte(i)}) }

// newChain makes hosts each of which is linked to the next, and to no other.
//
//	h1 192.168.1.1 --- 192.168.1.2 h2 192.168.2.1 --- 192.168.2.2 h3
func newChain(t *testing.T, n int) *sites {
	s := &sites{t: t, lab: labtest.New(t), w: newWorld()}
	for i := 1; i <= n; i++ {
		s.newSite(i)
	}
	for i := 1; i < n; i++ {
		side := func(j int) netip.Prefix { return netip.PrefixFrom(chainAddr(i, j), 24) }
		wire, err := s.lab.Link(s.all[i-1].Host, s.all[i].Host, lab.LinkConfig{A: side(1), B: side(2)})
		require.NoError(t, err)
		s.all[i-1].wire = wire
	}
	return s
}

func chainAddr(link, side int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(link), byte(side)})
}

// newSites makes hosts that are joined to one switch, each with a running datapath.
func newSites(t *testing.T, n int) *sites {
	s := &sites{t: t, lab: labtest.New(t), w: newWorld()}
	lan, err := s.lab.Switch("lan")
	require.NoError(t, err)
	for i := 1; i <= n; i++ {
		at := s.newSite(i)
		at.wire, err = lan.Join(at.Host, netip.PrefixFrom(outerAddr(i), 24))
		require.NoError(t, err)
	}
	return s
}

func (s *sites) newSite(i int) *site {
	h, err := s.lab.Host(fmt.Sprintf("h%d", i))
	require.NoError(s.t, err)
	ns, err := os.Open(h.Path())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = ns.Close() })
	at := &site{Host: h, i: i, ns: ns}
	s.all = append(s.all, at)
	return at
}

// start starts the datapath of a host.
func (s *sites) start(at *site) {
	at.node = s.w.join(s.t, s.spec(at, nil, nil, false))
	s.running(at)
}

// startBoth starts the datapath of a host, with fastdp2, and beside it an overlay in memory that stands for sleeve.
func (s *sites) startBoth(at *site, memory *overlaytest.Network) {
	name := peer.Name(0x0a0000000000 + uint64(at.i))
	at.node = s.w.join(s.t, s.spec(at, openTap(s.t, at), []overlay.Overlay{memory.Overlay(name, "sleeve")}, true))
	s.running(at)
}

func (s *sites) running(at *site) {
	require.Eventually(s.t, func() bool { return at.node.dp.Status().Running }, patience, time.Millisecond)
}

// station adds a container to a host, attached to the datapath.
func (s *sites) station(at *site, j int) *lab.Namespace {
	t := s.t
	c, err := at.Container(fmt.Sprintf("c%d-%d", at.i, j))
	require.NoError(t, err)
	there, err := netns.GetFromPath(c.Path())
	require.NoError(t, err)
	defer there.Close()
	device := fmt.Sprintf("veth%d", j)
	require.NoError(t, at.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: device, MTU: fastdp.DefaultMTU},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(there),
			PeerHardwareAddr: []byte{2, 0, 0, 0, byte(at.i), byte(j)},
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	}))
	require.NoError(t, c.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(l, fastdp.DefaultMTU); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(stationAddr(at, j).String() + "/16")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	require.NoError(t, at.node.dp.AddPort(t.Context(), device))
	serveEcho(t, c)
	return c
}

func stationAddr(at *site, j int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 32, byte(at.i), byte(j)})
}

const echoPort = 7

// serveEcho answers datagrams at a station.
func serveEcho(t *testing.T, c *lab.Namespace) {
	conn, err := c.ListenPacket("udp", fmt.Sprintf(":%d", echoPort))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
}

// echo has n datagrams of some size go to a station and back, each up to some tries, and returns how many tries it took.
func echo(t *testing.T, from *lab.Namespace, to netip.Addr, n, size, tries int) (took int) {
	t.Helper()
	conn, err := from.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, echoPort).String())
	require.NoError(t, err)
	defer conn.Close()
	b := make([]byte, size)
	for i := range n {
		answered := false
		for try := 0; try < tries && !answered; try++ {
			took++
			b[0] = byte(i)
			if _, err = conn.Write(b); err != nil {
				continue
			}
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
			got := make([]byte, size+1)
			for !answered {
				m, err := conn.Read(got)
				if err != nil {
					break
				}
				answered = m == size && got[0] == byte(i)
			}
		}
		require.True(t, answered, "datagram %d of %d to %s, of %d bytes", i, n, to, size)
	}
	return took
}

func TestIntegrationTwoHosts(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	a, b := s.all[0], s.all[1]
	s.start(a)
	s.start(b)
	c := s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name)
	atA, atB := s.station(a, 1), s.station(b, 1)
	require.Equal(t, 3, echo(t, atA, stationAddr(b, 1), 3, 100, 5), "the first frame already comes through")
	require.Equal(t, 3, echo(t, atB, stationAddr(a, 1), 3, fastdp.DefaultMTU-28, 5))
	misses := a.node.dp.Status().Counts["misses"]
	require.Equal(t, 100, echo(t, atA, stationAddr(b, 1), 100, 100, 1))
	require.LessOrEqual(t, a.node.dp.Status().Counts["misses"], misses+2, "traffic goes by flows: %+v", a.node.dp.Status())
	t.Logf("%+v", a.node.dp.Status())
}

// TestIntegrationRelay has the middle one of three hosts relay in its kernel.
func TestIntegrationRelay(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newChain(t, 3)
	for _, at := range s.all {
		s.start(at)
	}
	a, b, c := s.all[0], s.all[1], s.all[2]
	s.w.connectAt(t, a.node, b.node, chainAddr(1, 1), chainAddr(1, 2)).awaitUse(t, fastdp.Name)
	s.w.connectAt(t, b.node, c.node, chainAddr(2, 1), chainAddr(2, 2)).awaitUse(t, fastdp.Name)
	atA, atB, atC := s.station(a, 1), s.station(b, 1), s.station(c, 1)
	require.Equal(t, 3, echo(t, atA, stationAddr(c, 1), 3, 100, 5), "ARP is flooded through the relay")
	require.Equal(t, 3, echo(t, atC, stationAddr(b, 1), 3, 100, 5))
	require.Equal(t, 3, echo(t, atB, stationAddr(a, 1), 3, 100, 5))
	before := b.node.dp.Status().Counts["misses"]
	require.Equal(t, 200, echo(t, atA, stationAddr(c, 1), 200, fastdp.DefaultMTU-28, 1))
	st := b.node.dp.Status()
	require.LessOrEqual(t, st.Counts["misses"], before+2, "the relay's kernel relays: %+v", st)
	require.Equal(t, 2, st.Flows["relay"], "one flow for each direction: %+v", st)
}

// TestIntegrationAdopt ends a peer as a kill does, without taking anything back, and starts it again: the stream between
// stations goes on, in both directions of who was killed.
func TestIntegrationAdopt(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	a, b := s.all[0], s.all[1]
	s.start(a)
	s.start(b)
	c := s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name)
	atA, atB := s.station(a, 1), s.station(b, 1)
	st := newStream(t, atA, atB, stationAddr(b, 1))
	for range 3 {
		s.w.leave(a.node)
		c.close()
		a.node.stop()
		st.goOn() // nobody is there
		s.start(a)
		require.NoError(t, a.node.dp.AddPort(t.Context(), "veth1"))
		st.goOn()
		c = s.w.connect(t, a.node, b.node, nil)
		c.awaitUse(t, fastdp.Name)
		st.goOn()
		require.NotZero(t, a.node.dp.Status().Counts["flows_adopted"])
	}
	require.Less(t, st.longest(), 200*time.Millisecond, "%+v\n%+v", a.node.dp.Status(), b.node.dp.Status())
	require.Equal(t, 10, echo(t, atB, stationAddr(a, 1), 10, 100, 3))
	t.Log("longest stall", st.longest(), a.node.dp.Status().Counts)
}

// TestIntegrationFallback cuts the way of the tunnel, and heals it: a stream goes over to the other overlay and back.
func TestIntegrationFallback(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	memory := overlaytest.NewNetwork()
	a, b := s.all[0], s.all[1]
	s.startBoth(a, memory)
	s.startBoth(b, memory)
	c := s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name2)
	atA, atB := s.station(a, 1), s.station(b, 1)
	st := newStream(t, atA, atB, stationAddr(b, 1))
	require.NoError(t, a.wire.Cut())
	cut := time.Now()
	c.awaitUse(t, "sleeve")
	t.Log("noticed after", time.Since(cut))
	require.Less(t, time.Since(cut), 3500*time.Millisecond)
	require.Contains(t, c.ends[0].Statuses()[0].Reason, "no answer")
	st.goOn()
	require.Equal(t, 10, echo(t, atB, stationAddr(a, 1), 10, 1000, 3))
	require.NoError(t, a.wire.Heal())
	c.awaitUse(t, fastdp.Name2)
	st.reset()
	st.goOn()
	require.Less(t, st.longest(), time.Second)
	require.Equal(t, 10, echo(t, atB, stationAddr(a, 1), 10, 1000, 1))
}

// TestIntegrationPathMTU makes the path too narrow for full frames: the link measures what passes, and gives way.
func TestIntegrationPathMTU(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	memory := overlaytest.NewNetwork()
	a, b := s.all[0], s.all[1]
	s.startBoth(a, memory)
	s.startBoth(b, memory)
	c := s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name2)
	require.NoError(t, a.wire.SetMTU(1300))
	c.awaitUse(t, "sleeve")
	require.Eventually(t, func() bool {
		return strings.Contains(c.ends[0].Statuses()[0].Reason, "up to 1250 bytes")
	}, 2*patience, 10*time.Millisecond, "%+v", c.ends[0].Statuses())
	require.NoError(t, a.wire.SetMTU(1500))
	c.awaitUse(t, fastdp.Name2)
}

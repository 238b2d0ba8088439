package fastdp_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
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
	addr netip.Addr // outer
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
		addr: netip.AddrPortFrom(at.addr, 6783), port: port, others: others, second: second,
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

// newSites makes hosts that are joined to one switch.
func newSites(t *testing.T, n int) *sites { return newSitesAt(t, n, outerAddr) }

func newSitesAt(t *testing.T, n int, addr func(i int) netip.Addr) *sites {
	s := &sites{t: t, lab: labtest.New(t), w: newWorld()}
	lan, err := s.lab.Switch("lan")
	require.NoError(t, err)
	for i := 1; i <= n; i++ {
		at := s.newSite(i)
		at.addr = addr(i)
		at.wire, err = lan.Join(at.Host, netip.PrefixFrom(at.addr, at.addr.BitLen()-8))
		require.NoError(t, err)
	}
	return s
}

// connectedSites makes two hosts, starts them, and connects them by the overlay of the old peers.
func connectedSites(t *testing.T) (s *sites, a, b *site, c *connection) {
	s = newSites(t, 2)
	a, b = s.all[0], s.all[1]
	s.start(a)
	s.start(b)
	c = s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name)
	return s, a, b, c
}

func (s *sites) newSite(i int) *site {
	h, err := s.lab.Host(fmt.Sprintf("h%d", i))
	require.NoError(s.t, err)
	ns, err := os.Open(h.Path())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = ns.Close() })
	at := &site{Host: h, i: i, ns: ns, addr: outerAddr(i)}
	s.all = append(s.all, at)
	return at
}

// start starts the datapath of a host.
func (s *sites) start(at *site) {
	at.node = s.w.join(s.t, s.spec(at, nil, nil, false))
	s.running(at)
}

// connectBeside starts datapaths on two hosts, with an overlay in memory, "sleeve", beside theirs, and connects them. It
// returns when they use the best overlay: [fastdp.Name2], or [fastdp.Name] if they offer no other.
func (s *sites) connectBeside(best string) (a, b *site, c *connection) {
	a, b = s.all[0], s.all[1]
	memory := overlaytest.NewNetwork()
	for _, at := range []*site{a, b} {
		name := peer.Name(0x0a0000000000 + uint64(at.i))
		at.node = s.w.join(s.t, s.spec(at, openTap(s.t, at), []overlay.Overlay{memory.Overlay(name, "sleeve")}, best == fastdp.Name2))
		s.running(at)
	}
	c = s.w.connect(s.t, a.node, b.node, nil)
	c.awaitUse(s.t, best)
	return a, b, c
}

func (s *sites) running(at *site) {
	require.Eventually(s.t, func() bool { return at.node.dp.Status().Running }, patience, time.Millisecond)
}

// station adds a container to a host, attached to the datapath.
func (s *sites) station(at *site, j int) *lab.Namespace {
	c := s.container(at, j)
	device := fmt.Sprintf("veth%d", j)
	require.NoError(s.t, at.node.dp.AddPort(s.t.Context(), device))
	awaitDevice(s.t, at.Namespace, device)
	awaitDevice(s.t, c, "eth0")
	return c
}

// container adds a container to a host, with a pair of devices of which one is the host's, and an echo service.
func (s *sites) container(at *site, j int) *lab.Namespace {
	t := s.t
	c, err := at.Container(fmt.Sprintf("c%d-%d", at.i, j))
	require.NoError(t, err)
	there, err := netns.GetFromPath(c.Path())
	require.NoError(t, err)
	defer there.Close()
	require.NoError(t, at.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("veth%d", j), MTU: fastdp.DefaultMTU},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(there), PeerHardwareAddr: stationMAC(at, j),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	}))
	setUp(t, c, "eth0", netip.PrefixFrom(stationAddr(at, j), 16))
	serveEcho(t, c)
	return c
}

// setUp sets a device up, with the MTU of the overlay and an address.
func setUp(t *testing.T, c *lab.Namespace, device string, at netip.Prefix) {
	t.Helper()
	require.NoError(t, c.Do(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(l, fastdp.DefaultMTU); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(at.String())
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
}

// awaitDevice waits until a device is in operation: until then the kernel drops what it is to send.
func awaitDevice(t *testing.T, at *lab.Namespace, device string) {
	t.Helper()
	require.Eventually(t, func() bool {
		up := false
		err := at.Do(func() error {
			l, err := netlink.LinkByName(device)
			up = err == nil && l.Attrs().OperState == netlink.OperUp
			return err
		})
		return err == nil && up
	}, patience, time.Millisecond)
}

func stationMAC(at *site, j int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, byte(at.i), byte(j)}
}

// acquaint tells two stations each other's addresses for good.
func (s *sites) acquaint(c *lab.Namespace, at *site, j int, c2 *lab.Namespace, at2 *site, j2 int) {
	tell := func(c *lab.Namespace, of *site, j int) {
		require.NoError(s.t, c.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, IP: stationAddr(of, j).AsSlice(), HardwareAddr: stationMAC(of, j), State: netlink.NUD_PERMANENT,
			})
		}))
	}
	tell(c, at2, j2)
	tell(c2, at, j)
}

// askAll sends one datagram to all stations, and waits for the answers of some.
func askAll(t *testing.T, from *lab.Namespace, answers int) {
	t.Helper()
	conn, err := from.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.WriteTo([]byte("all"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("10.32.255.255"), echoPort)))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for range answers {
		_, _, err = conn.ReadFrom(make([]byte, 16))
		require.NoError(t, err)
	}
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

// echo has n datagrams of some size go to a station and back, one after the other. Each is sent once: none is to be lost.
func echo(t *testing.T, from *lab.Namespace, to netip.Addr, n, size int) {
	t.Helper()
	conn, err := from.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, echoPort).String())
	require.NoError(t, err)
	defer conn.Close()
	b, got := make([]byte, size), make([]byte, size+1)
	for i := range n {
		b[0] = byte(i)
		_, err = conn.Write(b)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		m, err := conn.Read(got)
		require.NoError(t, err, "datagram %d of %d to %s, of %d bytes", i, n, to, size)
		require.Equal(t, b, got[:m])
	}
}

package overlay_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// TestKernelStations has a switch ask real stations, behind a bridge of the kernel that snoops too:
//
//	container "one" --+
//	                  br0 --- outer ===veth=== inner --- switch
//	container "two" --+
func TestKernelStations(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 seconds")
	}
	l := labtest.New(t)
	host, err := l.Host("host")
	require.NoError(t, err)
	one, two, port := stations(t, host)
	heard := &announcements{}
	sw, err := overlay.NewSwitch(overlay.SwitchConfig{
		Self: peerA, Overlays: []overlay.Overlay{&stub{name: "x"}}, Port: port, Announce: heard.add,
	})
	require.NoError(t, err)
	first := member(t, one, "239.1.2.3", "eth0") // before anybody has asked
	run(t, sw)
	has := func(what string, want bool, groups ...overlay.MAC) {
		t.Helper()
		require.Eventually(t, func() bool {
			a := heard.last()
			return !slices.ContainsFunc(groups, func(g overlay.MAC) bool { return slices.Contains(a.Groups, g) != want })
		}, 20*time.Second, 20*time.Millisecond, what)
	}
	a, b, c := mac("01:00:5e:01:02:03"), mac("01:00:5e:01:02:04"), mac("33:33:00:01:02:05")
	has("asked for", true, a)
	require.True(t, heard.first().All, "before there was time to answer")

	second := member(t, one, "239.1.2.4", "eth0")
	again := member(t, two, "239.1.2.4", "eth0")
	third := member(t, two, "ff08::1:205", "eth0")
	has("said unasked", true, b, c)
	require.Eventually(t, func() bool { return !heard.last().All }, 20*time.Second, 20*time.Millisecond, "no router is here")
	send(t, one, "239.1.2.4", "eth0")
	require.Eventually(t, func() bool { return port.saw(b) }, 10*time.Second, 20*time.Millisecond,
		"the bridge takes the switch for a router, and gives it what stations send to groups")

	require.NoError(t, errors.Join(first.Close(), second.Close(), third.Close()))
	has("left", false, a, c)
	has("somebody is left", true, b)
	require.NoError(t, again.Close())
	has("nobody is left", false, b)
}

// stations makes a bridge with two containers, and a port to it.
func stations(t *testing.T, host *lab.Host) (one, two *lab.Namespace, port *packetPort) {
	t.Helper()
	require.NoError(t, host.Do(func() error {
		err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
		return errors.Join(err, setUp("br0"), attach("inner", "outer"), setUp("outer"))
	}))
	var out []*lab.Namespace
	for i, name := range []string{"one", "two"} {
		c, err := host.Container(name)
		require.NoError(t, err)
		outside := "to-" + name
		require.NoError(t, host.Do(func() error {
			return errors.Join(attach("in-"+name, outside), move("in-"+name, c))
		}))
		require.NoError(t, c.Do(func() error {
			link, err := netlink.LinkByName("in-" + name)
			if err != nil {
				return err
			}
			addr, _ := netlink.ParseAddr("10.32.0." + string(rune('1'+i)) + "/24")
			return errors.Join(netlink.LinkSetName(link, "eth0"), netlink.AddrAdd(link, addr), setUp("eth0"))
		}))
		out = append(out, c)
	}
	require.NoError(t, host.Do(func() (err error) {
		port, err = openPacketPort("outer")
		return err
	}))
	return out[0], out[1], port
}

// attach makes a veth pair whose first end is a port of br0, unless it is to be moved, as "in-..." are: then the second is.
func attach(inside, outside string) error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: inside}, PeerName: outside}); err != nil {
		return err
	}
	bridged := outside
	if inside == "inner" {
		bridged = inside
	}
	br, err := netlink.LinkByName("br0")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(bridged)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(link, br), setUp(bridged))
}

func move(device string, to *lab.Namespace) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	ns, err := os.Open(to.Path())
	if err != nil {
		return err
	}
	defer ns.Close()
	return netlink.LinkSetNsFd(link, int(ns.Fd()))
}

func setUp(device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// member is a socket that is a member of a group until it is closed.
func member(t *testing.T, at *lab.Namespace, group, device string) (conn *net.UDPConn) {
	t.Helper()
	require.NoError(t, at.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp", dev, &net.UDPAddr{IP: net.ParseIP(group), Port: 4000})
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, from *lab.Namespace, group, device string) {
	t.Helper()
	require.NoError(t, from.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR("224.0.0.0/4")
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		conn, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(group), 4000).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return err
	}))
}

// announcements keeps what a peer has announced of itself.
type announcements struct {
	mu   sync.Mutex
	list []overlay.Announcement
}

func (a *announcements) add(m overlay.Memberships) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, m[peerA])
}

func (a *announcements) first() overlay.Announcement {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list[0]
}

func (a *announcements) last() (last overlay.Announcement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) > 0 {
		last = a.list[len(a.list)-1]
	}
	return last
}

// packetPort is a port on a packet socket.
type packetPort struct {
	name string
	file *os.File

	mu   sync.Mutex
	seen map[overlay.MAC]bool // destinations of frames that were no reports
}

func openPacketPort(device string) (*packetPort, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return nil, err
	}
	p := &packetPort{name: device, file: os.NewFile(uintptr(fd), device), seen: map[overlay.MAC]bool{}}
	return p, errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(dev.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
}

func (p *packetPort) Name() string { return p.name }
func (p *packetPort) MTU() int     { return 1500 }

func (p *packetPort) Close() error {
	_ = p.file.Close()
	return nil
}

func (p *packetPort) Read(bufs [][]byte, sizes []int) (int, error) {
	n, err := p.file.Read(bufs[0])
	if err != nil {
		return 0, errors.Join(err, net.ErrClosed)
	}
	sizes[0] = n
	p.mu.Lock()
	defer p.mu.Unlock()
	if frame := bufs[0][:n]; !overlay.IsMembership(frame) {
		p.seen[overlay.MAC(frame[:6])] = true
	}
	return 1, nil
}

func (p *packetPort) Write(frames [][]byte) error {
	for _, f := range frames {
		if _, err := p.file.Write(f); err != nil {
			return err
		}
	}
	return nil
}

func (p *packetPort) saw(dst overlay.MAC) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[dst]
}

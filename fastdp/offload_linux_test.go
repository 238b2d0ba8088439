package fastdp_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/odp"
)

// startTwo starts the datapath of a host with fastdp2.
func (s *sites) startTwo(at *site) {
	at.node = s.w.join(s.t, s.spec(at, nil, nil, true))
	s.running(at)
}

// tunnelOffloads returns what the status says of the offloads of a host's tunnel, and of its link.
func tunnelOffloads(at *site, c *connection) (tunnel, link string) {
	for _, p := range at.node.dp.Status().Ports {
		if p.Role == "tunnel" {
			tunnel = p.Offloads
		}
	}
	for i, n := range []*node{c.a, c.b} {
		if n == at.node {
			link = c.ends[i].Status().Offloads["checksums and segmentation"]
		}
	}
	return tunnel, link
}

// awaitOffloads waits until the self-tests of a host have shown something.
func awaitOffloads(t *testing.T, at *site, c *connection, prefix string) {
	t.Helper()
	require.Eventually(t, func() bool {
		tunnel, link := tunnelOffloads(at, c)
		return strings.HasPrefix(tunnel, prefix) && link == tunnel
	}, patience, 10*time.Millisecond, "not %s: %+v\n%+v", prefix, at.node.dp.Status(), c.ends[0].Statuses())
}

// onlyOwnFlows checks that the kernel has no flows but those of the status.
func onlyOwnFlows(t *testing.T, at *site) {
	t.Helper()
	conn, err := odp.Open(t.Context(), odp.Config{NetNS: int(at.ns.Fd())})
	require.NoError(t, err)
	defer conn.Close()
	dp, err := conn.Datapath(t.Context(), "datapath")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		told, n := 0, 0
		for _, m := range at.node.dp.Status().Flows {
			told += m
		}
		for _, err := range conn.Flows(t.Context(), dp.Index, odp.DumpOptions{}) {
			require.NoError(t, err)
			n++
		}
		return n == told
	}, patience, 50*time.Millisecond)
}

// TestIntegrationOffloads: where offloads work they stay in use.
func TestIntegrationOffloads(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	t.Run("IPv4", func(t *testing.T) { goodOffloads(t, outerAddr) })
	t.Run("IPv6", func(t *testing.T) {
		goodOffloads(t, func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:7::%d", i)) })
	})
}

func goodOffloads(t *testing.T, addr func(i int) netip.Addr) {
	s := newSitesAt(t, 2, addr)
	a, b := s.all[0], s.all[1]
	s.startTwo(a)
	s.startTwo(b)
	c := s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name2)
	for _, at := range s.all {
		awaitOffloads(t, at, c, "in use")
		require.Eventually(t, func() bool { return at.node.dp.Status().Counts["offload_tests"] == 1 }, patience, time.Millisecond)
		require.Zero(t, at.node.dp.Status().Counts["offload_tests_failed"])
		onlyOwnFlows(t, at)
	}
}

// TestIntegrationBadOffloads has the way between two hosts lead through an interface that takes unfinished packets and does not
// finish them. Without a self-test stations cannot speak by TCP; with it they can.
func TestIntegrationBadOffloads(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	for name, spoils := range map[string]bool{"swallows super-frames": false, "spoils segments": true} {
		t.Run(name, func(t *testing.T) { badOffloads(t, spoils) })
	}
}

func badOffloads(t *testing.T, spoils bool) {
	s := &sites{t: t, lab: labtest.New(t), w: newWorld()}
	a, b := s.newSite(1), s.newSite(2)
	s.throughBadInterface(a, b)
	why := "tunneled packets whose checksums and segments are left"
	if spoils {
		why = "checksums of tunneled packets are spoiled"
		for _, at := range s.all { // segments of long packets are cut by the kernel, but not finished
			setOffload(t, at, at.wire.Device(at.Host), unix.ETHTOOL_STSO, 0)
		}
	}
	for _, at := range s.all {
		s.start(at)
	}
	c := s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name)
	atA, atB := s.station(a, 1), s.station(b, 1)
	require.False(t, reachesByTCP(t, atA, atB, stationAddr(b, 1)), "with an old peer's overlay")

	for _, at := range s.all {
		s.w.leave(at.node)
	}
	c.close()
	for _, at := range s.all {
		at.node.stop()
		s.startTwo(at)
		require.NoError(t, at.node.dp.AddPort(t.Context(), "veth1"))
	}
	c = s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name2)
	for _, at := range s.all {
		awaitOffloads(t, at, c, "off: "+why)
	}
	require.True(t, reachesByTCP(t, atA, atB, stationAddr(b, 1)), "%+v", a.node.dp.Status())
	st := labtest.NewStream(t, atA, atB, stationAddr(b, 1))

	setOffload(t, a, "vxlan-6784", unix.ETHTOOL_STXCSUM, 1) // by somebody else
	require.Eventually(t, func() bool { return getOffload(t, a, "vxlan-6784", unix.ETHTOOL_GTXCSUM) == 0 }, patience, 10*time.Millisecond)

	s.w.leave(a.node)
	c.close()
	a.node.stop()
	s.startTwo(a)
	require.NoError(t, a.node.dp.AddPort(t.Context(), "veth1"))
	c = s.w.connect(t, a.node, b.node, nil)
	c.awaitUse(t, fastdp.Name2)
	awaitOffloads(t, a, c, "off: turned off by others, or by a former run")
	awaitOffloads(t, b, c, "off: "+why)
	st.GoOn()
	for _, at := range s.all {
		onlyOwnFlows(t, at)
	}
}

// throughBadInterface links two hosts by a third that passes frames on as it gets them.
func (s *sites) throughBadInterface(a, b *site) {
	nic, err := s.lab.Host("nic")
	require.NoError(s.t, err)
	var ports [2]*os.File
	for i, at := range []*site{a, b} {
		at.wire, err = s.lab.Link(at.Host, nic, lab.LinkConfig{A: netip.PrefixFrom(at.addr, 24)})
		require.NoError(s.t, err)
		ports[i] = openRaw(s.t, nic.Namespace, at.wire.Device(nic))
	}
	for i := range ports {
		done := make(chan struct{})
		go func() {
			defer close(done)
			passOn(ports[i], ports[1-i])
		}()
		s.t.Cleanup(func() {
			_ = ports[i].Close()
			<-done
		})
	}
}

// openRaw opens a packet socket on a device, which takes frames as they are.
func openRaw(t *testing.T, at *lab.Namespace, device string) (f *os.File) {
	t.Helper()
	require.NoError(t, at.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), device)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
			return err
		}
		return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(dev.Index), Type: unix.PACKET_MR_PROMISC})
	}))
	return f
}

// passOn writes what it reads, until that is closed. What is too long to be written is lost.
func passOn(from, to *os.File) {
	b := make([]byte, 1<<17)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		_, _ = to.Write(b[:n])
	}
}

// reachesByTCP reports whether a connection can be made between two stations, and a little be said.
func reachesByTCP(t *testing.T, from, to *lab.Namespace, at netip.Addr) bool {
	t.Helper()
	var l net.Listener
	require.NoError(t, to.Do(func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("here"))
			_ = conn.Close()
		}
	}()
	defer func() {
		_ = l.Close()
		<-done
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(at, uint16(l.Addr().(*net.TCPAddr).Port)).String())
	if err != nil {
		return false
	}
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(4*time.Second)))
	n, _ := conn.Read(make([]byte, 4))
	return n == 4
}

func setOffload(t *testing.T, at *site, device string, command, value uint32) {
	t.Helper()
	ethtool(t, at, device, command, value)
}

func getOffload(t *testing.T, at *site, device string, command uint32) uint32 {
	t.Helper()
	return ethtool(t, at, device, command, 0)
}

func ethtool(t *testing.T, at *site, device string, command, value uint32) uint32 {
	t.Helper()
	arg := struct{ command, value uint32 }{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&arg)}
	copy(request.name[:], device)
	require.NoError(t, at.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	}))
	return arg.value
}

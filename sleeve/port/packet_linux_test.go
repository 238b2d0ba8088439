package port_test

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve/port"
)

// TestNested has a tunnel's end behind each port, as a cluster inside of containers has: its super-frames arrive, cut.
func TestNested(t *testing.T) {
	group := func(format string, index int) net.IP { return net.ParseIP(format + string(rune('0'+3-index))) }
	for name, tunnel := range map[string]func(index, device int) netlink.Link{
		"vxlan": func(index, device int) netlink.Link {
			return &netlink.Vxlan{VxlanId: 5, Port: 4789, VtepDevIndex: device, Group: group("10.9.0.", index)}
		},
		"vxlan over IPv6": func(index, device int) netlink.Link { // which has checksums
			return &netlink.Vxlan{VxlanId: 5, Port: 4789, VtepDevIndex: device, Group: group("fd09::", index), UDP6ZeroCSumTx: false}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := labtest.New(t)
			a, err := l.Host("a")
			require.NoError(t, err)
			b, err := l.Host("b")
			require.NoError(t, err)
			ports := [2]overlay.SegmentedPort{packet(t, a, 1).(overlay.SegmentedPort), packet(t, b, 2).(overlay.SegmentedPort)}
			var wg sync.WaitGroup
			var longest [2]atomic.Int64
			cable(&wg, ports[0], ports[1], &longest[0]) // the one way by Read, the other by ReadFrames
			superCables(&wg, ports[1], ports[0], &longest[1])
			for i, h := range []*lab.Host{a, b} {
				require.NoError(t, h.Do(func() error { return addTunnel(tunnel, i+1) }))
			}
			transfer(t, a, b, "10.77.0.2")
			transfer(t, b, a, "10.77.0.1")
			for i, p := range ports {
				st := p.(*port.Packet).Status()
				require.Zero(t, st.Malformed)
				require.Zero(t, st.TooLong)
				require.NoError(t, p.Close())
				require.LessOrEqual(t, longest[i].Load(), int64(mtu+14), "what a tunnel brings was cut")
			}
			wg.Wait()
		})
	}
}

func addTunnel(tunnel func(index, device int) netlink.Link, index int) error {
	inner, err := netlink.LinkByName("inner")
	if err != nil {
		return err
	}
	link := tunnel(index, inner.Attrs().Index)
	link.Attrs().Name, link.Attrs().MTU = "tunnel0", mtu-70
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{10, 77, 0, byte(index)}, Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// TestUndescribed has a virtual machine send a UDP packet for the host to fragment, a super-frame that no packet socket can
// describe: the port goes on without it.
func TestUndescribed(t *testing.T) {
	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	machine, p := behindTAP(t, h)
	defer func() { require.NoError(t, unix.Close(machine)) }()
	defer func() { _ = p.Close() }()
	got := reads(p)

	fragmented := make([]byte, 10+42+4000)
	fragmented[0], fragmented[1] = 1, 3 // the checksum is missing; fragments
	for i, v := range []uint16{42, 1480, 34, 6} {
		binary.NativeEndian.PutUint16(fragmented[2+2*i:], v)
	}
	frame := fragmented[10:]
	copy(frame, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0})
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	copy(frame[22:], []byte{64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(frame[38:], uint16(len(frame)-34))
	plain := append(make([]byte, 10), taggedFrame(5, 100)...)
	require.Eventually(t, func() bool { // an interface that is up loses frames for a while
		_, err := unix.Write(machine, fragmented)
		require.NoError(t, err)
		return p.Status().Malformed > 0
	}, 10*time.Second, time.Millisecond)
	_, err = unix.Write(machine, plain)
	require.NoError(t, err)
	for f := range got {
		if f.data[12] == 0x81 {
			return
		}
	}
	t.Fatal("the port has ended")
}

// behindTAP gives a host a TAP device, and a port on it. What is written to the descriptor arrives at the port.
func behindTAP(t *testing.T, h *lab.Host) (fd int, p *port.Packet) {
	t.Helper()
	require.NoError(t, h.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("vm0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		link, err := netlink.LinkByName("vm0")
		if err != nil {
			return err
		}
		if err = netlink.LinkSetUp(link); err != nil {
			return err
		}
		p, err = port.OpenPacket(port.PacketConfig{Interface: "vm0"})
		return err
	}))
	return fd, p
}

// arrived is a frame that a port brought.
type arrived struct {
	data     []byte
	segments overlay.Segments
}

// reads returns what arrives until the port ends.
func reads(p overlay.SegmentedPort) <-chan arrived {
	got := make(chan arrived, 1000)
	go func() {
		defer close(got)
		for {
			frames := []overlay.Frame{{Data: make([]byte, 1<<17)}, {Data: make([]byte, 1<<17)}}
			n, err := p.ReadFrames(frames)
			if err != nil {
				return
			}
			for _, f := range frames[:n] {
				select {
				case got <- arrived{f.Data, f.Segments}:
				default:
				}
			}
		}
	}()
	return got
}

// TestUDPSegments has a station send with UDP_SEGMENT, as QUIC servers do. What becomes of it is what the status says. The guest
// has a kernel from before 6.2.
func TestUDPSegments(t *testing.T) {
	if !labtest.RequireKernel(t, lab.Geneve) {
		return
	}
	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	p := packet(t, h, 1).(*port.Packet)
	defer func() { _ = p.Close() }()
	got := reads(p)
	conn, err := h.ListenPacket("udp4", ":0")
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 1200))
		require.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	}))
	to := &net.UDPAddr{IP: net.IP{10, 9, 0, 255}, Port: 443}
	_, err = conn.WriteTo(make([]byte, 6000), to)
	require.NoError(t, err)
	if p.Status().Offloads["UDP segmentation"] != "in use" {
		require.Eventually(t, func() bool { return p.Status().Malformed == 1 }, 10*time.Second, time.Millisecond)
		_, err = conn.WriteTo(make([]byte, 1100), to) // one segment: an ordinary frame
		require.NoError(t, err)
	}
	for f := range got {
		if len(f.data) > 1000 {
			require.Equal(t, p.Status().Malformed == 0, f.segments.Protocol == overlay.UDP4)
			return
		}
	}
	t.Fatal("the port has ended")
}

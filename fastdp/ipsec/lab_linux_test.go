package ipsec_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// machine is a host with a VXLAN device, whose packets are protected:
//
//	vx 10.77.0.1 --- under 192.168.77.1 ------- under 192.168.77.2 --- vx 10.77.0.2
type machine struct {
	*host
	at     *lab.Host
	device string     // of the underlay
	inner  netip.Addr // in the tunnel
	kern   *ipsec.XFRM
}

// start is that of host, on the kernel.
func (m *machine) start() {
	require.NoError(m.t, m.at.Do(func() (err error) {
		m.kern, err = ipsec.OpenKernel()
		return err
	}))
	m.cfg.Kernel = m.kern
	p, err := ipsec.New(m.cfg)
	require.NoError(m.t, err)
	require.NoError(m.t, p.Guard(tunnelPort))
	m.p = p
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(m.t, p.Run(ctx)) })
	kern := m.kern
	m.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		require.NoError(m.t, kern.Close())
	})
	m.t.Cleanup(m.stop)
}

// twoMachines makes two hosts whose tunnel is there already; nothing is protected before start.
func twoMachines(t *testing.T, cfg ipsec.Config) (a, b *machine) {
	l := labtest.New(t)
	machines := [2]*machine{}
	for i, h := range []*host{{name: nameA, addr: addrA}, {name: nameB, addr: addrB}} {
		at, err := l.Host(h.name.String())
		require.NoError(t, err)
		h.t, h.cfg = t, cfg
		machines[i] = &machine{host: h, at: at, inner: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})}
	}
	a, b = machines[0], machines[1]
	k, err := l.Link(a.at, b.at, lab.LinkConfig{A: netip.PrefixFrom(addrA, 24), B: netip.PrefixFrom(addrB, 24)})
	require.NoError(t, err)
	for i, m := range machines {
		m.device = k.Device(m.at)
		m.tunnel(machines[1-i])
	}
	return a, b
}

// tunnel makes the VXLAN device, without checksums as fastdp has it.
func (m *machine) tunnel(remote *machine) {
	m.ip("link", "add", "vx", "mtu", "1376", "type", "vxlan", "id", "77", "local", m.addr.String(), "remote", remote.addr.String(),
		"dstport", strconv.Itoa(tunnelPort), "noudpcsum")
	m.ip("addr", "add", m.inner.String()+"/24", "dev", "vx")
	m.ip("link", "set", "vx", "up")
}

func (m *machine) ip(args ...string) {
	m.t.Helper()
	out, err := m.at.Command(context.Background(), "ip", args...).CombinedOutput()
	require.NoError(m.t, err, "%s", out)
}

func addr24(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
}

// stream sends numbered datagrams through the tunnel at a pace, until stop.
type stream struct {
	t        *testing.T
	out, in  net.PacketConn
	sent     atomic.Uint64
	received atomic.Uint64
	end      func() // of sending
	stop     func() // of all
}

func startStream(t *testing.T, from, to *machine) *stream {
	s := &stream{t: t}
	var err error
	s.out, err = from.at.ListenPacket("udp", netip.AddrPortFrom(from.inner, 0).String())
	require.NoError(t, err)
	s.in, err = to.at.ListenPacket("udp", netip.AddrPortFrom(to.inner, 0).String())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var sender, receiver sync.WaitGroup
	sender.Go(func() { s.send(ctx, s.in.LocalAddr()) })
	receiver.Go(s.receive)
	s.end = sync.OnceFunc(func() {
		cancel()
		_ = s.out.Close()
		sender.Wait()
	})
	s.stop = sync.OnceFunc(func() {
		s.end()
		_ = s.in.Close()
		receiver.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

func (s *stream) send(ctx context.Context, to net.Addr) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	b := make([]byte, 100)
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		if _, err := s.out.WriteTo(b, to); err == nil {
			s.sent.Add(1)
		}
	}
}

func (s *stream) receive() {
	b := make([]byte, 200)
	for {
		if _, _, err := s.in.ReadFrom(b); err != nil {
			return
		}
		s.received.Add(1)
	}
}

// flows waits until n more datagrams have arrived.
func (s *stream) flows(n uint64) {
	s.t.Helper()
	want := s.received.Load() + n
	require.Eventually(s.t, func() bool { return s.received.Load() >= want }, 20*time.Second, 10*time.Millisecond)
}

// sends waits until n more datagrams have been sent.
func (s *stream) sends(n uint64) {
	s.t.Helper()
	want := s.sent.Load() + n
	require.Eventually(s.t, func() bool { return s.sent.Load() >= want }, 20*time.Second, 10*time.Millisecond)
}

// capture looks at every packet that a machine puts on the underlay and gets from it.
type capture struct {
	clear, esp atomic.Uint64
	stop       func()

	mu   sync.Mutex
	last []byte // packet of ESP, from its IPv4 header on
}

func startCapture(t *testing.T, m *machine) *capture {
	c := &capture{}
	var fd int
	require.NoError(t, m.at.Do(func() (err error) {
		fd, err = openCapture(m.device)
		return err
	}))
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { c.read(fd, ended) })
	c.stop = sync.OnceFunc(func() {
		close(ended)
		wg.Wait()
		_ = unix.Close(fd)
	})
	t.Cleanup(c.stop)
	return c
}

func openCapture(device string) (int, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return 0, err
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return 0, err
	}
	return fd, errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
}

func (c *capture) read(fd int, ended chan struct{}) {
	b := make([]byte, 65536)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EAGAIN || err == unix.EINTR {
			select {
			case <-ended:
				return
			default:
				continue
			}
		}
		if err != nil {
			return
		}
		c.see(b[:n])
	}
}

// packet returns the last packet of ESP.
func (c *capture) packet() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.last...)
}

func (c *capture) see(b []byte) {
	if len(b) < 28 || b[0]>>4 != 4 {
		return
	}
	at := int(b[0]&15) * 4
	switch b[9] {
	case unix.IPPROTO_ESP:
		c.esp.Add(1)
		c.mu.Lock()
		c.last = append(c.last[:0], b...)
		c.mu.Unlock()
	case unix.IPPROTO_UDP:
		if binary.BigEndian.Uint16(b[at+2:]) == tunnelPort {
			c.clear.Add(1)
		}
	}
}

// statistic returns a counter of IPsec of a machine.
func (m *machine) statistic(name string) (n int) {
	out, err := m.at.Command(context.Background(), "cat", "/proc/net/xfrm_stat").Output()
	require.NoError(m.t, err)
	for line := range strings.Lines(string(out)) {
		var key string
		var value int
		if _, err := fmt.Sscan(line, &key, &value); err == nil && key == name {
			n = value
		}
	}
	return n
}

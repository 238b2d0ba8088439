package ipsec_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
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

	station *lab.Namespace // that has the inner address; nil: the host itself
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
	a, b = joinedMachines(t, cfg, addrA, addrB)
	a.tunnel(b)
	b.tunnel(a)
	return a, b
}

// joinedMachines makes two hosts with an underlay between them.
func joinedMachines(t *testing.T, cfg ipsec.Config, atA, atB netip.Addr) (a, b *machine) {
	l := labtest.New(t)
	machines := [2]*machine{}
	for i, h := range []*host{{name: nameA, addr: atA}, {name: nameB, addr: atB}} {
		at, err := l.Host(h.name.String())
		require.NoError(t, err)
		h.t, h.cfg = t, cfg
		machines[i] = &machine{host: h, at: at, inner: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})}
	}
	a, b = machines[0], machines[1]
	k, err := l.Link(a.at, b.at, lab.LinkConfig{A: netip.PrefixFrom(atA, 24), B: netip.PrefixFrom(atB, 24)})
	require.NoError(t, err)
	for _, m := range machines {
		m.device = k.Device(m.at)
	}
	return a, b
}

// tunnel makes the VXLAN device, without checksums as fastdp has it. It knows its neighbour, since what waits for an answer to ARP
// would arrive after all.
func (m *machine) tunnel(remote *machine) {
	require.NoError(m.t, m.at.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = "vx", fastdp.DefaultMTU, m.innerMAC()
		vx := &netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: 77, SrcAddr: m.addr.AsSlice(), Group: remote.addr.AsSlice(), Port: tunnelPort,
			UDP6ZeroCSumTx: true, UDP6ZeroCSumRx: true,
		}
		if err := netlink.LinkAdd(vx); err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrAdd(vx, addr24(m.inner)),
			netlink.LinkSetUp(vx),
			setNeighbour(attrs.Name, remote.inner, remote.innerMAC()))
	}))
}

func (m *machine) innerMAC() net.HardwareAddr {
	return net.HardwareAddr{0x0a, 0x77, 0, 0, 0, m.inner.As4()[3]}
}

// untunnel removes the device.
func (m *machine) untunnel() {
	require.NoError(m.t, m.at.Do(func() error {
		vx, err := netlink.LinkByName("vx")
		if err != nil {
			return err
		}
		return netlink.LinkDel(vx)
	}))
}

func addr24(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
}

// stream sends numbered datagrams through the tunnel at a pace, until end.
type stream struct {
	t       *testing.T
	out, in net.PacketConn
	sent    atomic.Uint64 // the number of the last one that has begun to be sent
	end     func()        // of sending
	stop    func()        // of all

	received atomic.Uint64
	drained  chan struct{} // a mark was read
	mu       sync.Mutex
	numbers  map[uint64]bool // of those that arrived
	silences [][2]uint64     // those after the first number, up to the second, are not to arrive
}

const (
	streamPace  = 3 * time.Millisecond
	streamSize  = 100
	markSize    = 1
	patience    = 30 * time.Second // how long it takes may not matter: the machine may be busy
	testBuffers = 64 << 20         // a reader that does not come to its turn loses nothing
)

func startStream(t *testing.T, from, to *machine) *stream {
	if from.station != nil {
		return streamBetween(t, from.station, to.station, from.inner, to.inner)
	}
	return streamBetween(t, from.at.Namespace, to.at.Namespace, from.inner, to.inner)
}

func streamBetween(t *testing.T, from, to *lab.Namespace, src, dst netip.Addr) *stream {
	s := &stream{t: t, drained: make(chan struct{}, 1), numbers: map[uint64]bool{}}
	var err error
	s.out, err = from.ListenPacket("udp", netip.AddrPortFrom(src, 0).String())
	require.NoError(t, err)
	s.in, err = to.ListenPacket("udp", netip.AddrPortFrom(dst, 0).String())
	require.NoError(t, err)
	raw, err := s.in.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, testBuffers)
	}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var sender, receiver sync.WaitGroup
	sender.Go(func() { s.send(ctx, s.in.LocalAddr()) })
	receiver.Go(s.receive)
	s.end = sync.OnceFunc(func() {
		cancel()
		sender.Wait()
		_ = s.out.Close()
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
	pace := time.NewTicker(streamPace)
	defer pace.Stop()
	b := make([]byte, streamSize)
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		binary.BigEndian.PutUint64(b, s.sent.Add(1))
		_, _ = s.out.WriteTo(b, to) // one that fails is lost
	}
}

func (s *stream) receive() {
	b := make([]byte, 2*streamSize)
	for {
		n, _, err := s.in.ReadFrom(b)
		if err != nil {
			return
		}
		if n == markSize {
			s.drained <- struct{}{}
			continue
		}
		s.mu.Lock()
		s.numbers[binary.BigEndian.Uint64(b)] = true
		s.mu.Unlock()
		s.received.Add(1)
	}
}

// drain waits until all is read that has arrived: a mark, which takes no tunnel, comes after it.
func (s *stream) drain() {
	s.t.Helper()
	_, err := s.in.WriteTo(make([]byte, markSize), s.in.LocalAddr())
	require.NoError(s.t, err)
	select {
	case <-s.drained:
	case <-time.After(patience):
		require.FailNow(s.t, "what has arrived is not read")
	}
}

// flows waits until n datagrams have arrived of those that are sent from now on.
func (s *stream) flows(n int) {
	s.t.Helper()
	from := s.sent.Load()
	require.Eventually(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		arrived := 0
		for number := range s.numbers {
			if number > from {
				arrived++
			}
		}
		return arrived >= n
	}, patience, 10*time.Millisecond)
}

// sends waits until n more datagrams have been sent.
func (s *stream) sends(n uint64) {
	s.t.Helper()
	want := s.sent.Load() + n
	require.Eventually(s.t, func() bool { return s.sent.Load() > want }, patience, 5*time.Millisecond)
}

// silent sends n datagrams, none of which is to arrive; requireSilence looks.
func (s *stream) silent(n uint64) {
	s.t.Helper()
	from := s.sent.Load()
	s.sends(n)
	s.silences = append(s.silences, [2]uint64{from, s.sent.Load() - 1})
}

// requireSilence requires that nothing arrived of what was not to.
func (s *stream) requireSilence() {
	s.t.Helper()
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	for number := range s.numbers {
		for _, silence := range s.silences {
			require.False(s.t, silence[0] < number && number <= silence[1], "number %d of %v arrived", number, silence)
		}
	}
}

// noLoss ends the stream and requires that all has arrived.
func (s *stream) noLoss() {
	s.t.Helper()
	s.end()
	if !assert.Eventually(s.t, func() bool { return s.received.Load() == s.sent.Load() }, patience, 10*time.Millisecond) {
		require.FailNow(s.t, "loss", "%d sent, %d received", s.sent.Load(), s.received.Load())
	}
}

// capture looks at every packet that a machine puts on the underlay and gets from it.
type capture struct {
	t          *testing.T
	fd         int
	from       netip.Addr
	clear, esp atomic.Uint64
	read       atomic.Uint64
	queued     uint64 // for the socket, so far
	stop       func()

	mu   sync.Mutex
	last []byte // packet of ESP that the machine sent, from its IP header on
}

func startCapture(t *testing.T, m *machine) *capture {
	c := &capture{t: t, from: m.addr}
	require.NoError(t, m.at.Do(func() (err error) {
		c.fd, err = openCapture(m.device)
		return err
	}))
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { c.run(ended) })
	c.stop = sync.OnceFunc(func() {
		close(ended)
		wg.Wait()
		_ = unix.Close(c.fd)
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
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, testBuffers),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
}

func (c *capture) run(ended chan struct{}) {
	b := make([]byte, 65536)
	for {
		n, err := unix.Read(c.fd, b)
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
		c.read.Add(1)
	}
}

// settle waits until all is read that has passed, of which nothing may have been missed.
func (c *capture) settle() {
	c.t.Helper()
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // since the last time
	require.NoError(c.t, err)
	require.Zero(c.t, st.Drops, "packets that the capture missed")
	c.queued += uint64(st.Packets)
	require.Eventually(c.t, func() bool { return c.read.Load() >= c.queued }, patience, time.Millisecond)
}

// requireNoneClear requires that no packet was in the clear.
func (c *capture) requireNoneClear() {
	c.t.Helper()
	c.settle()
	require.Zero(c.t, c.clear.Load(), "packets in the clear")
}

// packet returns the last packet of ESP that the machine sent.
func (c *capture) packet() []byte {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.last...)
}

func (c *capture) see(b []byte) {
	if len(b) < 48 {
		return
	}
	at, protocol, src := int(b[0]&15)*4, b[9], netip.AddrFrom4([4]byte(b[12:]))
	if b[0]>>4 == 6 {
		at, protocol, src = 40, b[6], netip.AddrFrom16([16]byte(b[8:]))
	}
	switch {
	case protocol == unix.IPPROTO_ESP:
		c.esp.Add(1)
		if src == c.from {
			c.mu.Lock()
			c.last = append(c.last[:0], b...)
			c.mu.Unlock()
		}
	case protocol == unix.IPPROTO_UDP && len(b) >= at+4 && binary.BigEndian.Uint16(b[at+2:]) == tunnelPort:
		c.clear.Add(1)
	}
}

// statistic returns a counter of IPsec of a machine.
func (m *machine) statistic(name string) (n int) {
	var text []byte
	require.NoError(m.t, m.at.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/xfrm_stat")
		return err
	}))
	for line := range strings.Lines(string(text)) {
		var key string
		var value int
		if _, err := fmt.Sscan(line, &key, &value); err == nil && key == name {
			n = value
		}
	}
	return n
}

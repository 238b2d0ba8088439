package ipsec_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// short are times that a test can wait for.
var short = ipsec.Config{Hold: 3 * time.Second, Grace: 300 * time.Millisecond, Sweep: 200 * time.Millisecond}

func (c *connection) waitReady() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		return c.ends[0].Status().Encrypted && c.ends[1].Status().Encrypted
	}, 10*time.Second, time.Millisecond)
}

// waitAssociations waits until a machine has so many.
func (m *machine) waitAssociations(n int) {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		_, associations, err := m.kern.List()
		return err == nil && len(associations) == n
	}, 20*time.Second, 10*time.Millisecond)
}

func TestKernelProbe(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	require.NoError(t, ipsec.Probe())
}

// A tunnel's whole life, with traffic all the time, and a capture on the underlay: never a packet in the clear. The streams
// count as sent what the tunnel device took, so that the blocks show in them as loss.
func TestKernelNothingInTheClear(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := twoMachines(t, short)
	a.start()
	b.start()
	seen := startCapture(t, a)
	there, back := startStream(t, a, b), startStream(t, b, a)
	silent := func() {
		t.Helper()
		arrived, esp := there.received.Load()+back.received.Load(), seen.esp.Load()
		there.sends(50)
		back.sends(50)
		require.Equal(t, arrived, there.received.Load()+back.received.Load())
		require.Equal(t, esp, seen.esp.Load())
	}
	flowing := func() {
		t.Helper()
		there.flows(50)
		back.flows(50)
	}
	silent()

	first := connect(t, a.host, b.host, link{key: 1})
	first.waitReady()
	flowing()
	first.close()
	flowing() // on hold
	a.waitAssociations(0)
	b.waitAssociations(0)
	silent()

	second := connect(t, a.host, b.host, link{key: 2})
	second.waitReady()
	flowing()
	second.sever()
	a.stop() // A dies
	second.ends[1].Close()
	flowing()
	a.start() // and is there again
	flowing()
	third := connect(t, a.host, b.host, link{key: 3})
	third.waitReady()
	a.waitAssociations(2)
	b.waitAssociations(2)
	flowing()

	a.stop() // A dies for good
	third.sever()
	third.ends[1].Close()
	b.waitAssociations(0)
	back.sends(50)
	there.sends(50)
	require.Zero(t, seen.clear.Load())
	require.NotZero(t, seen.esp.Load())
}

// The tunnel moves to another address, while traffic runs.
func TestKernelReaddress(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := twoMachines(t, short)
	a.start()
	b.start()
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(50)

	moved := netip.MustParseAddr("192.168.77.3")
	require.NoError(t, b.at.Do(func() error { return readdress(b.device, b.addr, moved) }))
	b.addr = moved
	for _, m := range []*machine{a, b} {
		m.ip("link", "del", "vx")
	}
	a.tunnel(b)
	b.tunnel(a)
	there.stop()
	there = startStream(t, a, b)
	there.sends(50)
	require.Zero(t, there.received.Load())
	c.close()
	connect(t, a.host, b.host, link{key: 2}).waitReady()
	there.flows(50)
	a.waitAssociations(2)
	there.flows(50)
	require.Zero(t, seen.clear.Load())
}

func readdress(device string, from, to netip.Addr) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrDel(l, addr24(from)), netlink.AddrAdd(l, addr24(to)))
}

// Connections come and go; after the first, nothing is lost and nothing is in the clear.
func TestKernelFlapping(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	cfg := short
	cfg.Hold = 5 * time.Second // longer than a connection takes on a busy machine
	a, b := twoMachines(t, cfg)
	a.start()
	b.start()
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(20)
	for i := range 200 {
		next := connect(t, a.host, b.host, link{key: byte(i)})
		if i%3 == 0 {
			c.close() // before the next is ready
		}
		next.waitReady()
		c.close()
		c = next
	}
	there.flows(20)
	there.noLoss()
	require.Zero(t, seen.clear.Load())
	a.waitAssociations(2)
}

// noLoss ends the stream and requires that all has arrived.
func (s *stream) noLoss() {
	s.t.Helper()
	s.end()
	require.Eventually(s.t, func() bool { return s.received.Load() == s.sent.Load() }, 5*time.Second, 10*time.Millisecond,
		"%d sent, %d received", s.sent.Load(), s.received.Load())
}

// Keys change under load, many times, without loss.
func TestKernelRekeyUnderLoad(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	cfg := short
	cfg.RekeyPackets = 50
	a, b := twoMachines(t, cfg)
	a.start()
	b.start()
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1, rekeys: true})
	c.waitReady()
	there, back := startStream(t, a, b), startStream(t, b, a)
	require.Eventually(t, func() bool { return c.announcements(0) > 10 && c.announcements(1) > 10 }, 60*time.Second, 10*time.Millisecond)
	there.noLoss()
	back.noLoss()
	require.Zero(t, seen.clear.Load())
	require.Equal(t, []error{nil}, c.reports(0))
}

func TestKernelWrongKey(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := twoMachines(t, short)
	a.start()
	b.start()
	seen := startCapture(t, a)
	connect(t, a.host, b.host, link{key: 1, other: 2}).waitReady()
	there := startStream(t, a, b)
	there.sends(50)
	require.Eventually(t, func() bool { return b.statistic("XfrmInStateProtoError") > 10 }, 10*time.Second, 10*time.Millisecond)
	require.Zero(t, there.received.Load())
	require.Zero(t, seen.clear.Load())
	require.NotZero(t, seen.esp.Load())
}

// Packets are as section 2.3 says: they open with the key that the receiver's announcement makes.
func TestKernelPackets(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := twoMachines(t, short)
	a.start()
	b.start()
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(5)
	there.stop()
	packet := seen.packet()
	inner, err := ipsec.OpenESP([32]byte{1}, c.payload(1), nameB, packet[int(packet[0]&15)*4:])
	require.NoError(t, err)
	require.EqualValues(t, tunnelPort, binary.BigEndian.Uint16(inner[2:]))
	require.Equal(t, []byte{8, 0, 0, 0, 0, 0, 77, 0}, inner[8:16], "VXLAN")
}

// A packet of the peer whose outer source was rewritten on the path opens, but is not taken.
func TestKernelRewrittenSource(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := twoMachines(t, short)
	a.start()
	b.start()
	connect(t, a.host, b.host, link{key: 1}).waitReady()
	there := startStream(t, a, b)
	there.flows(5)
	nobody := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	require.NoError(t, a.at.Do(func() error { return setNeighbour(a.device, b.addr, nobody) }))
	seen := startCapture(t, a)
	there.sends(5)
	require.Eventually(t, func() bool { return seen.esp.Load() > 2 }, 10*time.Second, time.Millisecond)
	there.end()
	packet := seen.packet()
	require.NoError(t, a.at.Do(func() error { return setNeighbour(a.device, b.addr, b.hardware()) }))

	arrived := there.received.Load()
	rewritten := append([]byte(nil), packet...)
	copy(rewritten[12:16], []byte{192, 168, 77, 9})
	require.NoError(t, a.at.Do(func() error { return inject(rewritten) }))
	require.Eventually(t, func() bool { return b.statistic("XfrmInStateMismatch") == 1 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, arrived, there.received.Load())
}

// hardware returns the address of the underlay's device.
func (m *machine) hardware() (mac net.HardwareAddr) {
	require.NoError(m.t, m.at.Do(func() error {
		l, err := netlink.LinkByName(m.device)
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	}))
	return mac
}

func setNeighbour(device string, addr netip.Addr, mac net.HardwareAddr) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac})
}

// inject sends an IPv4 packet as it is.
func inject(packet []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
}

// Others empty the databases: the port is blocked again at once, and traffic flows again by itself.
func TestKernelFlushedByOthers(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	cfg := short
	cfg.Sweep = time.Hour // the events are what counts
	a, b := twoMachines(t, cfg)
	a.start()
	b.start()
	c := connect(t, a.host, b.host, link{key: 1, rekeys: true})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(1100) // beyond the gap between two announcements
	require.NoError(t, a.at.Do(netlink.XfrmPolicyFlush))
	require.Eventually(t, func() bool {
		policies, _, err := a.kern.List()
		return err == nil && len(policies) == 6
	}, 5*time.Second, time.Millisecond)
	there.flows(50)
	require.NoError(t, a.at.Do(func() error { return netlink.XfrmStateFlush(netlink.XFRM_PROTO_ESP) }))
	there.flows(50)
	require.Equal(t, []error{nil}, c.reports(0))
	require.GreaterOrEqual(t, a.p.Status().Repaired, uint64(8))
}

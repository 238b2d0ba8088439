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

// Times for tests that wait for the end of a hold, and for those in which a hold must not end, however busy the machine is.
var (
	short = ipsec.Config{Hold: time.Second, Grace: 300 * time.Millisecond, Sweep: 100 * time.Millisecond}
	long  = ipsec.Config{Hold: time.Minute, Grace: 300 * time.Millisecond, Sweep: 100 * time.Millisecond}
)

func (c *connection) waitReady() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		return c.ends[0].Status().Encrypted && c.ends[1].Status().Encrypted
	}, patience, time.Millisecond)
}

// waitAssociations waits until a machine has so many.
func (m *machine) waitAssociations(n int) {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		_, associations, err := m.kern.List()
		return err == nil && len(associations) == n
	}, patience, 10*time.Millisecond)
}

// endHold has all of closed tunnels go: a protector without a hold comes and goes between two with theirs.
func (m *machine) endHold() {
	m.t.Helper()
	hold := m.cfg.Hold
	m.stop()
	m.cfg.Hold = -1
	m.start()
	m.waitAssociations(0)
	m.stop()
	m.cfg.Hold = hold
	m.start()
}

func TestKernelProbe(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	require.NoError(t, ipsec.Probe())
}

// A tunnel's whole life, with traffic all the time, and a capture on the underlay: never a packet in the clear. What the
// streams send goes into the tunnel device, so that the blocks show as loss.
func TestKernelNothingInTheClear(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := startMachines(t, long)
	seen := startCapture(t, a)
	x := startTraffic(t, a, b)
	x.silent(seen)

	first := connect(t, a.host, b.host, link{key: 1})
	first.waitReady()
	x.flows()
	first.close()
	x.flows() // on hold
	a.endHold()
	b.endHold()
	x.silent(seen)

	second := connect(t, a.host, b.host, link{key: 2})
	second.waitReady()
	x.flows()
	second.sever()
	a.stop() // A dies
	second.ends[1].Close()
	x.flows()
	a.start() // and is there again
	x.flows()
	third := connect(t, a.host, b.host, link{key: 3})
	third.waitReady()
	x.flows()

	a.stop() // A dies for good
	third.sever()
	third.ends[1].Close()
	x.flows()
	b.endHold()
	for _, s := range x {
		s.silent(20)
		s.requireSilence()
	}
	seen.requireNoneClear()
	require.NotZero(t, seen.esp.Load())
}

// After a reset nothing is left in the kernel, and packets pass in the clear.
func TestKernelReset(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := startMachines(t, long)
	connect(t, a.host, b.host, link{key: 1}).waitReady()
	there := startStream(t, a, b)
	there.flows(5)
	require.NoError(t, b.p.Release(tunnelPort))
	a.stop()
	require.NoError(t, a.at.Do(func() error {
		k, err := ipsec.OpenKernel()
		if err != nil {
			return err
		}
		return errors.Join(ipsec.Reset(k, 0), k.Close())
	}))
	for _, m := range []*machine{a, b} {
		require.NoError(t, m.at.Do(func() error {
			policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
			require.Empty(t, policies)
			states, serr := netlink.XfrmStateList(netlink.FAMILY_ALL)
			require.Empty(t, states)
			return errors.Join(err, serr)
		}))
	}
	there.flows(5)
}

// The tunnel moves to another address, while traffic runs.
func TestKernelReaddress(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := startMachines(t, short)
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(20)

	moved := netip.MustParseAddr("192.168.77.3")
	require.NoError(t, b.at.Do(func() error { return readdress(b.device, b.addr, moved) }))
	b.addr = moved
	for _, m := range []*machine{a, b} {
		m.untunnel()
	}
	a.tunnel(b)
	b.tunnel(a)
	there.stop()
	there = startStream(t, a, b)
	there.sends(20)
	there.drain()
	require.Zero(t, there.received.Load())
	c.close()
	connect(t, a.host, b.host, link{key: 2}).waitReady()
	there.flows(20)
	a.waitAssociations(2)
	there.flows(20)
	seen.requireNoneClear()
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
	a, b := startMachines(t, cfg)
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(20)
	for i := range 120 {
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
	seen.requireNoneClear()
	a.waitAssociations(2)
}

// Keys change under load, many times, without loss.
func TestKernelRekeyUnderLoad(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	cfg := short
	cfg.RekeyPackets = 50
	a, b := startMachines(t, cfg)
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1, rekeys: true})
	c.waitReady()
	there, back := startStream(t, a, b), startStream(t, b, a)
	require.Eventually(t, func() bool { return c.announcements(0) > 6 && c.announcements(1) > 6 }, 2*patience, 10*time.Millisecond)
	there.noLoss()
	back.noLoss()
	seen.requireNoneClear()
	require.Equal(t, []error{nil}, c.reports(0))
}

func TestKernelWrongKey(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := startMachines(t, short)
	seen := startCapture(t, a)
	connect(t, a.host, b.host, link{key: 1, other: 2}).waitReady()
	there := startStream(t, a, b)
	there.sends(20)
	require.Eventually(t, func() bool { return b.statistic("XfrmInStateProtoError") > 10 }, patience, 10*time.Millisecond)
	there.drain()
	require.Zero(t, there.received.Load())
	seen.requireNoneClear()
	require.NotZero(t, seen.esp.Load())
}

// Packets are as section 2.3 says: they open with the key that the receiver's announcement makes.
func TestKernelPackets(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := startMachines(t, short)
	seen := startCapture(t, a)
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(5)
	there.end()
	packet := seen.packet()
	inner, err := ipsec.OpenESP([32]byte{1}, c.payload(1), nameB, packet[int(packet[0]&15)*4:])
	require.NoError(t, err)
	require.EqualValues(t, tunnelPort, binary.BigEndian.Uint16(inner[2:]))
	require.Equal(t, []byte{8, 0, 0, 0, 0, 0, 77, 0}, inner[8:16], "VXLAN")
}

// The same over IPv6.
func TestKernelIPv6(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := joinedMachines(t, short, netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2"))
	a.tunnel(b)
	b.tunnel(a)
	a.start()
	b.start()
	seen := startCapture(t, a)
	there := startStream(t, a, b)
	there.sends(20)
	there.drain()
	require.Zero(t, there.received.Load())
	c := connect(t, a.host, b.host, link{key: 1})
	c.waitReady()
	there.flows(20)
	c.close()
	a.waitAssociations(0)
	seen.requireNoneClear()
	require.NotZero(t, seen.esp.Load())
}

// A packet of the peer whose outer source was rewritten on the path opens, but is not taken.
func TestKernelRewrittenSource(t *testing.T) {
	if !labtest.RequireKernel(t, lab.ESP) {
		return
	}
	a, b := startMachines(t, short)
	connect(t, a.host, b.host, link{key: 1}).waitReady()
	there := startStream(t, a, b)
	there.flows(5)
	nobody := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	require.NoError(t, a.at.Do(func() error { return setNeighbour(a.device, b.addr, nobody) }))
	seen := startCapture(t, a)
	there.sends(5)
	require.Eventually(t, func() bool { return seen.esp.Load() > 2 }, patience, time.Millisecond)
	there.end()
	there.drain()
	packet := seen.packet()
	require.NoError(t, a.at.Do(func() error { return setNeighbour(a.device, b.addr, b.hardware()) }))

	arrived := there.received.Load()
	rewritten := append([]byte(nil), packet...)
	copy(rewritten[12:16], []byte{192, 168, 77, 9})
	require.NoError(t, a.at.Do(func() error { return inject(rewritten) }))
	require.Eventually(t, func() bool { return b.statistic("XfrmInStateMismatch") == 1 }, patience, 10*time.Millisecond)
	there.drain()
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
	a, b := startMachines(t, cfg)
	c := connect(t, a.host, b.host, link{key: 1, rekeys: true})
	c.waitReady()
	there := startStream(t, a, b)
	there.flows(400) // beyond the gap between two announcements
	require.NoError(t, a.at.Do(netlink.XfrmPolicyFlush))
	require.Eventually(t, func() bool {
		policies, _, err := a.kern.List()
		return err == nil && len(policies) == 6
	}, patience, time.Millisecond)
	there.flows(20)
	require.NoError(t, a.at.Do(func() error { return netlink.XfrmStateFlush(netlink.XFRM_PROTO_ESP) }))
	there.flows(20)
	require.Equal(t, []error{nil}, c.reports(0))
	require.GreaterOrEqual(t, a.p.Status().Repaired, uint64(8))
}

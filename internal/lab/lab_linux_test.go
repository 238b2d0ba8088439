package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

func TestMain(m *testing.M) {
	if child := children[os.Getenv(childVariable)]; child != nil {
		os.Exit(child(os.Args[1:]))
	}
	labtest.Enter()
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second

func addr(i int) netip.Addr     { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }
func prefix(i int) netip.Prefix { return netip.PrefixFrom(addr(i), 24) }

// onSwitch returns hosts that are joined to one switch; the i-th has address 10.0.0.i, counted from 1.
//
//	a --- [lan] --- b
//	        |
//	        c ...
func onSwitch(t *testing.T, l *lab.Lab, names ...string) ([]*lab.Host, []*lab.Link) {
	lan, err := l.Switch("lan")
	require.NoError(t, err)
	var hosts []*lab.Host
	var links []*lab.Link
	for i, name := range names {
		h, err := l.Host(name)
		require.NoError(t, err)
		link, err := lan.Join(h, prefix(i+1))
		require.NoError(t, err)
		require.Equal(t, "eth0", link.Device(h))
		hosts, links = append(hosts, h), append(links, link)
	}
	return hosts, links
}

func TestHostsOnASwitchReachEachOther(t *testing.T) {
	hosts, _ := onSwitch(t, labtest.New(t), "a", "b", "c")
	for i, from := range hosts {
		for j, to := range hosts {
			require.Equal(t, "hello", overTCP(t, from, to, addr(j+1)), "%d to %d", i, j)
		}
	}
}

// overTCP sends a word from one host to another and returns what arrived.
func overTCP(t *testing.T, from, to *lab.Host, at netip.Addr) string {
	ln, err := to.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	defer ln.Close()
	out, err := from.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	in, err := ln.Accept()
	require.NoError(t, err)
	defer in.Close()
	_, err = out.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	got, err := io.ReadAll(in)
	require.NoError(t, err)
	return string(got)
}

// a --- b --- c        and nothing else
func TestLinksJoinTwoHostsOnly(t *testing.T) {
	l := labtest.New(t)
	var hosts []*lab.Host
	for _, name := range []string{"a", "b", "c"} {
		h, err := l.Host(name)
		require.NoError(t, err)
		hosts = append(hosts, h)
	}
	v6 := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	ab, err := l.Link(hosts[0], hosts[1], lab.LinkConfig{MTU: 1400, A: prefix(1), B: prefix(2)})
	require.NoError(t, err)
	bc, err := l.Link(hosts[1], hosts[2], lab.LinkConfig{A: v6("fd00::2/64"), B: v6("fd00::3/64")})
	require.NoError(t, err)

	require.Equal(t, "hello", overTCP(t, hosts[0], hosts[1], addr(2)))
	require.Equal(t, "hello", overTCP(t, hosts[2], hosts[1], v6("fd00::2/64").Addr()))
	require.Equal(t, []string{"eth0", "eth1", ""}, []string{ab.Device(hosts[1]), bc.Device(hosts[1]), ab.Device(hosts[2])})
	require.Equal(t, 1400, mtu(t, hosts[1], "eth0"))
	require.Equal(t, 1500, mtu(t, hosts[1], "eth1"))
	_, err = hosts[2].DialContext(t.Context(), "tcp", "10.0.0.2:1")
	require.ErrorContains(t, err, "network is unreachable")

	require.NoError(t, ab.SetMTU(1300))
	require.Equal(t, 1300, mtu(t, hosts[0], "eth0"))
	require.Equal(t, 1300, mtu(t, hosts[1], "eth0"))
}

func mtu(t *testing.T, h *lab.Host, device string) (mtu int) {
	require.NoError(t, h.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err == nil {
			mtu = link.Attrs().MTU
		}
		return err
	}))
	return mtu
}

// pipe is a pair of UDP sockets on two hosts that know each other's MAC address.
type pipe struct {
	t        *testing.T
	from, to net.PacketConn
}

func newPipe(t *testing.T, from, to *lab.Host, at netip.Addr) pipe {
	p := pipe{t: t}
	var err error
	p.from, err = from.ListenPacket("udp", ":0")
	require.NoError(t, err)
	p.to, err = to.ListenPacket("udp", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	t.Cleanup(func() { p.from.Close(); p.to.Close() })
	p.send("warm up")
	require.Equal(t, "warm up", p.receive())
	return p
}

func (p pipe) send(word string) {
	_, err := p.from.WriteTo([]byte(word), p.to.LocalAddr())
	require.NoError(p.t, err)
}

func (p pipe) receive() string {
	require.NoError(p.t, p.to.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 64)
	n, _, err := p.to.ReadFrom(buf)
	require.NoError(p.t, err)
	return string(buf[:n])
}

func TestCutLosesEverythingAndHealBringsItBack(t *testing.T) {
	hosts, links := onSwitch(t, labtest.New(t), "a", "b")
	there, back := newPipe(t, hosts[0], hosts[1], addr(2)), newPipe(t, hosts[1], hosts[0], addr(1))
	for range 2 {
		require.NoError(t, links[0].Cut())
		require.NoError(t, links[0].Cut())
		there.send("lost")
		back.send("lost")
		require.NoError(t, links[0].Heal())
		there.send("arrives")
		back.send("arrives")
		require.Equal(t, "arrives", there.receive())
		require.Equal(t, "arrives", back.receive())
	}
}

func TestRateIsLimited(t *testing.T) {
	hosts, links := onSwitch(t, labtest.New(t), "a", "b")
	const rate, size = 4 << 20, 1 << 20
	require.NoError(t, links[1].Shape(lab.Shape{Rate: rate}))

	slow := timeTransfer(t, hosts[0], hosts[1], addr(2), size)
	require.Greater(t, slow, time.Second*size/rate/2, "a quarter of a second, less the burst")
	require.NoError(t, links[1].Cut())
	require.NoError(t, links[1].Heal())
	slow = timeTransfer(t, hosts[0], hosts[1], addr(2), size)
	require.Greater(t, slow, time.Second*size/rate/2, "the shape comes back with the link")
	require.NoError(t, links[1].Shape(lab.Shape{}))
	require.Less(t, timeTransfer(t, hosts[0], hosts[1], addr(2), size), slow)
}

func timeTransfer(t *testing.T, from, to *lab.Host, at netip.Addr, size int) time.Duration {
	ln, err := to.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	defer ln.Close()
	out, err := from.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	in, err := ln.Accept()
	require.NoError(t, err)
	defer in.Close()
	start := time.Now()
	go func() {
		_, _ = out.Write(make([]byte, size))
		_ = out.Close()
	}()
	n, err := io.Copy(io.Discard, in)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	return time.Since(start)
}

// Some kernels have netem and some have not; each must do what is promised for it.
func TestNoShaping(t *testing.T) {
	if lab.Missing(lab.Netem) == nil {
		t.Skip("this kernel can shape links")
	}
	hosts, links := onSwitch(t, labtest.New(t), "a", "b")
	p := newPipe(t, hosts[0], hosts[1], addr(2))
	err := links[0].Shape(lab.Shape{Delay: time.Millisecond})
	require.ErrorIs(t, err, lab.ErrNoShaping)
	require.ErrorContains(t, err, "netem")
	p.send("still passes")
	require.Equal(t, "still passes", p.receive())
}

func TestDelayAndLoss(t *testing.T) {
	if !labtest.RequireKernel(t, lab.Netem) {
		return
	}
	hosts, links := onSwitch(t, labtest.New(t), "a", "b")
	p := newPipe(t, hosts[0], hosts[1], addr(2))
	const delay = 20 * time.Millisecond
	require.NoError(t, links[0].Shape(lab.Shape{Delay: delay}))
	start := time.Now()
	p.send("late")
	require.Equal(t, "late", p.receive())
	require.GreaterOrEqual(t, time.Since(start), delay)

	require.NoError(t, links[0].Shape(lab.Shape{Loss: 1}))
	p.send("lost")
	require.NoError(t, links[0].Shape(lab.Shape{}))
	p.send("arrives")
	require.Equal(t, "arrives", p.receive())
}

func TestImpossibleWishes(t *testing.T) {
	l := labtest.New(t)
	hosts, links := onSwitch(t, l, "a", "b")
	for _, s := range []lab.Shape{{Delay: -1}, {Loss: -0.1}, {Loss: 1.1}} {
		require.Error(t, links[0].Shape(s))
	}
	_, err := l.Host("a")
	require.ErrorContains(t, err, `"a"`)
	_, err = hosts[0].Container("b")
	require.ErrorContains(t, err, `"b"`)
	_, err = l.Link(hosts[0], hosts[1], lab.LinkConfig{MTU: 1})
	require.ErrorContains(t, err, "from a to b")
	require.ErrorContains(t, links[0].SetMTU(1), "eth0")
	require.ErrorIs(t, hosts[0].Do(func() error { return io.ErrUnexpectedEOF }), io.ErrUnexpectedEOF)
}

func TestContainersAreEmpty(t *testing.T) {
	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	c, err := h.Container("a1")
	require.NoError(t, err)
	require.Equal(t, "a1", c.Name())
	require.NoError(t, c.Do(func() error {
		devices, err := net.Interfaces()
		require.NoError(t, err)
		require.Len(t, devices, 1)
		require.NotZero(t, devices[0].Flags&net.FlagUp)
		return nil
	}))
}

func TestDoReturnsToWhereItWas(t *testing.T) {
	l := labtest.New(t)
	a, err := l.Host("a")
	require.NoError(t, err)
	b, err := l.Host("b")
	require.NoError(t, err)
	seen := map[string]bool{}
	here := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		require.NoError(t, err)
		seen[link] = true
		return link
	}
	home := here()
	require.NoError(t, a.Do(func() error {
		inA := here()
		require.NoError(t, b.Do(func() error { here(); return nil }))
		require.Equal(t, inA, here())
		return nil
	}))
	func() {
		defer func() { require.NotNil(t, recover()) }()
		_ = a.Do(func() error { panic("in a") })
	}()
	require.Equal(t, home, here())
	require.Len(t, seen, 3)
}

func TestCloseLeavesNothing(t *testing.T) {
	labtest.Require(t)
	fds := openFiles(t)
	for range 3 {
		l, err := lab.New()
		require.NoError(t, err)
		hosts, _ := onSwitch(t, l, "a", "b")
		_, err = hosts[0].Container("a1")
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(namespacesOfOurs(t)), 1+4)
		require.NoError(t, l.Close())
		require.NoError(t, l.Close())

		_, err = l.Host("c")
		require.ErrorIs(t, err, os.ErrClosed)
		require.ErrorIs(t, hosts[0].Do(func() error { return nil }), os.ErrClosed)
		require.ErrorIs(t, hosts[0].Command(t.Context(), "true").Start(), os.ErrClosed)
	}
	require.Equal(t, fds, openFiles(t))
	require.Eventually(t, func() bool { return len(namespacesOfOurs(t)) == 1 }, patience, time.Millisecond,
		"only the one that we are in remains, when the threads have ended")
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// namespacesOfOurs lists the network namespaces that this process holds by its threads and descriptors.
func namespacesOfOurs(t *testing.T) map[string]bool {
	held := map[string]bool{}
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, path := range paths {
			if link, _ := os.Readlink(path); strings.HasPrefix(link, "net:") {
				held[link] = true
			}
		}
	}
	return held
}

func TestReportsOfChildren(t *testing.T) {
	hosts, _ := onSwitch(t, labtest.New(t), "a")
	out, err := childOf(t, hosts[0].Namespace, "devices").Output()
	require.NoError(t, err)
	require.Equal(t, "eth0 lo\n", string(out))

	var both strings.Builder
	cmd := childOf(t, hosts[0].Namespace, "fail")
	cmd.Stderr = &both
	err = cmd.Run()
	require.ErrorContains(t, err, "exit status 3")
	require.Equal(t, err, cmd.Wait())
	require.Equal(t, "failing\n", both.String())
}

func readLine(t *testing.T, r io.Reader) string {
	line, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

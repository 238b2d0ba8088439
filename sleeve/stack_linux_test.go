package sleeve_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/port"
)

// node is all that a host has of an overlay: a socket on the underlay, a switch, and a TAP device on which the host itself is
// the station, with the address 10.60.0.N.
type node struct {
	*overlay.Switch
	host  *lab.Host
	name  peer.Name
	under netip.AddrPort
	tap   *port.TAP
}

func (n *node) addr() string { return fmt.Sprintf("10.60.0.%d", n.name) }

// newNode starts a node on a host. Its neighbours are those with the names before and behind its own.
func newNode(t *testing.T, h *lab.Host, name, last peer.Name, under string, which string) *node {
	t.Helper()
	n := &node{host: h, name: name, under: netip.AddrPortFrom(netip.MustParseAddr(under), 6783)}
	var socket *sleeve.Socket
	err := h.Do(func() (err error) {
		if socket, err = sleeve.Listen(netip.AddrPortFrom(netip.Addr{}, 6783)); err != nil {
			return err
		}
		if n.tap, err = port.OpenTAP(port.TAPConfig{Name: "tap0", MTU: 8900}); err != nil {
			return errors.Join(err, socket.Close())
		}
		dev, err := netlink.LinkByName("tap0")
		if err != nil {
			return err
		}
		hw := net.HardwareAddr{2, 60, 0, 0, 0, byte(name)}
		to := &net.IPNet{IP: netip.MustParseAddr(n.addr()).AsSlice(), Mask: net.CIDRMask(24, 32)}
		return errors.Join(netlink.LinkSetHardwareAddr(dev, hw), netlink.AddrAdd(dev, &netlink.Addr{IPNet: to}))
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip("no TAP devices here: ", err)
	}
	require.NoError(t, err)
	var o overlay.Overlay
	o = start(t, name, socket)
	if which == sleeve.Name2 {
		o = o.(*sleeve.Overlay).Sleeve2()
	}
	n.Switch, err = overlay.NewSwitch(overlay.SwitchConfig{Self: name, Overlays: []overlay.Overlay{o}, Port: n.tap})
	require.NoError(t, err)
	n.Forwarder().SetRoutes(line{name, last})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return n
}

// joinNodes connects two neighbours, of which the first dials, and returns their bundles.
func joinNodes(t *testing.T, a, b *node, which string, key *[32]byte) [2]*overlay.Bundle {
	t.Helper()
	established := make(chan overlay.EventKind, 16)
	var bundles [2]*overlay.Bundle
	type message struct {
		tag     byte
		payload []byte
	}
	var inbox [2]chan message
	for i, p := range []overlay.Params{
		{Self: a.name, Remote: b.name, Local: a.under, RemoteAddr: b.under, Outbound: true},
		{Self: b.name, Remote: a.name, Local: b.under, RemoteAddr: netip.AddrPortFrom(a.under.Addr(), 1)},
	} {
		inbox[i] = make(chan message, 1024)
		p.ConnUID, p.Key, p.Features = uint64(a.name), key, map[string]string{overlay.FeatureKey: which}
		var err error
		bundles[i], err = []*node{a, b}[i].Prepare(p, func(tag byte, payload []byte) error {
			inbox[1-i] <- message{tag, bytes.Clone(payload)}
			return nil
		}, func(e overlay.Event) { established <- e.Kind })
		require.NoError(t, err)
	}
	var running sync.WaitGroup
	for i, in := range inbox {
		running.Go(func() {
			for m := range in {
				bundles[i].Control(m.tag, m.payload)
			}
		})
	}
	t.Cleanup(func() {
		for i := range bundles {
			bundles[i].Close()
		}
		for i := range inbox {
			close(inbox[i])
		}
		running.Wait()
	})
	bundles[0].Confirm()
	bundles[1].Confirm()
	for range bundles {
		require.Equal(t, overlay.Established, <-established)
	}
	return bundles
}

// stream is a TCP connection over the overlay on which data goes one way until the test ends.
type stream struct {
	received atomic.Int64
	out      net.Conn
}

// startStream has one node send to another without end, and checks what arrives.
func startStream(t *testing.T, from, to *node) *stream {
	t.Helper()
	listener, err := to.host.Listen("tcp", to.addr()+":0")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := from.host.DialContext(ctx, "tcp", listener.Addr().String())
	require.NoError(t, err)
	s := &stream{out: out}
	in, err := listener.Accept()
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		block := make([]byte, 64<<10)
		for i := uint64(0); ; {
			for at := 0; at < len(block); at += 8 {
				binary.BigEndian.PutUint64(block[at:], i)
				i++
			}
			if _, err := out.Write(block); err != nil {
				return
			}
		}
	})
	wrong := atomic.Bool{}
	running.Go(func() {
		block := make([]byte, 64<<10)
		for i := uint64(0); ; {
			if _, err := io.ReadFull(in, block); err != nil {
				return
			}
			for at := 0; at < len(block); at += 8 {
				if binary.BigEndian.Uint64(block[at:]) != i {
					wrong.Store(true)
				}
				i++
			}
			s.received.Add(int64(len(block)))
		}
	})
	t.Cleanup(func() {
		_, _, _ = listener.Close(), out.Close(), in.Close()
		running.Wait()
		require.False(t, wrong.Load(), "the stream was damaged")
	})
	return s
}

// pace has the sender's TCP go slowly, so that a stream can run for long beside others.
func (s *stream) pace(t *testing.T, bytesPerSecond int) {
	t.Helper()
	raw, err := s.out.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	var set error
	require.NoError(t, raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, bytesPerSecond)
	}))
	require.NoError(t, set)
}

// requireFlows waits until more has arrived.
func (s *stream) requireFlows(t *testing.T, bytes int64) {
	t.Helper()
	want := s.received.Load() + bytes
	require.Eventually(t, func() bool { return s.received.Load() >= want }, 30*time.Second, time.Millisecond,
		"%d bytes more, have %d of them", bytes, s.received.Load()-want+bytes)
}

// requireNothingWrong looks at the drops of links: none may say that something was not as it was sent.
func requireNothingWrong(t *testing.T, bundles ...*overlay.Bundle) {
	t.Helper()
	for _, b := range bundles {
		for reason, n := range b.Status().Drops {
			switch reason {
			case "too_big", "too_big_answered", "path_too_small", "socket": // of TCP that has to learn what fits
			case "no_address": // of a host that looks around before the link is there
			case "before_hello": // pings do not wait for it
			default:
				require.Zero(t, n, reason)
			}
		}
	}
}

// TestThreeHostsInLine has the host in the middle relay, over a second link that carries less than the first:
//
//	1 === 1500 === 2 === 1300 === 3
func TestThreeHostsInLine(t *testing.T) {
	for _, which := range []string{sleeve.Name, sleeve.Name2} {
		for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
			t.Run(which+" "+name, func(t *testing.T) {
				h := newHosts(t)
				nodes := []*node{newNode(t, h.a, 1, 3, "10.0.1.1", which), newNode(t, h.r, 2, 3, "10.0.1.2", which), newNode(t, h.b, 3, 3, "10.0.2.1", which)}
				first := joinNodes(t, nodes[0], nodes[1], which, key)
				nodes[1].under = netip.MustParseAddrPort("10.0.2.2:6783")
				second := joinNodes(t, nodes[2], nodes[1], which, key)
				for _, way := range [][2]int{{0, 2}, {2, 0}} {
					startStream(t, nodes[way[0]], nodes[way[1]]).requireFlows(t, 2<<20)
				}
				for _, b := range append(first[:], second[:]...) {
					st := b.Status()
					require.Equal(t, which, st.Overlay)
					require.Greater(t, st.Sent.Bytes, uint64(1<<20))
					require.Greater(t, st.Received.Bytes, uint64(1<<20))
				}
				requireNothingWrong(t, append(first[:], second[:]...)...)
			})
		}
	}
}

// TestIPv6Underlay has nothing but IPv6 below: paths whose bottleneck the router tells of, streams both ways.
func TestIPv6Underlay(t *testing.T) {
	for _, which := range []string{sleeve.Name, sleeve.Name2} {
		for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
			t.Run(which+" "+name, func(t *testing.T) {
				h := newHosts6(t)
				a, b := newNode(t, h.a, 1, 2, "fd01::1", which), newNode(t, h.b, 2, 2, "fd02::1", which)
				bundles := joinNodes(t, a, b, which, key)
				want := map[string]int{sleeve.Name: 1300 - 62 - 20, sleeve.Name2: 1300 - 76 - 20}[which]
				if key != nil {
					want = map[string]int{sleeve.Name: 1300 - 86 - 20, sleeve.Name2: 1300 - 84 - 20}[which]
				}
				for _, bundle := range bundles {
					require.Eventually(t, func() bool { return bundle.Status().MTU == want }, 20*time.Second, 10*time.Millisecond)
				}
				require.Equal(t, b.under, bundles[0].Status().Remote)
				require.Equal(t, a.under, bundles[1].Status().Remote)
				startStream(t, a, b).requireFlows(t, 2<<20)
				startStream(t, b, a).requireFlows(t, 2<<20)

				// A datagram of many fragments, in either wire's way.
				in, err := h.b.ListenPacket("udp", b.addr()+":99")
				require.NoError(t, err)
				defer func() { _ = in.Close() }()
				out, err := h.a.DialContext(t.Context(), "udp", b.addr()+":99")
				require.NoError(t, err)
				defer func() { _ = out.Close() }()
				big := bytes.Repeat([]byte("overlay!"), 5000)
				require.Eventually(t, func() bool {
					_, _ = out.Write(big)
					got := make([]byte, 1<<16)
					_ = in.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
					n, _, err := in.ReadFrom(got)
					return err == nil && bytes.Equal(big, got[:n])
				}, 20*time.Second, time.Millisecond)
				requireNothingWrong(t, bundles[:]...)
			})
		}
	}
}

// TestUnderlayMTUChanges changes the MTU of the underlay under a TCP stream: the path begins to swallow what is big without a
// word, and later takes jumbo frames. The stream goes on, and the link's MTU follows.
func TestUnderlayMTUChanges(t *testing.T) {
	t.Parallel() // with the one below: both wait more than they do
	h := newHosts(t)
	a, b := newNode(t, h.a, 1, 2, "10.0.1.1", sleeve.Name2), newNode(t, h.b, 2, 2, "10.0.2.1", sleeve.Name2)
	require.NoError(t, h.toB.SetMTU(1500))
	bundles := joinNodes(t, a, b, sleeve.Name2, testKey)
	mtu := func(pmtu int) func() bool {
		return func() bool {
			got := bundles[0].Status().MTU
			return got <= pmtu-84 && got > pmtu-84-10
		}
	}
	s := startStream(t, a, b)
	s.pace(t, 20<<20)
	s.requireFlows(t, 1<<20)
	require.Eventually(t, mtu(1500), 10*time.Second, 10*time.Millisecond)

	require.NoError(t, h.r.Do(dropICMP))
	require.NoError(t, h.toB.SetMTU(1300))
	require.Eventually(t, mtu(1300), 30*time.Second, 10*time.Millisecond, "the hole is noticed")
	s.requireFlows(t, 1<<20)

	require.NoError(t, errors.Join(h.toA.SetMTU(9000), h.toB.SetMTU(9000)))
	require.Eventually(t, mtu(9000), 30*time.Second, 10*time.Millisecond, "the system believes in more, and it passes")
	s.requireFlows(t, 1<<20)
	requireNothingWrong(t, bundles[:]...)
}

// TestUnderlayMTUChangesOldWire is the same for sleeve, where the system says what changed.
func TestUnderlayMTUChangesOldWire(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	a, b := newNode(t, h.a, 1, 2, "10.0.1.1", sleeve.Name), newNode(t, h.b, 2, 2, "10.0.2.1", sleeve.Name)
	require.NoError(t, h.toB.SetMTU(1500))
	bundles := joinNodes(t, a, b, sleeve.Name, testKey)
	s := startStream(t, a, b)
	s.pace(t, 20<<20)
	for _, pmtu := range []int{1500, 1300, 9000} {
		require.NoError(t, h.toB.SetMTU(pmtu))
		if pmtu == 9000 {
			require.NoError(t, h.toA.SetMTU(pmtu))
			require.NoError(t, h.a.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/route/flush", []byte("1"), 0) }))
		}
		require.Eventually(t, func() bool { return bundles[0].Status().MTU == pmtu-86 }, 30*time.Second, 10*time.Millisecond, pmtu)
		s.requireFlows(t, 1<<20)
	}
	requireNothingWrong(t, bundles[:]...)
}

// dropICMP has a router keep its ICMP messages for itself.
func dropICMP() error {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.IPProto, rule.Type = unix.AF_INET, 1, unix.IPPROTO_ICMP, unix.RTN_BLACKHOLE
	return netlink.RuleAdd(rule)
}

// TestBadUnderlay runs TCP streams over an underlay that delays, loses, repeats and reorders packets, and shrinks.
func TestBadUnderlay(t *testing.T) {
	if !labtest.RequireKernel(t, lab.Netem) {
		return
	}
	for _, which := range []string{sleeve.Name, sleeve.Name2} {
		t.Run(which, func(t *testing.T) {
			h := newHosts(t)
			a, b := newNode(t, h.a, 1, 2, "10.0.1.1", which), newNode(t, h.b, 2, 2, "10.0.2.1", which)
			bundles := joinNodes(t, a, b, which, testKey)
			require.NoError(t, h.r.Do(func() error {
				links, err := netlink.LinkList()
				for _, link := range links {
					if link.Type() == "veth" {
						attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
						err = errors.Join(err, netlink.QdiscReplace(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{
							Latency: 3000, Jitter: 2000, Loss: 0.5, Duplicate: 5, ReorderProb: 10, Limit: 100_000,
						})))
					}
				}
				return err
			}))
			s := startStream(t, a, b)
			s.requireFlows(t, 2<<20)
			startStream(t, b, a).requireFlows(t, 2<<20)
			require.NoError(t, h.toB.SetMTU(1200))
			require.Eventually(t, func() bool {
				mtu := bundles[0].Status().MTU
				return mtu > 1200-86-10 && mtu <= 1200-84
			}, 30*time.Second, 10*time.Millisecond)
			s.requireFlows(t, 1<<20)
			for _, b := range bundles {
				st := b.Status()
				require.NotZero(t, st.Drops["replayed"], "what was repeated came in once: %v", st.Drops)
				require.Zero(t, st.Drops["not_authentic"])
				require.Zero(t, st.Drops["malformed"])
				require.Zero(t, st.Drops["truncated"])
			}
		})
	}
}

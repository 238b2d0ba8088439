package sleeve_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/sleeve"
)

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

// TestManyStreams runs streams both ways, which come from both queues of each TAP device.
func TestManyStreams(t *testing.T) {
	h := newHosts(t)
	a, b := newNode(t, h.a, 1, 2, "10.0.1.1", sleeve.Name2), newNode(t, h.b, 2, 2, "10.0.2.1", sleeve.Name2)
	bundles := joinNodes(t, a, b, sleeve.Name2, testKey)
	var streams []*stream
	for i := range 16 {
		s := startStream(t, []*node{a, b}[i%2], []*node{b, a}[i%2])
		s.pace(t, 2<<20)
		streams = append(streams, s)
	}
	for _, s := range streams {
		s.requireFlows(t, 256<<10)
	}
	requireNothingWrong(t, bundles[:]...)
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

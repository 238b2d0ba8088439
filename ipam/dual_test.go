package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// Both families: one allocator for each, over the same bus, with a store of its own. An owner has an address of each.
func Example_dualStack() {
	bus := gossiptest.New(gossiptest.Config{})
	node := bus.Node(gossip.Member{Name: peer.MustParse("0a:00:00:00:00:01"), UID: peer.NewUID(), Nickname: "host1"})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	var stack []*ipam.Allocator
	for _, universe := range []string{"10.32.0.0/12", "fd00:77:6561:7665::/64"} {
		a, err := ipam.New(ipam.Config{
			Bus: node, Universe: netip.MustParsePrefix(universe), Birth: ipam.Consensus(1), Store: new(ipam.MemStore),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		g.Go(func() error { return a.Run(ctx) })
		stack = append(stack, a)
	}
	for _, a := range stack {
		fmt.Println(a.Allocate(ctx, "web", netip.Prefix{}))
	}
	cancel()
	fmt.Println(g.Wait())
	// Output:
	// 10.32.0.1/12 <nil>
	// fd00:77:6561:7665::1/64 <nil>
	// <nil>
}

// TestIPv6 has three peers share a large range: the first ring, space from others, claims, subnets, a restart, and one that
// leaves.
func TestIPv6(t *testing.T) {
	for _, universe := range []string{"fd00:1:2::/48", "fd00:1:2:3::/64", "fd00:1:2:3::/65", "2000::/3"} {
		t.Run(universe, func(t *testing.T) {
			inWorld(t, universe, gossiptest.Config{Delay: 20 * time.Millisecond}, func(t *testing.T, w *world) {
				a, b, c := w.start(1, consensus(3)), w.start(2, consensus(3)), w.start(3, consensus(3))
				w.pass(time.Second)
				base := w.universe.Addr()
				seen := make(map[netip.Prefix]bool)
				for i := range 50 {
					for _, n := range []*node{a, b, c} {
						p := w.allocate(n, fmt.Sprint(i))
						require.False(t, seen[p])
						require.True(t, w.universe.Contains(p.Addr()))
						require.NotEqual(t, base, p.Addr(), "the anycast address of routers")
						seen[p] = true
					}
				}
				subnet := netip.PrefixFrom(base, 120) // all of it is the first peer's at first
				p, err := c.Allocate(w.within(time.Minute), "sub", subnet)
				require.NoError(t, err)
				require.True(t, subnet.Contains(p.Addr()))
				mine := netip.PrefixFrom(base.Next().Next(), 120)
				require.ErrorIs(t, c.Claim(w.within(time.Minute), "thief", mine), ipam.ErrConflict)
				require.ErrorIs(t, c.Claim(w.within(time.Minute), "x", netip.MustParsePrefix("10.0.0.1/8")), ipam.ErrInvalidSubnet)
				w.pass(time.Minute)
				w.requireOneRing()
				held := a.Owners()
				w.kill(name(1))
				a = w.start(1, consensus(3))
				require.Equal(t, held, a.Owners())
				require.NoError(t, b.Release(w.within(time.Minute)))
				w.pass(time.Minute)
				w.stop(name(2))
				w.pass(time.Minute)
				w.requireOneRing()
				require.Len(t, a.Status().Peers, 2)
			})
		})
	}
}

// TestFamiliesDoNotMix: two allocators on one bus hear nothing of each other.
func TestFamiliesDoNotMix(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, consensus(1))
		w.allocate(a, "x")
		w.universe = netip.MustParsePrefix("fd00::/64")
		b := w.start(2, consensus(1))
		require.Equal(t, "fd00::1/64", w.allocate(b, "x").String())
		w.pass(time.Minute)
		require.Empty(t, a.Status().Faults)
		require.Empty(t, b.Status().Faults)
		require.Zero(t, w.bus.Stats().Errors)
	})
}

package ipam_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// What users of the predecessor lived through.

// TestTenNodesJoinOneByOne: no number of peers is given; each knows only some that came before it.
func TestTenNodesJoinOneByOne(t *testing.T) {
	for _, pace := range []time.Duration{0, time.Second, time.Minute} {
		t.Run(pace.String(), func(t *testing.T) {
			inWorld(t, "10.32.0.0/12", gossiptest.Config{Seed: 1, Delay: 50 * time.Millisecond}, func(t *testing.T, w *world) {
				for i := range 10 {
					n := w.start(i+1, func(c *ipam.Config) { c.Targets = func() int { return min(i, 2) } })
					w.pass(pace)
					go w.allocate(n, "first")
				}
				w.pass(3 * time.Minute)
				w.requireOneRing()
				for _, n := range w.sorted() {
					require.NotEmpty(t, n.Lookup("first", netip.Prefix{}))
					require.Empty(t, n.Status().Strays)
				}
			})
		})
	}
}

// TestTwoGroupsBornApart: two groups of five make a ring each, use addresses, and are then connected.
func TestTwoGroupsBornApart(t *testing.T) {
	inWorld(t, "10.32.0.0/16", gossiptest.Config{Seed: 2}, func(t *testing.T, w *world) {
		var groups [2][]peer.Name
		for i := range 10 {
			groups[i/5] = append(groups[i/5], name(i+1))
		}
		w.bus.Partition(groups[:]...)
		for i := range 10 {
			w.start(i+1, func(c *ipam.Config) { c.Targets = func() int { return 4 } })
		}
		w.pass(time.Second)
		held := make(map[peer.Name][]netip.Prefix)
		for i, n := range w.sorted() {
			for j := range 5 { // apart from each other; what two gave to two is another story
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, byte(25 * i), byte(10 + j)}), 16)
				require.NoError(t, n.Claim(w.within(time.Minute), fmt.Sprint(j), p))
				held[n.name] = append(held[n.name], p)
			}
		}
		w.bus.Heal()
		w.eventually(10*time.Minute, "one ring, all addresses at home", func() bool {
			for _, n := range w.sorted() {
				s := n.Status()
				if len(s.Strays) > 0 || fmt.Sprint(s.Seeds) != fmt.Sprint(w.sorted()[0].Status().Seeds) {
					return false
				}
			}
			return true
		})
		for i, n := range w.sorted() {
			for j, p := range held[n.name] {
				require.Equal(t, []netip.Prefix{p}, n.Lookup(fmt.Sprint(j), netip.Prefix{}), "peer %d", i+1)
			}
			w.allocate(n, "new")
		}
		w.pass(3 * time.Minute)
		w.requireOneRing()
	})
}

// TestAddressGivenTwiceBeforeTheRingsMet is reported, by the side that changed over, until one lets go.
func TestAddressGivenTwiceBeforeTheRingsMet(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.bus.Partition([]peer.Name{name(1)}, []peer.Name{name(2)})
		a, b := w.start(1, nil), w.start(2, nil)
		require.Equal(t, w.allocate(a, "x"), w.allocate(b, "y"))
		w.allocate(b, "z")
		w.bus.Heal()
		w.pass(time.Minute)
		s := b.Status().Strays
		require.Len(t, s, 1, "the other came home")
		require.Equal(t, ipam.Stray{Owner: "y", Addr: netip.MustParseAddr("10.32.0.1"), Peer: name(1), Denied: true}, s[0])
		require.NotEmpty(t, w.double(func(*node) bool { return true }, nil))
		require.NoError(t, a.FreeAll(w.within(time.Second), "x"))
		w.eventually(2*time.Minute, "home", func() bool { return len(b.Status().Strays) == 0 })
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestNewcomerDoesNotUnsettle: a cluster in use does not change over to the ring of a peer that was started alone, even
// if that has the lower name.
func TestNewcomerDoesNotUnsettle(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.bus.Partition([]peer.Name{name(1)}, []peer.Name{name(2), name(3)})
		a, b := w.start(1, nil), w.start(2, nil)
		require.NoError(t, a.Prime(w.within(time.Minute)))
		w.allocate(b, "x")
		w.allocate(w.start(3, nil), "y")
		w.bus.Heal()
		w.pass(2 * time.Minute)
		w.requireOneRing()
		require.Equal(t, []peer.Name{name(2)}, a.Status().Seeds)
	})
}

// TestOneNodeRecreatedTwoHundredTimes: it leaves in good order each time, and comes back under another name.
func TestOneNodeRecreatedTwoHundredTimes(t *testing.T) {
	inWorld(t, "10.32.0.0/16", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, nil)
		w.allocate(a, "x")
		for i := range 200 {
			n := w.start(i+2, func(c *ipam.Config) { c.Targets = func() int { return 1 } })
			w.allocate(n, "y")
			require.NoError(t, n.Release(w.within(time.Minute)))
			w.pass(time.Second)
			w.stop(n.name)
		}
		w.pass(time.Minute)
		s := a.Status()
		require.EqualValues(t, 1<<16-1, s.FreeIPs, "all came back")
		require.Less(t, len(s.Entries), 300)
		w.requireOneRing()
	})
}

// TestAllRestartAtOnce with their disks kept.
func TestAllRestartAtOnce(t *testing.T) {
	inWorld(t, "10.32.0.0/20", gossiptest.Config{}, func(t *testing.T, w *world) {
		const peers = 8
		for i := range peers {
			w.start(i+1, consensus(peers))
		}
		held := make(map[peer.Name]netip.Prefix)
		for _, n := range w.sorted() {
			held[n.name] = w.allocate(n, "x")
		}
		for i := range peers {
			w.kill(name(i + 1))
		}
		for i := range peers {
			w.start(i+1, consensus(peers))
		}
		for _, n := range w.sorted() {
			require.Equal(t, held[n.name], w.allocate(n, "x"))
			w.allocate(n, "y")
		}
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

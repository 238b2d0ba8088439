package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestBirthBySeed(t *testing.T) {
	inWorld(t, "10.32.0.0/12", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(2, 1)), w.start(2, seed(1, 2))
		require.Equal(t, "10.32.0.1/12", w.allocate(a, "x").String())
		require.Equal(t, "10.40.0.0/12", w.allocate(b, "x").String())
		w.requireOneRing()
	})
}

func TestBirthByConsensus(t *testing.T) {
	inWorld(t, "10.32.0.0/12", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b, c := w.start(1, consensus(3)), w.start(2, consensus(3)), w.start(3, consensus(3))
		w.pass(time.Second)
		got := []netip.Prefix{w.allocate(a, "x"), w.allocate(b, "x"), w.allocate(c, "x")}
		require.Len(t, map[netip.Prefix]bool{got[0]: true, got[1]: true, got[2]: true}, 3)
		w.pass(time.Minute)
		w.requireOneRing()
		require.GreaterOrEqual(t, len(a.Status().Seeds), 2, "those who were known when a quorum had formed")
	})
}

func TestConsensusNeedsAQuorum(t *testing.T) {
	inWorld(t, "10.32.0.0/12", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, consensus(3))
		_, err := a.Allocate(w.within(time.Minute), "x", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrNoRing)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, "awaiting consensus (quorum: 2, known: 1)", a.Status().State)
		w.start(2, consensus(3))
		w.allocate(a, "x")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestTargetsSetTheQuorum(t *testing.T) {
	inWorld(t, "10.32.0.0/12", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, func(c *ipam.Config) { c.Targets = func() int { return 4 } })
		_, err := a.Allocate(w.within(time.Second), "x", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrNoRing)
		require.Equal(t, 3, a.Status().Paxos.Quorum)
		b := w.start(2, nil)
		w.allocate(b, "x") // no targets, but another in reach: two must agree
		require.Len(t, b.Status().Seeds, 2)
		w.allocate(a, "x")
		w.requireOneRing()
	})
}

func TestObserverGetsARingMade(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, consensus(1))
		o := w.start(2, func(c *ipam.Config) { c.Birth = ipam.Observer() })
		w.pass(time.Second)
		require.Equal(t, "10.32.0.128/24", w.allocate(o, "x").String())
		require.Equal(t, []peer.Name{name(1)}, o.Status().Seeds)
		require.Equal(t, "10.32.0.1/24", w.allocate(a, "x").String())
	})
}

func TestObserverAloneWaits(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		o := w.start(1, func(c *ipam.Config) { c.Birth = ipam.Observer() })
		require.ErrorIs(t, o.Prime(w.within(time.Minute)), ipam.ErrNoRing)
		require.Equal(t, "priming", o.Status().State)
	})
}

// TestNonVotersInReach do not keep a ring from being made for ever.
func TestNonVotersInReach(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, nil)
		for i := range 3 {
			w.start(i+2, func(c *ipam.Config) { c.Birth = ipam.Observer() })
		}
		w.pass(time.Second)
		w.allocate(a, "x")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestPrime(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, consensus(2)), w.start(2, consensus(2))
		require.Equal(t, "idle", a.Status().State)
		require.NoError(t, a.Prime(w.within(time.Minute)))
		require.NoError(t, b.Prime(w.within(time.Minute)))
		require.Equal(t, "ready", a.Status().State)
		w.requireOneRing()
	})
}

// TestSpaceComesFromOthers fills a range of which each peer got a part at first.
func TestSpaceComesFromOthers(t *testing.T) {
	inWorld(t, "10.32.0.0/26", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, seed(1, 2, 3))
		w.start(2, seed(1, 2, 3))
		w.start(3, seed(1, 2, 3))
		w.pass(time.Second)
		seen := make(map[netip.Prefix]bool)
		for i := range 60 { // 62 hosts; donations may leave the last address of the subnet to somebody
			p := w.allocate(a, fmt.Sprint(i))
			require.False(t, seen[p])
			seen[p] = true
		}
		w.requireNoDouble()
		_, err := a.Allocate(w.within(2*time.Minute), "too many", netip.MustParsePrefix("10.32.0.0/28"))
		require.ErrorIs(t, err, ipam.ErrExhausted)
		require.Empty(t, a.Status().PendingAllocates, "given up")
		require.NoError(t, a.FreeAll(w.within(time.Second), "3"))
		w.allocate(a, "one more")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestWaitingAllocationGetsWhatIsFreed(t *testing.T) {
	inWorld(t, "10.32.0.0/29", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, consensus(1))
		for i := range 6 {
			w.allocate(a, fmt.Sprint(i))
		}
		got := make(chan netip.Prefix, 1)
		go func() { got <- w.allocate(a, "late") }()
		w.pass(time.Second)
		require.Equal(t, []string{"late 10.32.0.0/29"}, a.Status().PendingAllocates)
		require.Equal(t, "waiting for IP(s) to become available", a.Status().State)
		require.NoError(t, a.Free(w.within(time.Second), "4", netip.MustParseAddr("10.32.0.5")))
		require.Equal(t, "10.32.0.5/29", (<-got).String())
	})
}

func TestClaims(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(time.Second)
		ctx := w.within(time.Minute)
		pfx := netip.MustParsePrefix
		require.NoError(t, a.Claim(ctx, "x", pfx("10.32.0.200/24")), "in the other's piece, free there")
		require.NoError(t, a.Claim(ctx, "x", pfx("10.32.0.200/24")), "again")
		require.Equal(t, "10.32.0.128/24", w.allocate(b, "y").String())
		err := a.Claim(ctx, "x", pfx("10.32.0.128/24"))
		require.ErrorIs(t, err, ipam.ErrConflict)
		require.ErrorContains(t, err, "address 10.32.0.128/24 is owned by other peer 02:00:00:00:00:02(host2)")
		require.NoError(t, b.Claim(ctx, "z", pfx("192.168.5.5/24")), "outside: recorded as it is")
		require.ErrorIs(t, b.Claim(ctx, "y", pfx("192.168.5.5/24")), ipam.ErrConflict)
		require.Equal(t, 1, b.Status().ForeignIPs)
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestClaimFromAPeerThatIsGone(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, seed(1, 2))
		err := a.Claim(w.within(time.Minute), "x", netip.MustParsePrefix("10.32.0.200/24"))
		require.ErrorIs(t, err, ipam.ErrConflict)
		require.ErrorContains(t, err, "unreachable")
	})
}

func TestClaimsBeforeTheRing(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		adopt := []ipam.Holding{
			{Owner: "web", Addr: netip.MustParsePrefix("10.32.0.1/24")},
			{Owner: "db", Addr: netip.MustParsePrefix("10.32.0.200/24")},
		}
		a := w.start(1, func(c *ipam.Config) { c.Birth, c.Adopt = ipam.Consensus(2), adopt })
		require.Len(t, a.Status().PendingClaims, 2)
		w.start(2, consensus(2))
		require.Equal(t, "10.32.0.2/24", w.allocate(a, "new").String(), "what is in use is not given out")
		w.eventually(time.Minute, "adopted", func() bool { return len(a.Owners()) == 3 })
		require.Equal(t, "10.32.0.200/24", a.Lookup("db", netip.Prefix{})[0].String())
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestRelease(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(time.Second)
		w.allocate(a, "x")
		require.NoError(t, a.Release(w.within(time.Minute)))
		require.NoError(t, a.Release(w.within(time.Minute)), "idempotent")
		_, err := a.Allocate(w.within(time.Second), "y", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrReleased)
		require.ErrorIs(t, a.Claim(w.within(time.Second), "y", netip.MustParsePrefix("10.32.0.9/24")), ipam.ErrReleased)
		require.Empty(t, a.Owners())
		w.eventually(time.Minute, "heir has all", func() bool { return b.Status().FreeIPs == 256 })
	})
}

// TestLoneUnusedRingYields: a peer that was started alone, and used nothing, joins a cluster.
func TestLoneUnusedRingYields(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.bus.Partition([]peer.Name{name(1)}, []peer.Name{name(2)})
		a, b := w.start(1, nil), w.start(2, nil)
		require.NoError(t, a.Prime(w.within(time.Minute)))
		p := w.allocate(b, "x")
		w.pass(time.Minute)
		w.bus.Heal()
		w.eventually(2*time.Minute, "one ring", func() bool { return len(a.Status().Seeds) == 1 && a.Status().Seeds[0] == name(2) })
		w.allocate(a, "y")
		require.Equal(t, p, w.allocate(b, "x"))
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestTwoUnusedRingsBecomeOne(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.bus.Partition([]peer.Name{name(1)}, []peer.Name{name(2)})
		a, b := w.start(1, nil), w.start(2, nil)
		require.NoError(t, a.Prime(w.within(time.Minute)))
		require.NoError(t, b.Prime(w.within(time.Minute)))
		w.bus.Heal()
		w.pass(2 * time.Minute)
		w.requireOneRing()
		require.Equal(t, []peer.Name{name(1)}, b.Status().Seeds, "the lower name stays")
	})
}

// TestRingsOfDifferentSeeds cannot be merged; each side goes on, and says so.
func TestRingsOfDifferentSeeds(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1)), w.start(2, seed(2))
		w.pass(time.Minute)
		w.allocate(a, "x")
		w.allocate(b, "x")
		f := a.Status().Faults
		require.Len(t, f, 1)
		require.Equal(t, name(2), f[0].Peer)
		require.Contains(t, f[0].Reason,
			"IP allocation was seeded by different peers (received: [02:00:00:00:00:02(host2)], ours: [02:00:00:00:00:01(host1)])")
		require.NotEmpty(t, b.Status().Faults)
	})
}

func TestChangedRangeAndName(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, nil)
		w.allocate(a, "x")
		w.kill(name(1))
		w.universe = netip.MustParsePrefix("10.50.0.0/16")
		a = w.start(1, nil)
		require.Empty(t, a.Owners())
		require.Equal(t, "10.50.0.1/16", w.allocate(a, "x").String())
		w.kill(name(1))
		w.stores[name(2)] = w.stores[name(1)] // the host was given another name
		b := w.start(2, nil)
		require.Empty(t, b.Owners())
		w.allocate(b, "y")
		saved, err := w.stores[name(2)].Load()
		require.NoError(t, err)
		require.Len(t, saved.Holdings, 1, "what was of no use is gone")
	})
}

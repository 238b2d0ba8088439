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

// reclaiming is a peer of a ring of seeds 1, 2, 3, 4 with a quarter each, that takes the dead over after ten minutes.
func reclaiming(c *ipam.Config) {
	seed(1, 2, 3, 4)(c)
	c.ReclaimAfter = 10 * time.Minute
}

// four starts the four.
func four(w *world) []*node {
	var all []*node
	for i := range 4 {
		all = append(all, w.start(i+1, reclaiming))
	}
	w.pass(10 * time.Second)
	return all
}

func freeIn(nodes ...*node) (sum uint64) {
	for _, n := range nodes {
		sum += n.Status().FreeIPs
	}
	return sum
}

func TestDeadPeersSpaceComesBack(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{Loss: 0.1, Seed: 1}, func(t *testing.T, w *world) {
		n := four(w)
		w.allocate(n[3], "x")
		w.kill(name(4))
		w.pass(9 * time.Minute)
		require.EqualValues(t, 192, freeIn(n[:3]...), "too early")
		w.pass(2 * time.Minute)
		require.EqualValues(t, 256, freeIn(n[:3]...))
		w.pass(time.Minute)
		w.requireOneRing()
		require.Equal(t, []uint64{128, 64, 64}, []uint64{n[0].Status().FreeIPs, n[1].Status().FreeIPs, n[2].Status().FreeIPs})
		require.Empty(t, n[0].Status().Reclaiming)
	})
}

// TestOnlyAMajorityReclaims: of two sides of a partition, the one without the first address of a divided half does not.
func TestOnlyAMajorityReclaims(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		var kept []netip.Prefix
		for i := range 3 {
			kept = append(kept, w.allocate(n[2], fmt.Sprint(i)))
		}
		w.bus.Partition([]peer.Name{name(1), name(2)}, []peer.Name{name(3), name(4)})
		w.start(5, func(c *ipam.Config) { reclaiming(c); c.Birth = ipam.Observer() })
		w.start(6, func(c *ipam.Config) { reclaiming(c); c.Birth = ipam.Observer() })
		w.bus.Partition([]peer.Name{name(1), name(2)}, []peer.Name{name(3), name(4), name(5), name(6)})
		w.pass(time.Minute)
		w.allocate(w.nodes[name(5)], "y") // more heads on this side make no majority
		w.allocate(w.nodes[name(6)], "y")
		w.pass(30 * time.Minute)
		require.EqualValues(t, 256, freeIn(n[:2]...), "the side with the first address")
		require.EqualValues(t, 128-5, freeIn(n[2], n[3], w.nodes[name(5)], w.nodes[name(6)]))
		w.bus.Heal()
		w.pass(10 * time.Minute)
		for i, p := range kept {
			require.Equal(t, p, w.allocate(n[2], fmt.Sprint(i)), "in use: kept")
		}
		w.requireOneRing()
		for _, x := range w.sorted() {
			require.Empty(t, x.Status().Disputes)
			require.Empty(t, x.Status().Strays)
		}
	})
}

// TestTheReclaimedReturns keeps what nobody was given meanwhile, and gives up the rest.
func TestTheReclaimedReturns(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		kept, lost := w.allocate(n[3], "kept"), w.allocate(n[3], "lost")
		w.pass(time.Minute)
		w.kill(name(4))
		w.pass(20 * time.Minute)
		require.NoError(t, n[0].Claim(w.within(time.Minute), "thief", lost))
		d := w.start(4, reclaiming)
		require.True(t, d.Status().Fenced)
		require.Empty(t, d.Owners(), "in doubt")
		w.pass(time.Minute)
		s := d.Status()
		require.False(t, s.Fenced)
		require.Equal(t, []ipam.Holding{{Owner: "lost", Addr: lost}}, s.Lost)
		require.Equal(t, []ipam.Owned{{Owner: "kept", Addrs: []netip.Prefix{kept}}}, d.Owners())
		require.NotEqual(t, lost, w.allocate(d, "lost"))
		saved, err := w.stores[d.name].Load()
		require.NoError(t, err)
		require.Len(t, saved.Holdings, 2, "what was lost is not stored either")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestFencedAfterLongAbsence: who was away for long relies on its ring only after a majority has confirmed it.
func TestFencedAfterLongAbsence(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		p := w.allocate(n[3], "x")
		for i := range 4 {
			w.kill(name(i + 1))
		}
		w.pass(time.Hour)
		d := w.start(4, reclaiming)
		_, err := d.Allocate(w.within(20*time.Second), "y", netip.Prefix{})
		require.Error(t, err)
		require.Contains(t, d.Status().State, "waiting for a majority")
		w.start(3, reclaiming)
		_, err = d.Allocate(w.within(20*time.Second), "y", netip.Prefix{})
		require.Error(t, err, "half, without the first address")
		w.start(2, reclaiming)
		require.Equal(t, p, w.allocate(d, "x"))
		require.NotEqual(t, p, w.allocate(d, "y"))
		w.pass(time.Minute)
		w.requireNoDouble()
	})
}

func TestInDoubtMayBeFreed(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		w.allocate(n[3], "x")
		p := w.allocate(n[3], "y")
		w.kill(name(4))
		w.pass(8 * time.Minute)
		w.bus.Partition([]peer.Name{name(4)})
		d := w.start(4, reclaiming)
		require.NoError(t, d.FreeAll(w.within(time.Second), "x"))
		require.NoError(t, d.Free(w.within(time.Second), "y", p.Addr()))
		require.ErrorIs(t, d.FreeAll(w.within(time.Second), "x"), ipam.ErrNotOwned)
		w.bus.Heal()
		w.pass(time.Minute)
		require.Empty(t, d.Owners())
		saved, err := w.stores[d.name].Load()
		require.NoError(t, err)
		require.Empty(t, saved.Holdings)
	})
}

// TestNotTowardsThoseWhoDoNotKnow: one peer in reach that does not take part, as one of Weave Net, and nobody reclaims.
func TestNotTowardsThoseWhoDoNotKnow(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		old := w.start(5, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Observer(), -1 })
		w.pass(time.Minute)
		w.kill(name(4))
		w.pass(time.Hour)
		require.EqualValues(t, 192, freeIn(n[:3]...))
		w.stop(old.name)
		w.pass(2 * time.Minute)
		require.EqualValues(t, 256, freeIn(n[:3]...), "nobody in the way any more")
	})
}

// TestTheReclaimerDies, and is taken over in its turn.
func TestTheReclaimerDies(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{Delay: 3 * time.Second}, func(t *testing.T, w *world) {
		n := four(w)
		w.pass(time.Minute)
		w.kill(name(4))
		w.eventually(15*time.Minute, "begun", func() bool { return len(n[0].Status().Reclaiming) > 0 })
		w.kill(name(1)) // which has a quarter, and a quarter pending
		w.pass(time.Hour)
		require.EqualValues(t, 128, freeIn(n[1:3]...), "no majority is left")
		w.start(1, reclaiming)
		w.pass(30 * time.Minute)
		require.EqualValues(t, 256, freeIn(w.sorted()...))
		w.requireOneRing()
	})
}

// TestWhatTheDeadDidApartIsVoid: a peer on the losing side of a partition gets space from another one there. It is taken
// over with all that the other had, and given out again; who returns keeps what nobody has. That a peer would wait longer
// itself makes no difference: the others may not know of it.
func TestWhatTheDeadDidApartIsVoid(t *testing.T) {
	for _, delay := range []time.Duration{10 * time.Minute, 2 * time.Hour} {
		inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
			n := four(w)
			guest := w.start(5, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Observer(), delay })
			w.pass(time.Minute)
			w.bus.Partition([]peer.Name{name(1), name(2), name(3)}, []peer.Name{name(4), name(5)})
			kept, lost := w.allocate(guest, "kept"), w.allocate(guest, "lost")
			w.pass(15 * time.Minute)
			require.EqualValues(t, 256, freeIn(n[:3]...), "as if nothing had been given away")
			require.True(t, guest.Status().CutOff, "it knows how long the one was away that it has its space from")
			require.NoError(t, n[1].Claim(w.within(time.Minute), "thief", lost))
			w.bus.Heal()
			w.pass(5 * time.Minute)
			require.Equal(t, []ipam.Owned{{Owner: "kept", Addrs: []netip.Prefix{kept}}}, guest.Owners())
			require.Equal(t, []ipam.Holding{{Owner: "lost", Addr: lost}}, guest.Status().Lost)
			w.pass(2 * delay)
			w.requireOneRing()
			require.EqualValues(t, 256-2, freeIn(w.sorted()...))
		})
	}
}

// TestNoGiftIsHidden: a peer that never doubts what it has gets nothing where those who may take it over do not hear of it.
func TestNoGiftIsHidden(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		four(w)
		old := w.start(5, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Observer(), -1 })
		w.pass(time.Minute)
		w.bus.Partition([]peer.Name{name(1), name(2), name(3)}, []peer.Name{name(4), name(5)})
		w.pass(time.Minute)
		_, err := old.Allocate(w.within(time.Minute), "x", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrExhausted)
		w.bus.Heal()
		w.pass(time.Minute)
		w.allocate(old, "x")
		w.pass(time.Minute) // and all hear of it
		w.bus.Partition([]peer.Name{name(1), name(2), name(3)}, []peer.Name{name(4), name(5)})
		for i := range 50 { // the others know that it has some
			w.allocate(old, fmt.Sprint(i))
		}
		w.pass(time.Hour)
		require.EqualValues(t, 256-51, freeIn(w.sorted()...), "nobody is taken over since one does not take part")
	})
}

// TestWhoHasSeenItDoesNotAgree: a peer comes back for some seconds, which only some notice. These have told it that it may
// rely on its ring, and so do not agree to what the one proposes who has missed it all the time.
func TestWhoHasSeenItDoesNotAgree(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{Gone: time.Minute}, func(t *testing.T, w *world) {
		four(w)
		w.pass(time.Minute)
		w.kill(name(4))
		w.pass(9 * time.Minute)
		w.bus.Partition([]peer.Name{name(2), name(3), name(4)})
		d := w.start(4, reclaiming)
		w.eventually(20*time.Second, "trusted", func() bool { return !d.Status().Fenced })
		w.bus.Partition([]peer.Name{name(4)})
		w.pass(4 * time.Minute)
		require.NotEmpty(t, w.nodes[name(1)].Status().Reclaiming, "proposed")
		require.EqualValues(t, 256, freeIn(w.sorted()...), "and not done")
		require.False(t, d.Status().CutOff)
		w.pass(8 * time.Minute)
		require.True(t, d.Status().CutOff)
		require.Len(t, w.nodes[name(1)].Status().Peers, 3, "done")
	})
}

// TestTheReclaimerIsOutbid: a peer takes over a dead one, is cut off before anybody hears of it, and gives the space away.
// Who takes over both does so in a later epoch than it has reached.
func TestTheReclaimerIsOutbid(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{Delay: 3 * time.Second}, func(t *testing.T, w *world) {
		start := func(i int, birth func(*ipam.Config)) *node {
			return w.start(i, func(c *ipam.Config) { birth(c); c.ReclaimAfter = 10 * time.Minute })
		}
		for i := range 8 {
			start(i+1, seed(1, 2, 3, 4, 5, 6, 7, 8))
		}
		guest := start(9, func(c *ipam.Config) { c.Birth = ipam.Observer() })
		w.pass(time.Minute)
		first, second := w.nodes[name(1)], w.nodes[name(2)]
		w.kill(name(8))
		w.eventually(15*time.Minute, "taken over", func() bool { return len(first.Status().Peers) == 7 })
		require.Len(t, second.Status().Peers, 8, "not heard")
		w.bus.Partition([]peer.Name{name(1), name(9)})
		for i := range 40 { // more than one of the two pieces has
			w.allocate(guest, fmt.Sprint(i))
		}
		w.pass(15 * time.Minute)
		require.EqualValues(t, 256, freeIn(w.sorted()[1:7]...))
		epochs := make(map[uint32]bool)
		for _, e := range second.Status().Entries {
			epochs[e.Version>>26] = true
		}
		require.Equal(t, map[uint32]bool{0: true, 2: true}, epochs)
		w.bus.Heal()
		w.pass(10 * time.Minute)
		require.Len(t, guest.Owners(), 40, "nobody else has been given these")
		w.requireOneRing()
		require.EqualValues(t, 256-40, freeIn(w.sorted()...))
	})
}

// TestReclaimedSpaceIsNotForOldPeers, which would divide it as if it were of the first epoch.
func TestReclaimedSpaceIsNotForOldPeers(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		w.kill(name(4))
		w.pass(15 * time.Minute)
		old := w.start(5, func(c *ipam.Config) { seed(1, 2, 3, 4)(c); c.ReclaimAfter = -1 })
		w.pass(time.Minute)
		for i := range 100 {
			w.allocate(old, fmt.Sprint(i))
		}
		for _, e := range n[0].Status().Entries {
			require.False(t, e.Peer == old.name && e.Version>>26 > 0, "%v", e)
		}
	})
}

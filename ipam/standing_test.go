package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// takenOver makes two peers, of which the first takes over the second, and gives out all that can be given out.
func takenOver(t *testing.T, w *world) (a *node) {
	a, _ = w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
	w.pass(5 * time.Second)
	w.kill(name(2))
	w.pass(time.Minute)
	_, err := a.TakeOver(w.within(time.Minute), name(2))
	require.NoError(t, err)
	for i := range 14 {
		w.allocate(a, fmt.Sprint(i))
	}
	return a
}

// TestClaimOfAnUnconfirmedRing: what is claimed for the first time after a restart may have been given out by somebody else
// meanwhile, as what is allocated.
func TestClaimOfAnUnconfirmedRing(t *testing.T) {
	inWorld(t, "10.32.0.0/28", gossiptest.Config{Delay: time.Second}, func(t *testing.T, w *world) {
		takenOver(t, w)
		b := w.start(2, seed(1, 2))
		w.pass(time.Millisecond)
		require.True(t, b.Status().Suspect)
		require.Equal(t, "the stored ring waits for a peer to confirm it", b.Status().NotGiving)
		err := b.Claim(w.within(10*time.Second), "new", netip.MustParsePrefix("10.32.0.9/28"))
		require.ErrorIs(t, err, ipam.ErrConflict)
		require.NoError(t, b.Claim(w.within(time.Second), "out", netip.MustParsePrefix("10.99.0.9/28")), "outside")
		w.pass(5 * time.Minute)
		w.requireOneRing()
	})
}

// TestClaimWhileSuspectOfWhatIsOurs answers at once: it is a repeated call.
func TestClaimWhileSuspectOfWhatIsOurs(t *testing.T) {
	inWorld(t, "10.32.0.0/28", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.start(1, seed(1, 2))
		b := w.start(2, seed(1, 2))
		w.pass(5 * time.Second)
		p := w.allocate(b, "x")
		w.kill(name(1))
		w.kill(name(2))
		b = w.start(2, seed(1, 2))
		require.True(t, b.Status().Suspect)
		require.NoError(t, b.Claim(w.within(time.Millisecond), "x", p))
		require.ErrorIs(t, b.Claim(w.within(time.Millisecond), "y", p), ipam.ErrConflict)
		require.NoError(t, b.Claim(w.within(10*time.Second), "z", netip.MustParsePrefix("10.32.0.12/28")), "nobody is there to say no")
	})
}

// TestClaimInDispute: an address of a disputed piece that is not in use here is asked for at the other side first.
func TestClaimInDispute(t *testing.T) {
	inWorld(t, "10.32.0.0/28", gossiptest.Config{Delay: 2 * time.Second}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(10 * time.Second)
		w.allocate(b, "x")
		w.kill(name(2))
		w.pass(time.Minute)
		_, err := a.TakeOver(w.within(time.Minute), name(2))
		require.NoError(t, err)
		for i := range 13 {
			w.allocate(a, fmt.Sprint(i))
		}
		require.NoError(t, a.FreeAll(w.within(time.Second), "12"))
		b = w.start(2, seed(1, 2))
		w.eventually(time.Minute, "dispute", func() bool { return len(b.Status().Disputes) > 0 })
		claims := make(chan error, 2)
		go func() { claims <- b.Claim(w.within(time.Minute), "taken", netip.MustParsePrefix("10.32.0.12/28")) }()
		require.ErrorIs(t, <-claims, ipam.ErrConflict)
		go func() { claims <- b.Claim(w.within(time.Minute), "free", netip.MustParsePrefix("10.32.0.14/28")) }()
		require.NoError(t, <-claims)
		w.pass(5 * time.Minute)
		require.Equal(t, "10.32.0.14/28", b.Lookup("free", netip.Prefix{})[0].String())
		require.Empty(t, b.Lookup("taken", netip.Prefix{}))
		require.NoError(t, b.FreeAll(w.within(time.Second), "x"), "the one that is in use twice")
		w.requireNoDouble()
	})
}

// TestAllocateBeforeRun: a stored ring is not relied upon before Run has begun.
func TestAllocateBeforeRun(t *testing.T) {
	inWorld(t, "10.32.0.0/28", gossiptest.Config{Delay: time.Second}, func(t *testing.T, w *world) {
		takenOver(t, w)
		early := make(chan error, 1)
		w.made = func(b *ipam.Allocator) {
			ctx := w.within(time.Minute)
			go func() { _, err := b.Allocate(ctx, "early", netip.Prefix{}); early <- err }()
			w.pass(time.Second)
		}
		b := w.start(2, seed(1, 2))
		require.Error(t, <-early, "there is nothing left")
		require.Empty(t, b.Owners())
		w.requireOneRing()
	})
}

// A lone ring needs no confirmation, but Run.
func TestAllocateBeforeRunAlone(t *testing.T) {
	inWorld(t, "10.32.0.0/28", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.allocate(w.start(1, nil), "x")
		w.kill(name(1))
		early := make(chan netip.Prefix, 1)
		w.made = func(b *ipam.Allocator) {
			go func() { p, _ := b.Allocate(t.Context(), "early", netip.Prefix{}); early <- p }()
			w.pass(time.Second)
		}
		w.start(1, nil)
		require.Equal(t, "10.32.0.2/28", (<-early).String())
	})
}

// eight starts eight peers with an eighth each, has the last give an address to "x" and die, and the first, which has taken
// it over, give it to "thief" and be cut off. Then the last comes back.
func eight(t *testing.T, w *world) (d *node, again func(*ipam.Config)) {
	again = func(c *ipam.Config) { seed(1, 2, 3, 4, 5, 6, 7, 8)(c); c.ReclaimAfter = 10 * time.Minute }
	for i := range 8 {
		w.start(i+1, again)
	}
	w.pass(time.Minute)
	p := w.allocate(w.nodes[name(8)], "x")
	w.pass(time.Minute)
	w.kill(name(8))
	w.pass(20 * time.Minute)
	require.NoError(t, w.nodes[name(1)].Claim(w.within(time.Minute), "thief", p))
	w.pass(time.Minute)
	w.bus.Partition([]peer.Name{name(1)})
	w.pass(time.Minute)
	d = w.start(8, again)
	w.pass(2 * time.Minute)
	require.False(t, d.Status().Fenced)
	require.Equal(t, []ipam.Holding{{Owner: "x", Addr: p}}, d.Status().InDoubt)
	require.Empty(t, d.Status().PendingClaims)
	return d, again
}

// TestDoubtsOutliveRestarts, in good order or not, whatever else is to be stored at the end.
func TestDoubtsOutliveRestarts(t *testing.T) {
	for _, end := range []func(*world, peer.Name){(*world).stop, (*world).kill} {
		inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
			d, again := eight(t, w)
			w.stores[d.name].Fail(errors.New("full"))
			require.NoError(t, w.nodes[name(2)].Claim(w.within(time.Minute), "news", netip.MustParsePrefix("10.32.0.40/24")))
			_, err := w.nodes[name(3)].Allocate(w.within(time.Minute), "news", netip.MustParsePrefix("10.32.0.32/27"))
			require.NoError(t, err)
			w.pass(time.Minute)
			w.stores[d.name].Fail(nil)
			end(w, d.name)
			d = w.start(8, again)
			w.pass(10 * time.Second)
			require.Len(t, d.Status().InDoubt, 1)
			require.Empty(t, d.Owners())
			w.bus.Heal()
			w.pass(time.Minute)
			require.Empty(t, d.Status().InDoubt)
			require.Len(t, d.Status().Lost, 1)
			w.kill(d.name)
			require.Len(t, w.start(8, again).Status().Lost, 1, "a restart does not make it forgotten which containers to restart")
			w.requireNoDouble()
		})
	}
}

// TestDoubtIsNobodyElsesTrouble: who has an address in doubt waits, and nobody else.
func TestDoubtIsNobodyElsesTrouble(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		d, _ := eight(t, w)
		waits := make(chan error, 1)
		ctx := w.within(5 * time.Minute)
		go func() { _, err := d.Allocate(ctx, "x", netip.Prefix{}); waits <- err }()
		w.pass(time.Second)
		for i := range 40 { // more than there is here at first
			w.allocate(d, fmt.Sprint(i))
		}
		_, err := d.Allocate(w.within(time.Minute), "x", netip.MustParsePrefix("10.32.0.0/27"))
		require.Error(t, err, "all of this is the first peer's, which is away")
		other, err := d.Allocate(w.within(time.Minute), "x", netip.MustParsePrefix("10.32.0.32/27"))
		require.NoError(t, err, "x has nothing in doubt there")
		require.Equal(t, "10.32.0.32/27", other.Masked().String())
		require.Error(t, <-waits)
	})
}

// TestFreeAgain: an address that was not stored as free is not reported as free by the second call either.
func TestFreeAgain(t *testing.T) {
	inWorld(t, "10.32.0.0/28", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, nil)
		p := w.allocate(a, "x")
		w.stores[a.name].Fail(context.DeadlineExceeded)
		for range 3 {
			require.ErrorIs(t, a.FreeAll(w.within(time.Second), "x"), ipam.ErrStore)
			require.ErrorIs(t, a.Free(w.within(time.Second), "x", p.Addr()), ipam.ErrStore)
		}
		w.stores[a.name].Fail(nil)
		require.ErrorIs(t, a.FreeAll(w.within(time.Second), "x"), ipam.ErrNotOwned)
		w.kill(a.name)
		require.Empty(t, w.start(1, nil).Owners())
	})
}

// TestReleaseInDoubt leaves nothing behind.
func TestReleaseInDoubt(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		w.allocate(n[3], "x")
		w.kill(name(4))
		w.pass(8 * time.Minute)
		d := w.start(4, reclaiming)
		require.True(t, d.Status().Fenced)
		require.NoError(t, d.Release(w.within(time.Minute)))
		require.Empty(t, d.Status().InDoubt)
		w.pass(time.Second)
		w.stop(d.name)
		saved, err := w.stores[d.name].Load()
		require.NoError(t, err)
		require.Empty(t, saved.Holdings)
	})
}

// memberOnly is a peer of the mesh without an allocator.
func (w *world) memberOnly(i int) {
	w.runs++
	w.bus.Node(gossip.Member{Name: name(i), UID: w.runs, Nickname: "router"}).Start()
}

// TestReclaimOff: Status tells what is in the way of taking over the dead.
func TestReclaimOff(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		require.Empty(t, n[0].Status().ReclaimOff)
		w.kill(name(4))
		w.pass(9 * time.Minute)
		require.Empty(t, n[0].Status().ReclaimOff)
		w.stores[name(1)].Fail(errors.New("full"))
		w.pass(10 * time.Minute)
		require.Equal(t, "02:00:00:00:00:01(host1), which is to take over 02:00:00:00:00:04(host4), does not: see there", n[1].Status().ReclaimOff)
		w.memberOnly(77)
		w.pass(time.Minute)
		require.Contains(t, n[1].Status().ReclaimOff, "02:00:00:00:00:4d takes no part")
		w.stores[name(1)].Fail(nil)
		w.kill(name(2))
		w.kill(name(3))
		w.pass(time.Minute)
		require.Equal(t, "no majority of the address space is in reach", n[0].Status().ReclaimOff)
		b := w.start(5, func(c *ipam.Config) { c.ReclaimAfter, c.Birth = -1, ipam.Observer() })
		require.Equal(t, "turned off here", b.Status().ReclaimOff)
	})
}

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
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// holdings lists what the store of p has.
func (w *world) holdings(p peer.Name) []ipam.Holding {
	saved, err := w.stores[p].Load()
	require.NoError(w.t, err)
	return saved.Holdings
}

// TestAFullDiskKeepsNothingForNobody: an anonymous allocation that fails leaves no address behind, since nobody knows which to
// free. One with a name does, for who asks again.
func TestAFullDiskKeepsNothingForNobody(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, nil)
		w.allocate(a, "x")
		w.stores[a.name].Fail(errors.New("disk full"))
		for range 50 {
			_, err := a.Allocate(w.within(time.Second), ipam.Anonymous, netip.Prefix{})
			require.ErrorIs(t, err, ipam.ErrStore)
		}
		_, err := a.Allocate(w.within(time.Second), "y", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrStore)
		w.stores[a.name].Fail(nil)
		y := w.allocate(a, "y")
		w.pass(time.Minute)
		require.Len(t, a.Owners(), 2)
		require.Len(t, w.holdings(a.name), 2)
		require.Equal(t, ipam.Holding{Owner: "y", Addr: y}, w.holdings(a.name)[1])
		require.EqualValues(t, 254, a.Status().FreeIPs)
	})
}

// heldStore commits nothing while the token is out.
type heldStore struct {
	ipam.Store
	token chan struct{}
}

func (s *heldStore) Commit(c ipam.Change) error {
	<-s.token
	defer func() { s.token <- struct{}{} }()
	return s.Store.Commit(c)
}

// TestAnonymousGivesUp while the answer is being stored: the address goes back, and to who waits for it.
func TestAnonymousGivesUp(t *testing.T) {
	inWorld(t, "10.32.0.0/30", gossiptest.Config{}, func(t *testing.T, w *world) {
		s := &heldStore{token: make(chan struct{}, 1)}
		s.token <- struct{}{}
		a := w.start(1, func(c *ipam.Config) { s.Store, c.Store = c.Store, s })
		w.allocate(a, "x")
		<-s.token
		gone, ctx := make(chan error, 1), w.within(time.Second)
		go func() { _, err := a.Allocate(ctx, ipam.Anonymous, netip.Prefix{}); gone <- err }()
		w.pass(100 * time.Millisecond)
		next, ctx := make(chan error, 1), w.within(time.Minute)
		go func() { _, err := a.Allocate(ctx, "next", netip.Prefix{}); next <- err }()
		require.ErrorIs(t, <-gone, context.DeadlineExceeded)
		s.token <- struct{}{}
		require.NoError(t, <-next, "both addresses were given out")
		w.pass(time.Minute)
		require.Len(t, w.holdings(a.name), 2)
		require.Equal(t, "next", w.holdings(a.name)[1].Owner)
	})
}

// TestARingBornLate, in a cluster that has run for longer than the delay without one, or of which a peer has waited for others
// for so long: what is given out is never in doubt.
func TestARingBornLate(t *testing.T) {
	for what, early := range map[string]int{"idle": 3, "waiting": 1} {
		inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
			start := func(i int) *node {
				return w.start(i, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Consensus(3), 10*time.Minute })
			}
			for i := range early {
				start(i + 1)
			}
			first, got := w.nodes[name(1)], make(chan netip.Prefix, 1)
			if early == 1 {
				ctx := w.within(24 * time.Hour)
				go func() { p, _ := first.Allocate(ctx, "x", netip.Prefix{}); got <- p }()
			}
			w.pass(time.Hour)
			for i := early; i < 3; i++ {
				start(i + 1)
			}
			if early == 3 {
				got <- w.allocate(first, "x")
			}
			x := <-got
			for range 60 {
				require.Equal(t, []netip.Prefix{x}, first.Lookup("x", netip.Prefix{}), what)
				for _, n := range w.sorted() {
					require.Empty(t, n.Status().InDoubt, what)
					require.False(t, early == 3 && (n.Status().Fenced || n.Status().CutOff), what)
				}
				w.pass(time.Second)
			}
			for _, n := range w.sorted() {
				require.Equal(t, "ready", n.Status().State)
			}
			w.requireOneRing()
		})
	}
}

// TestADeadRivalIsFound by who asks for it to be taken over, though it has nothing in our ring.
func TestADeadRivalIsFound(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{Delay: 2 * time.Second}, func(t *testing.T, w *world) {
		first := func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Consensus(1), 10*time.Minute }
		a := w.start(1, first)
		w.allocate(a, "x")
		rival := w.start(2, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Observer(), 10*time.Minute })
		w.pass(time.Minute)
		w.kill(a.name)
		w.pass(time.Minute)
		_, err := rival.TakeOver(w.within(time.Minute), a.name)
		require.NoError(t, err)
		a = w.start(1, first)
		w.eventually(time.Minute, "in dispute", func() bool { return len(a.Status().Disputes) > 0 })
		w.kill(rival.name)
		w.pass(2 * time.Hour)
		for _, text := range []string{rival.name.String(), "host2"} {
			who, ok, err := a.Find(text)
			require.NoError(t, err)
			require.True(t, ok, text)
			require.Equal(t, rival.name, who)
		}
		_, err = a.TakeOver(w.within(time.Minute), rival.name)
		require.NoError(t, err)
		require.Empty(t, a.Status().Disputes)
		require.EqualValues(t, 255, a.Status().FreeIPs)
		_, ok, err := a.Find(rival.name.String())
		require.NoError(t, err)
		require.False(t, ok, "not any more")
	})
}

// TestWhoDoesNotAnswerIsNamed by the peer that would take over the dead, to which the others point.
func TestWhoDoesNotAnswerIsNamed(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		hung := w.start(5, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Observer(), 10*time.Minute })
		w.pass(time.Minute)
		delete(w.nodes, hung.name) // its host is in the mesh, and its allocator does nothing
		hung.cancel()
		require.NoError(t, <-hung.done)
		defer hung.carry.Crash()
		w.kill(name(4))
		w.pass(15 * time.Minute)
		require.Contains(t, n[0].Status().ReclaimOff, fmt.Sprint(hung.name))
		require.Contains(t, n[1].Status().ReclaimOff, fmt.Sprint(n[0].name))
		require.Len(t, n[0].Status().Peers, 4)
		hung.carry.Crash()
		w.pass(5 * time.Minute)
		require.Empty(t, n[0].Status().ReclaimOff)
		require.Len(t, n[0].Status().Peers, 3)
		w.requireOneRing()
	})
}

package ipam_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
)

func TestTakeOver(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2, 3)), w.start(2, seed(1, 2, 3))
		c := w.start(3, seed(1, 2, 3))
		w.pass(time.Second)
		w.allocate(c, "x")
		_, err := a.TakeOver(w.within(time.Minute), name(3))
		require.ErrorIs(t, err, ipam.ErrReachable)
		w.kill(name(3))
		w.pass(time.Minute) // Gone
		who, ok, err := a.Find("host3")
		require.NoError(t, err)
		require.True(t, ok)
		n, err := a.TakeOver(w.within(time.Minute), who)
		require.NoError(t, err)
		require.EqualValues(t, 64, n)
		n, err = a.TakeOver(w.within(time.Minute), who)
		require.NoError(t, err)
		require.Zero(t, n)
		w.pass(time.Minute)
		w.requireOneRing()
		require.EqualValues(t, 192, a.Status().Peers[0].IPs)
		require.Len(t, b.Status().Peers, 2)
	})
}

// TestTheDeadReturns: a peer whose space was taken over comes back with its disk. It keeps what it uses, and gives up the
// rest; nothing is held twice.
func TestTheDeadReturns(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, seed(1, 2))
		b := w.start(2, seed(1, 2))
		w.pass(time.Second)
		kept := []netip.Prefix{w.allocate(b, "x"), w.allocate(b, "y")}
		w.kill(name(2))
		w.pass(time.Minute)
		_, err := a.TakeOver(w.within(time.Minute), name(2))
		require.NoError(t, err)
		w.pass(time.Minute)
		b = w.start(2, seed(1, 2))
		require.Equal(t, kept[0], w.allocate(b, "x"))
		require.Equal(t, kept[1], w.allocate(b, "y"))
		w.eventually(2*time.Minute, "settled", func() bool {
			return len(b.Status().Disputes) == 0 && len(b.Status().Peers) == 2 && b.Status().Peers[1].IPs == 2
		})
		w.allocate(b, "z")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestStoredRingIsNotTrustedAtFirst: what others did with our pieces while we were away is heard of before anything new is
// given out.
func TestStoredRingIsNotTrustedAtFirst(t *testing.T) {
	inWorld(t, "10.32.0.0/29", gossiptest.Config{Delay: time.Second}, func(t *testing.T, w *world) {
		a, _ := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(5 * time.Second)
		w.kill(name(2))
		w.pass(time.Minute)
		_, err := a.TakeOver(w.within(time.Minute), name(2))
		require.NoError(t, err)
		for i := range 6 {
			w.allocate(a, fmt.Sprint(i))
		}
		b := w.start(2, seed(1, 2))
		w.pass(time.Millisecond)
		require.True(t, b.Status().Suspect)
		_, err = b.Allocate(w.within(10*time.Second), "new", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrExhausted)
		require.False(t, b.Status().Suspect)
		w.requireOneRing()
	})
}

// TestStraysComeHomeWhenTheRivalIsGone: the peer that took our space over is gone as well, and taken over in its turn.
func TestStraysComeHomeWhenTheRivalIsGone(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2, 3)), w.start(2, seed(1, 2, 3))
		c := w.start(3, seed(1, 2, 3))
		w.pass(time.Second)
		p := w.allocate(b, "x")
		w.kill(name(2))
		w.pass(time.Minute)
		_, err := a.TakeOver(w.within(time.Minute), name(2))
		require.NoError(t, err)
		require.NoError(t, a.Claim(w.within(time.Minute), "thief", p))
		w.pass(time.Minute)
		b = w.start(2, seed(1, 2, 3))
		w.pass(time.Minute)
		require.Len(t, b.Status().Strays, 1)
		w.kill(name(1))
		w.pass(time.Minute)
		n, err := b.TakeOver(w.within(time.Minute), name(1))
		require.NoError(t, err)
		require.EqualValues(t, 128+63, n)
		require.Empty(t, b.Status().Strays)
		w.pass(time.Minute)
		w.requireOneRing()
		require.EqualValues(t, 192, c.Status().Peers[0].IPs)
	})
}

func TestStoredRingIsTrustedAfterAWhile(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.start(1, seed(1, 2))
		w.pass(time.Second)
		w.kill(name(1))
		a := w.start(1, seed(1, 2))
		begun := time.Now()
		w.allocate(a, "x") // the other peer is down: it need not be waited for
		require.LessOrEqual(t, time.Since(begun), 10*time.Second)
	})
}

// TestTheDeadReturnsToFindItsAddressInUse is the case that cannot be settled: it is reported, and each side serves on.
func TestTheDeadReturnsToFindItsAddressInUse(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(time.Second)
		p := w.allocate(b, "x")
		w.kill(name(2))
		w.pass(time.Minute)
		_, err := a.TakeOver(w.within(time.Minute), name(2))
		require.NoError(t, err)
		require.NoError(t, a.Claim(w.within(time.Minute), "thief", p))
		b = w.start(2, seed(1, 2))
		w.pass(time.Minute)
		require.Empty(t, b.Status().Disputes, "the piece is given up")
		require.Equal(t, []ipam.Stray{{Owner: "x", Addr: p.Addr(), Peer: name(1), Denied: true}}, b.Status().Strays)
		require.Equal(t, p, w.allocate(b, "x"), "what is in use is served on")
		require.NoError(t, a.FreeAll(w.within(time.Minute), "thief"))
		w.eventually(2*time.Minute, "settled after the other let go", func() bool { return len(b.Status().Strays) == 0 })
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestRestartKeepsAddresses(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, consensus(2)), w.start(2, consensus(2))
		got := make(map[string]netip.Prefix)
		for i := range 20 {
			got[fmt.Sprint("a", i)], got[fmt.Sprint("b", i)] = w.allocate(a, fmt.Sprint("a", i)), w.allocate(b, fmt.Sprint("b", i))
		}
		w.kill(name(1))
		w.kill(name(2))
		a, b = w.start(1, consensus(2)), w.start(2, consensus(2))
		for owner, p := range got {
			n := map[byte]*node{'a': a, 'b': b}[owner[0]]
			require.Equal(t, []netip.Prefix{p}, n.Lookup(owner, netip.Prefix{}))
			require.Equal(t, p, w.allocate(n, owner))
		}
		w.allocate(a, "new")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

func TestDiskLost(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, consensus(2)), w.start(2, consensus(2))
		w.allocate(a, "x")
		p := w.allocate(b, "x")
		w.pass(time.Minute)
		w.kill(name(2))
		delete(w.stores, name(2))
		b = w.start(2, func(c *ipam.Config) {
			c.Birth, c.Adopt = ipam.Consensus(2), []ipam.Holding{{Owner: "x", Addr: p}} // its container still runs
		})
		require.NotEqual(t, p, w.allocate(b, "y"))
		require.Equal(t, p, w.allocate(b, "x"))
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestLoadingChangesNothing: what a peer tells of its ring after a start is what is stored. Otherwise it would take what it told itself for a sign of a twin, after the next kill.
func TestLoadingChangesNothing(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, seed(1, 2))
		for i := range 60 {
			w.allocate(a, fmt.Sprint(i))
		}
		w.pass(time.Minute) // and it tells how much is free
		before := a.Status().Entries
		w.kill(name(1))
		require.Equal(t, before, w.start(1, seed(1, 2)).Status().Entries)
	})
}

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

// TestManyBornApart: two hosts with many containers each, and nearly all addresses the same. Once they meet, no further address is
// given out twice, and each of those that were is reported.
func TestManyBornApart(t *testing.T) {
	for _, n := range [][2]int{{30, 60}, {200, 250}, {500, 600}} {
		inWorld(t, "10.32.0.0/16", gossiptest.Config{Delay: 10 * time.Millisecond}, func(t *testing.T, w *world) {
			w.bus.Partition([]peer.Name{name(1)}, []peer.Name{name(2)})
			a, b := w.start(1, nil), w.start(2, nil)
			for i := range n[0] {
				w.allocate(a, fmt.Sprint("a", i))
			}
			for i := range n[1] {
				w.allocate(b, fmt.Sprint("b", i))
			}
			w.bus.Heal()
			w.pass(time.Second)
			for i := range 120 {
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					_, err := a.Allocate(ctx, fmt.Sprint("new", i), netip.Prefix{})
					require.NoError(t, err)
				}()
				w.pass(time.Second)
			}
			w.pass(5 * time.Minute)
			require.Len(t, a.Owners(), n[0]+120)
			require.Len(t, b.Owners(), n[1])
			strays := b.Status().Strays
			require.Len(t, strays, n[0], "those that were given out twice before they met, and no more")
			for _, x := range strays {
				require.True(t, x.Denied, "%v", x.Addr)
			}
		})
	}
}

// TestGroupsWithManyBornApart: not all who change over can do so at once, as each waits to hear whether the others do. Those who stay
// go on giving out addresses.
func TestGroupsWithManyBornApart(t *testing.T) {
	const group, many = 5, 120
	inWorld(t, "10.32.0.0/16", gossiptest.Config{Seed: 2, Delay: 20 * time.Millisecond}, func(t *testing.T, w *world) {
		var groups [2][]peer.Name
		for i := range 2 * group {
			groups[i/group] = append(groups[i/group], name(i+1))
		}
		w.bus.Partition(groups[:]...)
		for i := range 2 * group {
			w.start(i+1, func(c *ipam.Config) { c.Targets = func() int { return group - 1 } })
		}
		w.pass(time.Second)
		for _, n := range w.sorted() {
			w.allocate(n, "first")
		}
		for i, n := range w.sorted() {
			for j := range []int{10, many}[i/group] {
				w.allocate(n, fmt.Sprint(j))
			}
		}
		w.pass(time.Minute)
		before := w.twice()
		w.bus.Heal()
		w.pass(time.Second)
		for i := range 100 {
			for _, n := range w.sorted()[:group] {
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
					defer cancel()
					_, err := n.Allocate(ctx, fmt.Sprint("new", i), netip.Prefix{})
					require.NoError(t, err)
				}()
			}
			w.pass(50 * time.Millisecond)
		}
		w.pass(10 * time.Minute)
		require.Equal(t, before, w.twice())
		strays := 0
		for _, n := range w.sorted() {
			for _, x := range n.Status().Strays {
				require.True(t, x.Denied)
				strays++
			}
		}
		require.Equal(t, before, strays)
	})
}

// twice counts the addresses that are held at two places.
func (w *world) twice() (count int) {
	held := make(map[netip.Addr]bool)
	for _, n := range w.sorted() {
		for _, o := range n.Owners() {
			for _, p := range o.Addrs {
				if held[p.Addr()] {
					count++
				}
				held[p.Addr()] = true
			}
		}
	}
	return count
}

// TestGuestStays: a peer that has no space of its own in the ring of another, which is in use, does not leave it for a worse one.
func TestGuestStays(t *testing.T) {
	for what, other := range map[string]func(*ipam.Config){"vote": nil, "configured": seed(2)} {
		t.Run(what, func(t *testing.T) {
			inWorld(t, "10.32.0.0/24", gossiptest.Config{Interval: 7 * time.Second}, func(t *testing.T, w *world) {
				w.bus.Partition([]peer.Name{name(1), name(3)}, []peer.Name{name(2)})
				w.allocate(w.start(1, nil), "x")
				guest := w.start(3, joining)
				o := w.start(2, other)
				w.pass(time.Minute)
				for i := range 3 {
					w.allocate(o, fmt.Sprint(i))
				}
				w.bus.Heal()
				for range 600 {
					require.Equal(t, []peer.Name{name(1)}, guest.Status().Seeds)
					w.pass(100 * time.Millisecond)
				}
				w.allocate(guest, "y")
			})
		})
	}
}

// TestAdoptedIsKept: what was found in use when a host came back under another name is in use there, whoever has the piece, and
// whether that is in reach or not; when it is taken over the address is not given to anybody else.
func TestAdoptedIsKept(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		held := w.allocate(n[3], "web")
		w.pass(time.Minute)
		w.kill(name(4))
		h := w.start(5, func(c *ipam.Config) {
			c.Birth, c.ReclaimAfter, c.Adopt = ipam.Observer(), 10*time.Minute, []ipam.Holding{{Owner: "web", Addr: held}}
		})
		w.pass(time.Minute)
		require.Equal(t, []netip.Prefix{held}, h.Lookup("web", netip.Prefix{}))
		require.Equal(t, []ipam.Stray{{Owner: "web", Addr: held.Addr(), Peer: name(4)}}, h.Status().Strays)
		for i := range 200 { // more than the others have: they wait for the piece that is taken over
			go func() { _, _ = n[0].Allocate(w.within(20*time.Minute), fmt.Sprint(i), netip.Prefix{}) }()
		}
		w.pass(21 * time.Minute)
		require.Empty(t, h.Status().Strays, "it was granted by who took the piece over")
		require.ErrorIs(t, n[0].Claim(w.within(time.Minute), "thief", held), ipam.ErrConflict)
		w.requireOneRing()
	})
}

// TestWhyNothingIsGiven: a call that ends without an address says what it waited for.
func TestWhyNothingIsGiven(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		w.start(1, seed(1, 2))
		w.start(2, seed(1, 2))
		w.pass(time.Minute)
		w.kill(name(1))
		w.kill(name(2))
		_, err := w.start(1, seed(1, 2)).Allocate(w.within(time.Second), "x", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrNotGiving)
		require.ErrorContains(t, err, "the stored ring waits for a peer to confirm it")
	})
}

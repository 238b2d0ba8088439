package ipam_test

import (
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

// What becomes of those who are left when most of the address space is not in reach. All take the dead over after ten
// minutes.

func soon(tweak func(*ipam.Config)) func(*ipam.Config) {
	return func(c *ipam.Config) { tweak(c); c.ReclaimAfter = 10 * time.Minute }
}

// joining is a peer that was told of one other.
func joining(c *ipam.Config) { c.Targets = func() int { return 1 } }

// TestReplacedWithoutRelease: beside one host, another is replaced again and again, without a word. It does not take the
// majority with it, and so its space comes back.
func TestReplacedWithoutRelease(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, soon(func(*ipam.Config) {}))
		p := w.allocate(a, "x")
		for i := range 8 {
			n := w.start(i+2, soon(joining))
			w.allocate(n, "y")
			w.pass(10 * time.Second)
			w.kill(n.name)
			w.pass(time.Minute)
		}
		w.pass(20 * time.Minute)
		require.False(t, a.Status().CutOff)
		require.EqualValues(t, 255, a.Status().FreeIPs)
		w.allocate(w.start(20, soon(joining)), "z")
		w.kill(a.name)
		a = w.start(1, soon(func(*ipam.Config) {}))
		require.Equal(t, p, w.allocate(a, "x"))
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestTheOtherOfTwo dies, with the first address, and so with the majority. Who is left uses its own space for ever, over
// restarts of any length, and an operator gets it the rest.
func TestTheOtherOfTwo(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		two := soon(seed(1, 2))
		w.start(1, two)
		b := w.start(2, two)
		w.pass(time.Minute)
		p := w.allocate(b, "x")
		w.kill(name(1))
		w.pass(time.Hour)
		require.True(t, b.Status().CutOff)
		held := []string{"x"}
		for i, down := range []time.Duration{0, time.Second, time.Hour} {
			w.kill(b.name)
			w.pass(down)
			b = w.start(2, two)
			require.Equal(t, p, b.Lookup("x", netip.Prefix{})[0], "at once: it was cut off, and is")
			held = append(held, fmt.Sprint(i))
			w.allocate(b, held[i+1])
			require.Len(t, b.Owners(), len(held))
			require.True(t, b.Status().CutOff)
		}
		n, err := b.TakeOver(w.within(time.Minute), name(1))
		require.NoError(t, err)
		require.EqualValues(t, 128, n)
		w.pass(time.Minute)
		require.Equal(t, "ready", b.Status().State)
		require.Len(t, b.Owners(), len(held))
		w.allocate(w.start(3, soon(joining)), "y")
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestTheOtherOfTwoDiesInTheNight: both were down for long, and one comes back.
func TestTheOtherOfTwoDiesInTheNight(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		two := soon(seed(1, 2))
		w.start(1, two)
		p := w.allocate(w.start(2, two), "x")
		w.pass(time.Minute)
		w.kill(name(1))
		w.kill(name(2))
		w.pass(time.Hour)
		b := w.start(2, two)
		require.True(t, b.Status().Fenced)
		require.Empty(t, b.Owners())
		got, err := b.Allocate(w.within(2*time.Minute), "x", netip.Prefix{})
		require.NoError(t, err, "a majority was waited for long enough")
		require.Equal(t, p, got)
		require.True(t, b.Status().CutOff)
		a := w.start(1, two)
		w.pass(time.Minute)
		require.Equal(t, "ready", a.Status().State)
		require.Equal(t, "ready", b.Status().State)
		require.Equal(t, []ipam.Owned{{Owner: "x", Addrs: []netip.Prefix{p}}}, b.Owners())
		require.Empty(t, b.Status().Lost)
		w.requireOneRing()
	})
}

// TestTheOneLeftMeetsAMajority after all: what that has given out meanwhile is lost, and nothing else.
func TestTheOneLeftMeetsAMajority(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		kept, lost := w.allocate(n[3], "kept"), w.allocate(n[3], "lost")
		w.pass(time.Minute)
		w.kill(name(4))
		w.pass(20 * time.Minute)
		require.NoError(t, n[0].Claim(w.within(time.Minute), "thief", lost))
		w.bus.Partition([]peer.Name{name(4)})
		d := w.start(4, reclaiming)
		w.pass(5 * time.Minute)
		require.Len(t, d.Owners(), 2, "cut off, it cannot know")
		require.True(t, d.Status().CutOff)
		w.kill(d.name)
		d = w.start(4, reclaiming)
		w.pass(time.Minute)
		require.Len(t, d.Owners(), 2)
		w.bus.Heal()
		w.pass(time.Minute)
		require.Equal(t, []ipam.Owned{{Owner: "kept", Addrs: []netip.Prefix{kept}}}, d.Owners())
		require.Equal(t, []ipam.Holding{{Owner: "lost", Addr: lost}}, d.Status().Lost)
		w.requireOneRing()
	})
}

// TestTakeOverIsAlwaysAWayOut: whatever state those are in who are left, an operator who names the dead gets them going.
func TestTakeOverIsAlwaysAWayOut(t *testing.T) {
	for what, prepare := range map[string]func(w *world){
		"soon":    func(w *world) { w.pass(time.Minute) },
		"cut off": func(w *world) { w.pass(time.Hour) },
		"cut off, restarted": func(w *world) {
			w.pass(time.Hour)
			w.kill(name(4))
			w.start(4, reclaiming)
		},
		"fenced": func(w *world) {
			w.kill(name(4))
			w.pass(time.Hour)
			w.start(4, reclaiming)
			w.pass(time.Second)
			require.True(w.t, w.nodes[name(4)].Status().Fenced)
		},
		"fenced, and then cut off": func(w *world) {
			w.kill(name(4))
			w.pass(time.Hour)
			w.start(4, reclaiming)
			w.pass(time.Hour)
		},
		"fenced among others, of whom one goes": func(w *world) {
			w.kill(name(4))
			w.pass(time.Hour)
			w.start(1, reclaiming)
			w.start(2, reclaiming)
			w.start(4, reclaiming)
			w.pass(3 * time.Second)
			w.kill(name(1))
			w.kill(name(2))
			w.pass(time.Minute)
		},
		"with a lock of the dead": func(w *world) {
			w.start(1, reclaiming)
			w.start(2, reclaiming)
			w.pass(time.Minute)
			w.eventually(30*time.Minute, "begun", func() bool { return len(w.nodes[name(1)].Status().Reclaiming) > 0 })
			w.kill(name(1))
			w.kill(name(2))
			w.pass(time.Minute)
		},
	} {
		t.Run(what, func(t *testing.T) {
			inWorld(t, "10.32.0.0/24", gossiptest.Config{Delay: 2 * time.Second}, func(t *testing.T, w *world) {
				n := four(w)
				p := w.allocate(n[3], "x")
				w.pass(time.Minute)
				for i := range 3 {
					w.kill(name(i + 1))
				}
				prepare(w)
				d := w.nodes[name(4)]
				for i := range 3 {
					_, err := d.TakeOver(w.within(time.Minute), name(i+1))
					require.NoError(t, err)
				}
				w.pass(time.Minute)
				s := d.Status()
				require.Equal(t, "ready", s.State)
				require.EqualValues(t, 255, s.FreeIPs)
				require.Equal(t, []ipam.Owned{{Owner: "x", Addrs: []netip.Prefix{p}}}, d.Owners())
				w.allocate(w.start(9, soon(joining)), "y")
				w.pass(time.Minute)
				w.requireOneRing()
			})
		})
	}
}

// TestMajorityIsKeptByThrift: of many who ask while others are out of reach, none gets so much that the rest could not
// spare it; all of the range is given out all the same.
func TestMajorityIsKeptByThrift(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		n := four(w)
		w.kill(name(4))
		w.pass(time.Minute)
		guest := w.start(5, soon(joining))
		for i := range 180 { // of the 192 that are in reach
			w.allocate(guest, fmt.Sprint(i))
		}
		w.pass(12 * time.Minute)
		require.EqualValues(t, 256-180, freeIn(w.sorted()...), "the guest takes part in taking over the dead")
		require.Empty(t, n[0].Status().ReclaimOff)
		w.requireOneRing()
	})
}

// TestTakeOverWhileTheStoreFails: what keeps a takeover from being stored does not keep it from being done later.
func TestTakeOverWhileTheStoreFails(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, _ := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(time.Minute)
		w.kill(name(2))
		w.pass(time.Minute)
		w.stores[a.name].Fail(errors.New("full"))
		_, err := a.TakeOver(w.within(time.Minute), name(2))
		require.ErrorIs(t, err, ipam.ErrStore)
		w.stores[a.name].Fail(nil)
		_, err = a.TakeOver(w.within(time.Minute), name(2))
		require.NoError(t, err)
		w.kill(a.name)
		require.EqualValues(t, 256, w.start(1, seed(1, 2)).Status().FreeIPs)
	})
}

// sure reports whether a peer says that it relies on what it has.
func sure(n *node) bool {
	s := n.Status()
	return !s.CutOff && !s.Fenced && len(s.InDoubt) == 0
}

// TestDisputedSpaceMakesNoMajority: a peer that was taken over while it was cut off meets one of the others, who says so. It
// does not count what it has lost when it looks for a majority to confirm it.
func TestDisputedSpaceMakesNoMajority(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		two := soon(seed(1, 2))
		w.start(1, two)
		b, guest := w.start(2, two), w.start(3, soon(func(c *ipam.Config) { c.Birth = ipam.Observer() }))
		w.pass(time.Minute)
		p := w.allocate(b, "x")
		w.bus.Partition([]peer.Name{name(2)})
		w.pass(20 * time.Minute)
		require.True(t, b.Status().CutOff)
		require.NoError(t, guest.Claim(w.within(time.Minute), "thief", p))
		_, err := guest.Allocate(w.within(time.Minute), "y", netip.MustParsePrefix("10.32.0.0/25"))
		require.NoError(t, err)
		w.kill(b.name)
		w.bus.Partition([]peer.Name{name(1)})
		b = w.start(2, two)
		w.allocate(b, "new") // of what the guest has to spare, which makes more than half with what is lost
		w.bus.Partition([]peer.Name{name(1)}, []peer.Name{name(2)})
		for range 30 {
			w.pass(time.Second)
			require.Empty(t, w.double(sure, nil))
		}
		w.bus.Heal()
		w.pass(2 * time.Minute)
		require.True(t, sure(b))
		require.Contains(t, b.Status().Lost, ipam.Holding{Owner: "x", Addr: p})
		w.requireOneRing()
	})
}

// TestWhoDiedBeforeTheBirth has voted, and comes back to a ring that has space of its own. It may have been taken over, even
// if those whom it meets have not heard how that ended.
func TestWhoDiedBeforeTheBirth(t *testing.T) {
	for _, keepsDisk := range []bool{true, false} {
		inWorld(t, "10.32.0.0/24", gossiptest.Config{Delay: 2 * time.Second}, func(t *testing.T, w *world) {
			born := soon(consensus(4))
			w.bus.Partition([]peer.Name{name(1), name(4)}, []peer.Name{name(2), name(3)})
			for i := range 4 {
				w.start(i+1, born)
			}
			require.Error(t, w.nodes[name(3)].Prime(w.within(30*time.Second)))
			w.kill(name(3))
			w.bus.Heal()
			first := w.nodes[name(1)]
			w.allocate(first, "x")
			w.pass(time.Minute)
			require.Len(t, first.Status().Peers, 4)
			w.eventually(15*time.Minute, "taken over", func() bool { return len(first.Status().Peers) == 3 })
			w.bus.Partition([]peer.Name{name(1)})
			require.Len(t, w.nodes[name(2)].Status().Peers, 4, "not heard")
			if !keepsDisk {
				delete(w.stores, name(3))
			}
			d := w.start(3, born)
			_, err := d.Allocate(w.within(4*time.Minute), "y", netip.Prefix{})
			require.Error(t, err)
			require.True(t, d.Status().Fenced)
			w.bus.Heal()
			w.allocate(d, "y")
			w.pass(time.Minute)
			w.requireOneRing()
		})
	}
}

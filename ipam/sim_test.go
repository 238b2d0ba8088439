package ipam_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

var (
	simSeeds = flag.Int("seeds", 25, "how many simulations TestSimulation runs")
	simFirst = flag.Uint64("seed", 1, "the first of them")
	simPeers = flag.Int("peers", 7, "at most so many peers in each; at least 3")
)

// TestSimulation plays clusters with loss, repetition, partitions, crashes, restarts with and without disk, claims, and
// takeovers. Answers hold over restarts; at no time is an address held twice, if the peers were told how many they are;
// and when all is healed they have one ring, in which every address is in use or free.
func TestSimulation(t *testing.T) {
	events := new(tally)
	for i := range *simSeeds {
		seed := *simFirst + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("replay: go test ./ipam -run TestSimulation -args -seeds=1 -seed=%d -peers=%d", seed, *simPeers)
				}
			})
			simulate(t, seed, events)
		})
	}
	t.Logf("%v", events.times)
	if *simSeeds >= 25 { // enough for the rarer things to happen
		require.NotZero(t, events.times["took over the address space of a dead peer"])
		require.NotZero(t, events.times["a majority of the address space has confirmed the ring"])
	}
}

// sim is one simulation.
type sim struct {
	*world
	t      *testing.T
	r      *rand.Rand
	size   int
	owners int
	split  bool
	events *tally
	lostBy map[int]bool  // taken over: may come back only without its disk
	delay  time.Duration // after which dead peers are taken over; 0: never in this simulation
	downAt map[int]time.Time
	until  map[int]time.Time // dead at least until then
	buried map[int]bool      // dead for ever
	cutAt  time.Time         // since when there is a partition
	apart  bool              // no number of peers is given, so rings may be born apart; until they meet, addresses may be held twice

	mu       sync.Mutex
	promised map[netip.Addr]promise // what was answered, and not given back
}

// promise is an answer that owner has an address, at a peer.
type promise struct {
	owner string
	at    peer.Name
	doubt bool // at has come back after its death, and does not know yet what it has kept
}

// promise notes an answer, for an address that nobody else may have been promised.
func (s *sim) promise(n *node, owner string, p netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := promise{owner: owner, at: n.name}
	if old, twice := s.promised[p.Addr()]; twice && old != made && !s.apart && !old.doubt && !s.dead(old.at) {
		s.t.Errorf("%v was promised to %v and to %v", p, old, made)
	}
	s.promised[p.Addr()] = made
}

// dead reports whether a peer is down for so long that its promises end.
func (s *sim) dead(p peer.Name) bool {
	at, down := s.downAt[int(p-name(0))]
	return s.delay > 0 && down && time.Since(at) >= s.delay
}

// forget drops the promises for which drop says so.
func (s *sim) forget(drop func(promise) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.promised, func(_ netip.Addr, made promise) bool { return drop(made) })
}

// requirePromisesKept looks whether all peers that are up know what they promised.
func (s *sim) requirePromisesKept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, made := range s.promised {
		if n := s.nodes[made.at]; n != nil {
			st, list := n.Status(), n.Owners()
			if st.Fenced || len(st.PendingClaims) > 0 { // what was promised before it came back may be in doubt
				continue
			}
			if slices.ContainsFunc(st.Lost, func(h ipam.Holding) bool { return h.Addr.Addr() == a && h.Owner == made.owner }) {
				delete(s.promised, a)
				continue
			}
			i := slices.IndexFunc(list, func(o ipam.Owned) bool { return o.Owner == made.owner })
			require.GreaterOrEqual(s.t, i, 0, "%v has forgotten %s with %v", made.at, made.owner, a)
			require.Equal(s.t, a, list[i].Addrs[0].Addr())
			made.doubt = false
			s.promised[a] = made
		}
	}
}

func simulate(t *testing.T, seed uint64, events *tally) {
	r := rand.New(rand.NewPCG(seed, 0))
	c := gossiptest.Config{Seed: seed, Loss: r.Float64() * 0.2, Duplicate: r.Float64() * 0.1, Delay: time.Duration(1+r.IntN(200)) * time.Millisecond}
	apart, reclaims := r.IntN(3) == 0, r.IntN(2) == 0
	universe := fmt.Sprintf("10.32.0.0/%d", 24+r.IntN(4))
	if reclaims {
		universe = fmt.Sprintf("10.32.0.0/%d", 26+r.IntN(3)) // so that what the dead had is given out
	}
	if r.IntN(3) == 0 {
		p := netip.MustParsePrefix(universe)
		universe = fmt.Sprintf("fd00:1:2:3:4::/%d", 96+p.Bits())
	}
	inWorld(t, universe, c, func(t *testing.T, w *world) {
		s := &sim{
			world: w, t: t, r: r, events: events, size: 3 + r.IntN(max(*simPeers-2, 1)),
			lostBy: make(map[int]bool), promised: make(map[netip.Addr]promise), apart: apart,
			downAt: make(map[int]time.Time), until: make(map[int]time.Time), buried: make(map[int]bool),
		}
		if !apart && reclaims {
			s.delay = 4 * time.Minute
		}
		if r.IntN(2) == 0 {
			s.partition()
		}
		for i := range s.size {
			if r.IntN(3) > 0 {
				s.up(i + 1)
			}
		}
		for range 60 + r.IntN(60) {
			s.step()
			w.pass(time.Duration(r.IntN(5000)) * time.Millisecond)
			s.age()
			if !s.apart {
				w.requireNoDouble()
			}
			s.requirePromisesKept()
		}
		s.heal()
	})
}

// up starts a peer, with its own draws so that the same seed is the same run.
func (s *sim) up(i int) {
	delete(s.downAt, i)
	s.start(i, func(c *ipam.Config) {
		c.ReclaimAfter, c.Log = s.delay, slog.New(s.events)
		if s.apart {
			c.Targets = func() int { return i % 3 }
		} else {
			c.Birth = ipam.Consensus(s.size)
		}
		c.Rand = rand.New(rand.NewPCG(s.r.Uint64(), 0))
	})
}

func (s *sim) step() {
	i := 1 + s.r.IntN(s.size)
	n := s.nodes[name(i)]
	switch x := s.r.IntN(100); {
	case n == nil:
		if x < 50 && !s.buried[i] && time.Now().After(s.until[i]) {
			s.revive(i)
		}
	case x < 55:
		s.allocateSome(n)
	case x < 70:
		s.freeSome(n)
	case x < 80:
		s.claimOne(n)
	case x < 88:
		s.bury(i, n)
		s.downAt[i] = time.Now()
		s.kill(n.name)
	case x < 93:
		s.partition()
	case x < 96:
		s.bus.Heal()
		s.split = false
	default:
		s.takeOverOne(n)
	}
}

// bury decides about a peer that is about to be killed whether it stays dead for longer, or for ever: then it must not
// take away the majority.
func (s *sim) bury(i int, n *node) {
	if s.delay == 0 {
		return
	}
	switch x := s.r.IntN(100); {
	case x < 40:
		s.until[i] = time.Now().Add(s.delay + time.Duration(s.r.IntN(120)-20)*time.Second)
	case x < 60 && len(s.buried) == 0 && len(n.Status().Entries) > 0:
		var own, all uint64
		for _, p := range n.Status().Peers {
			if all += p.IPs; p.Peer == n.name {
				own = p.IPs
			}
		}
		s.buried[i] = own*5 < all*2
		if !s.buried[i] {
			delete(s.buried, i)
		}
	}
}

// age lets more time pass now and then where dead peers are taken over, and ends partitions before the delay does.
func (s *sim) age() {
	if s.delay == 0 {
		return
	}
	if s.split && time.Since(s.cutAt) > s.delay/4 {
		s.bus.Heal()
		s.split = false
		s.pass(15 * time.Second)
	}
	if s.r.IntN(10) == 0 {
		s.pass(time.Duration(s.r.IntN(50)) * time.Second)
	}
}

// revive starts a peer that is down.
func (s *sim) revive(i int) {
	if s.lostBy[i] {
		delete(s.stores, name(i))
		delete(s.lostBy, i)
		s.forget(func(made promise) bool { return made.at == name(i) })
	}
	if s.dead(name(i)) {
		s.mu.Lock()
		for a, made := range s.promised {
			made.doubt = made.doubt || made.at == name(i)
			s.promised[a] = made
		}
		s.mu.Unlock()
	}
	s.up(i)
}

// try calls f beside the simulation, for a while.
func (s *sim) try(f func(ctx context.Context)) {
	ctx := s.within(time.Duration(1+s.r.IntN(20)) * time.Second)
	go f(ctx)
}

func (s *sim) allocateSome(n *node) {
	for range 1 + s.r.IntN(8) {
		s.owners++
		owner := fmt.Sprintf("o%d", s.owners)
		s.try(func(ctx context.Context) {
			p, err := n.Allocate(ctx, owner, netip.Prefix{})
			if s.check(err); err == nil {
				s.promise(n, owner, p)
			}
		})
	}
}

func (s *sim) freeSome(n *node) {
	for _, o := range n.Owners() {
		if s.r.IntN(3) == 0 {
			s.forget(func(made promise) bool { return made.owner == o.Owner })
			s.try(func(ctx context.Context) { s.check(n.FreeAll(ctx, o.Owner)) })
		}
	}
}

func (s *sim) claimOne(n *node) {
	s.owners++
	owner := fmt.Sprintf("c%d", s.owners)
	raw := s.universe.Addr().AsSlice()
	raw[len(raw)-1] = byte(s.r.IntN(s.addresses()))
	a, _ := netip.AddrFromSlice(raw)
	p := netip.PrefixFrom(a, s.universe.Bits())
	s.try(func(ctx context.Context) {
		err := n.Claim(ctx, owner, p)
		if s.check(err); err == nil {
			s.promise(n, owner, p)
		}
	})
}

// addresses returns the size of the universe.
func (s *sim) addresses() int { return 1 << (s.universe.Addr().BitLen() - s.universe.Bits()) }

func (s *sim) partition() {
	var groups [2][]peer.Name
	for i := range s.size {
		g := s.r.IntN(2)
		groups[g] = append(groups[g], name(i+1))
	}
	s.bus.Partition(groups[:]...)
	if !s.split {
		s.cutAt = time.Now()
	}
	s.split = true
}

// takeOverOne takes over a peer that is down for long, after everybody who is up has met. Who takes over is settled: one
// at a time.
func (s *sim) takeOverOne(n *node) {
	for i := range s.size {
		gone := name(i + 1)
		if s.nodes[gone] != nil || s.split || s.lostBy[i+1] {
			continue
		}
		s.pass(2 * time.Minute) // forgotten by the mesh, and what it told has spread
		if _, err := n.TakeOver(s.within(time.Minute), gone); err == nil {
			s.lostBy[i+1] = true
			s.forget(func(made promise) bool { return made.at == gone })
		} else {
			s.check(err)
		}
		s.pass(2 * time.Minute)
		return
	}
}

// check accepts the errors that may come of a call in such times.
func (s *sim) check(err error) {
	for _, ok := range []error{
		nil, context.DeadlineExceeded, context.Canceled, ipam.ErrConflict, ipam.ErrClosed, ipam.ErrStore, ipam.ErrNotOwned, ipam.ErrReachable,
	} {
		if errors.Is(err, ok) {
			return
		}
	}
	s.t.Errorf("unexpected: %v", err)
}

// settleDoubles does what an operator would about addresses that were given out twice before rings met.
func (s *sim) settleDoubles() {
	for _, n := range s.sorted() {
		for _, x := range n.Status().Strays {
			if s.apart && x.Denied {
				s.forget(func(made promise) bool { return made.owner == x.Owner })
				s.check(n.FreeAll(s.within(time.Second), x.Owner))
			}
		}
	}
}

// heal ends all trouble and looks at what is left.
func (s *sim) heal() {
	s.bus.Heal()
	for i := range s.size {
		if s.nodes[name(i+1)] == nil && !s.buried[i+1] {
			s.revive(i + 1)
		}
	}
	s.try(func(ctx context.Context) { s.check(s.sorted()[0].Prime(ctx)) })
	whole := func() bool {
		sum := 0
		for _, n := range s.sorted() {
			st := n.Status()
			sum += int(st.FreeIPs) + st.ActiveIPs
			if len(st.Disputes) > 0 || len(st.Faults) > 0 || st.Fenced || len(st.Reclaiming) > 0 || len(st.Strays) > 0 {
				return false
			}
		}
		return sum == s.addresses()
	}
	deadline := time.Now().Add(10 * time.Minute)
	for !whole() && time.Now().Before(deadline) {
		s.pass(time.Second)
		s.settleDoubles()
	}
	if !whole() {
		for _, n := range s.sorted() {
			s.t.Logf("%v: %+v", n.name, n.Status())
		}
		require.Fail(s.t, "not healed after ten minutes")
	}
	s.pass(3 * time.Minute)
	s.requireOneRing()
}

package ipam_test

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

var (
	simSeeds = flag.Int("seeds", 25, "how many simulations TestSimulation runs")
	simTrace = flag.Bool("trace", false, "tell what happens in them")
	simFirst = flag.Uint64("seed", 1, "the first of them")
)

// TestSimulation plays clusters of 3 to 20 peers with loss, repetition, partitions, crashes, restarts with and without
// disk, in good order or not, claims, takeovers of peers that return, and dead peers that are reclaimed and return. Answers
// hold over restarts; no address is ever held twice, but where simexcuse_test.go has the reason; and when all is healed the
// peers have one ring, in which every address is in use, or is given out to who asks.
func TestSimulation(t *testing.T) {
	events := new(tally)
	for i := range *simSeeds {
		seed := *simFirst + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("replay: go test ./ipam -run '^TestSimulation$' -args -seeds=1 -seed=%d", seed)
				}
			})
			require.Empty(t, simulate(t, drawPlan(seed), events))
		})
	}
	t.Logf("%v", events.times)
	if *simSeeds >= 25 { // enough for the rarer things to happen
		require.NotZero(t, events.times["took over the address space of a dead peer"])
		require.NotZero(t, events.times["a majority of the address space has confirmed the ring"])
		require.NotZero(t, events.times["a disk is lost"])
	}
}

// plan is what a simulation is like.
type plan struct {
	seed     uint64
	net      gossiptest.Config
	cidr     string
	size     int
	birth    string                          // see below
	delay    time.Duration                   // after which dead peers are taken over; less than 0: never
	careless bool                            // the operator takes over peers while others are down, who may know better
	weaken   func(*ipam.Allocator)           // what is different from a plain run; nil: nothing
	store    func(*ipam.MemStore) ipam.Store // what is used in place of the world's; nil: that
}

// How rings come about in a simulation.
const (
	counted = "counted" // the peers are told how many they are
	grown   = "grown"   // they are not, and all start within reach of each other
	apart   = "apart"   // they are not, and rings may be born apart: until these meet, addresses may be held twice
)

// plain draws a plan without reclaiming.
func plain(seed uint64, r *rand.Rand) plan {
	p := plan{
		seed: seed,
		net: gossiptest.Config{
			Seed: seed, Loss: r.Float64() * 0.2, Duplicate: r.Float64() * 0.1, Interval: 10 * time.Second,
			Delay: time.Duration(1+r.IntN(200)) * time.Millisecond,
		},
		cidr:  fmt.Sprintf("10.32.0.0/%d", 24+r.IntN(5)),
		size:  3 + r.IntN(5),
		birth: counted,
		delay: -1,
	}
	if r.IntN(12) == 0 {
		p.size = 3 + r.IntN(18)
	}
	if r.IntN(3) == 0 {
		four := netip.MustParsePrefix(p.cidr)
		p.cidr = fmt.Sprintf("fd00:1:2:3:4::/%d", 96+four.Bits())
	}
	return p
}

// drawPlan draws any plan.
func drawPlan(seed uint64) plan {
	r := rand.New(rand.NewPCG(seed, 1))
	p := plain(seed, r)
	p.birth = []string{counted, counted, grown, apart}[r.IntN(4)]
	if p.birth != apart && r.IntN(2) == 0 {
		if p.delay = 8 * time.Minute; r.IntN(2) == 0 {
			p = reclaimed(p)
		}
	}
	p.careless = r.IntN(5) == 0
	return p.vary(rand.New(rand.NewPCG(seed, 4)))
}

// vary makes some plans larger in one way or another.
func (p plan) vary(r *rand.Rand) plan {
	harsh := p.delay == harshDelay
	if r.IntN(4) == 0 {
		bits := 64 + 8*r.IntN(5)
		p.cidr = netip.PrefixFrom(netip.MustParseAddr("fd00:1:2:3::"), bits).String()
	}
	switch more := r.IntN(5) == 0; {
	case harsh:
		p.size = 3 + min(r.IntN(6), r.IntN(6))
	case more:
		p.size = max(p.size, 8+r.IntN(3))
	}
	return p
}

// simulate plays p and returns the first thing that is wrong; empty if nothing is.
func simulate(t *testing.T, p plan, events *tally) (wrong string) {
	inWorld(t, p.cidr, p.net, func(t *testing.T, w *world) {
		s := &sim{
			plan: p, world: w, begun: time.Now(), r: rand.New(rand.NewPCG(p.seed, 0)), events: events,
			ambushes: rand.New(rand.NewPCG(p.seed, 2)), losses: rand.New(rand.NewPCG(p.seed, 5)), bare: make(map[peer.Name]bool), wiped: make(map[int]bool), fallen: make(map[int]bool),
			downAt: make(map[int]time.Time), until: make(map[int]time.Time), buried: make(map[int]bool),
			promised: make(map[netip.Addr]promise), excuses: newExcuses(),
		}
		w.made = p.weaken
		s.begin()
		for range 60 + s.r.IntN(60) {
			if s.wrong != "" {
				break
			}
			s.step()
			s.wait(time.Duration(s.r.IntN(5000)) * time.Millisecond)
			s.age()
		}
		if s.wrong == "" {
			s.heal()
		}
		wrong = s.wrong
	})
	return wrong
}

// begin starts the peers.
func (s *sim) begin() {
	if s.birth == grown {
		s.grow()
		return
	}
	if s.r.IntN(2) == 0 {
		s.partition()
	}
	for i := range s.size {
		if s.r.IntN(3) > 0 {
			s.up(i + 1)
		}
	}
}

// grow starts the peers in any order and pace, while all reach each other and ask for addresses at once.
func (s *sim) grow() {
	pace := s.r.IntN(4000)
	for _, i := range s.r.Perm(s.size) {
		s.up(i + 1)
		s.allocateSome(s.nodes[name(i+1)])
		s.wait(time.Duration(s.r.IntN(pace+1)) * time.Millisecond)
	}
	s.wait(2 * time.Minute)
}

// up starts a peer, with its own draws so that the same seed is the same run.
func (s *sim) up(i int) {
	delete(s.downAt, i)
	delete(s.fallen, i)
	s.trace("%v starts", name(i))
	s.start(i, func(c *ipam.Config) {
		c.ReclaimAfter = s.delay
		c.Log = slog.New(ear(func(r slog.Record) { s.hear(i, r) }))
		c.Rand = rand.New(rand.NewPCG(s.r.Uint64(), 0))
		if s.birth == counted {
			c.Birth = ipam.Consensus(s.size)
		} else {
			c.Targets = func() int { return i % 3 }
		}
		if s.store != nil {
			c.Store = s.store(s.stores[name(i)])
		}
	})
	if s.r.IntN(3) == 0 { // before it knows what has happened meanwhile
		s.claimOne(s.nodes[name(i)])
		s.allocateSome(s.nodes[name(i)])
	}
}

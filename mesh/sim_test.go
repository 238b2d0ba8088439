package mesh

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

// simulation is a mesh of routers on a network in memory.
type simulation struct {
	t   *testing.T
	net *meshtest.Network
	mu  sync.Mutex // over rs, which others look at
	rs  []*running
	uid map[peer.Name]peer.UID

	configure func(i int, c *Config) // changes what start makes
	random    *rand.Rand
}

// start starts peer i, which joins through an earlier one, or starts it again.
func (s *simulation) start(i int) {
	c := inMemory(s.net, i)
	if i > 1 {
		c.Targets = []string{host(1 + (i-2)/2).String()}
	}
	if s.configure != nil {
		s.configure(i, &c)
	}
	r := start(s.t, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i <= len(s.rs) {
		s.rs[i-1] = r
	} else {
		s.rs = append(s.rs, r)
	}
	s.uid[name(i)] = r.Self().UID
}

func newSimulation(t *testing.T) *simulation {
	return &simulation{t: t, net: meshtest.NewNetwork(time.Millisecond), uid: map[peer.Name]peer.UID{}}
}

func (s *simulation) stop() {
	for _, r := range s.rs {
		r.stop()
	}
}

// disagreement says where peers do not know who is there; empty if all do.
func (s *simulation) disagreement() string {
	var versions map[peer.Name]uint64
	for _, r := range s.rs {
		members := r.Members()
		if len(members) != len(s.rs) {
			return fmt.Sprintf("%s knows %d", r.Self().Name, len(members))
		}
		for _, m := range members {
			if m.UID != s.uid[m.Name] {
				return fmt.Sprintf("%s knows an old %s", r.Self().Name, m.Name)
			}
		}
		mine := map[peer.Name]uint64{}
		for _, e := range r.view.Load().graph.entries {
			mine[e.name] = e.version
		}
		if versions == nil {
			versions = mine
		}
		for n, v := range mine {
			if versions[n] != v {
				return fmt.Sprintf("%s has version %d of %s, another %d", r.Self().Name, v, n, versions[n])
			}
		}
	}
	return ""
}

// seeds returns which seeds to run: a few, or as many as OVERWEAVE_SEEDS says.
func seeds(few int) (list []uint64) {
	n, err := strconv.Atoi(os.Getenv("OVERWEAVE_SEEDS"))
	if err != nil {
		n = few
	}
	for i := range n {
		list = append(list, uint64(i))
	}
	return list
}

// agree waits until all agree on who is there and how they are connected.
func (s *simulation) agree(within time.Duration) {
	s.t.Helper()
	start := time.Now()
	for s.disagreement() != "" && time.Since(start) < within {
		time.Sleep(500 * time.Millisecond)
	}
	require.Empty(s.t, s.disagreement(), "after %s", within)
}

// TestSimulation breaks a mesh of 50 peers in random ways. Two gossip intervals after the last repair, at most, all agree.
func TestSimulation(t *testing.T) {
	for _, seed := range seeds(3) {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
		if !ok {
			t.Logf("replay: OVERWEAVE_SEEDS=%d go test -count=1 -run 'TestSimulation/^%d$' ./mesh", seed+1, seed)
		}
	}
}

func simulate(t *testing.T, seed uint64) {
	s := newSimulation(t)
	s.random = rand.New(rand.NewPCG(seed, 1))
	mixed := seed%2 == 1 // half of the peers speak the old wire only
	s.configure = func(i int, c *Config) {
		c.ConnLimit = 12
		c.NoDeltas = mixed && i%2 == 0
	}
	for i := 1; i <= 50; i++ {
		s.start(i)
	}
	s.agree(2 * defaultGossipInterval)
	for range 5 {
		s.trouble()
	}
	s.healAll()
	s.agree(2 * defaultGossipInterval)
	s.stop()
}

func (s *simulation) any() int { return 1 + s.random.IntN(len(s.rs)) }

// trouble cuts the mesh in two, or cuts some links, resets others, loses traffic, or restarts peers, and lets some time
// pass.
func (s *simulation) trouble() {
	n := len(s.rs)
	switch s.random.IntN(5) {
	case 0:
		at := s.random.Perm(n)
		for _, i := range at[:n/2] {
			for _, j := range at[n/2:] {
				s.net.Cut(host(1+i), host(1+j))
			}
		}
	case 1:
		for range n {
			s.net.Cut(host(s.any()), host(s.any()))
		}
	case 2:
		for range n {
			s.net.Reset(host(s.any()), host(s.any()))
		}
	case 3:
		s.net.SetLoss(0.1+0.4*s.random.Float64(), rand.New(rand.NewPCG(s.random.Uint64(), 2)).Float64)
	case 4:
		for range 1 + s.random.IntN(5) {
			i := s.any()
			s.rs[i-1].stop()
			s.start(i)
		}
	}
	time.Sleep(time.Duration(s.random.IntN(100)) * time.Second)
	if s.random.IntN(2) == 0 {
		s.healAll()
	}
}

// healAll ends cuts and loss.
func (s *simulation) healAll() {
	s.net.SetLoss(0, nil)
	for i := range s.rs {
		for j := range i {
			s.net.Heal(host(i+1), host(j+1))
		}
	}
}

// shape returns the most links of a peer, and the longest way between two.
func (s *simulation) shape() (most, diameter int) {
	for _, r := range s.rs {
		g := r.view.Load().graph
		most = max(most, len(r.view.Load().links))
		dist := map[int32]int{g.self: 0}
		for level := []int32{g.self}; len(level) > 0; {
			var next []int32
			for _, p := range level {
				for _, q := range g.all.of(p) {
					if _, seen := dist[q]; !seen {
						dist[q] = dist[p] + 1
						diameter = max(diameter, dist[q])
						next = append(next, q)
					}
				}
			}
			level = next
		}
	}
	return most, diameter
}

// TestSimRestart: a peer that restarts under its name is noticed at once, and its old life forgotten.
func TestSimRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t)
		for i := 1; i <= 6; i++ {
			s.start(i)
		}
		s.agree(time.Minute)
		for range 3 {
			s.rs[5].stop()
			s.start(6)
			s.agree(3 * time.Second)
		}
		s.stop()
	})
}

// TestSimStarved: a peer whose traffic stops for a minute comes back, and the others notice nothing.
func TestSimStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t)
		for i := 1; i <= 8; i++ {
			s.start(i)
		}
		time.Sleep(30 * time.Second)
		before := map[int][]ConnStatus{}
		for i := 1; i < 8; i++ {
			before[i] = s.among(i)
			s.net.Cut(host(1), host(i+1))
		}
		time.Sleep(60 * time.Second)
		s.healAll()
		s.agree(2 * defaultGossipInterval)
		require.NotEmpty(t, s.rs[0].Status().Connections)
		for i, conns := range before {
			after := s.among(i)
			require.Len(t, after, len(conns))
			for k, c := range after {
				require.Equal(t, conns[k].Since, c.Since, "no other connection has ended")
			}
		}
		s.stop()
	})
}

// among returns the connections of a peer to others than the first.
func (s *simulation) among(i int) []ConnStatus {
	return slices.DeleteFunc(s.rs[i].Status().Connections, func(c ConnStatus) bool { return c.Name == name(1) })
}

func isDuplicate(err error) bool { return errors.Is(err, errDuplicate) }

// TestEagerLinks: news goes along few links, which hold the mesh together.
func TestEagerLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const peers = 60
		s := newSimulation(t)
		for i := 1; i <= peers; i++ {
			s.start(i)
		}
		s.agree(time.Minute)
		time.Sleep(time.Minute)
		s.agree(time.Minute)
		eager, total := map[peer.Name][]peer.Name{}, 0
		for _, r := range s.rs {
			r.do(func(e *engine) {
				require.Len(t, e.links, peers-1)
				require.GreaterOrEqual(t, e.countEager(), eagerLinks)
				for name, l := range e.links {
					if l.eager {
						eager[r.Self().Name] = append(eager[r.Self().Name], name)
					}
				}
				total += e.countEager()
			})
		}
		require.Less(t, total, 2*(eagerLinks+1)*peers)
		reached, next := map[peer.Name]bool{name(1): true}, []peer.Name{name(1)}
		for len(next) > 0 {
			p := next[0]
			next = next[1:]
			for _, q := range eager[p] {
				if !reached[q] {
					reached[q], next = true, append(next, q)
				}
			}
		}
		require.Len(t, reached, peers)
		s.stop()
	})
}

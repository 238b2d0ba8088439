package mesh

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
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
	rs  []*running
	uid map[peer.Name]peer.UID
}

func (s *simulation) start(i int, change func(*Config)) {
	c := inMemory(s.net, i)
	if i > 1 {
		c.Targets = []string{host(1 + (i-2)/2).String()}
	}
	if change != nil {
		change(&c)
	}
	r := start(s.t, c)
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

// TestSimPartitions breaks a mesh of 50 peers in random ways. Two gossip intervals after the last repair all agree.
func TestSimPartitions(t *testing.T) {
	for _, seed := range seeds(4) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			s := newSimulation(t)
			mixed := seed%2 == 1 // half of the peers speak the old wire only
			configure := func(i int) func(*Config) {
				return func(c *Config) {
					c.ConnLimit = 12
					c.NoDeltas = mixed && i%2 == 0
				}
			}
			for i := 1; i <= 50; i++ {
				s.start(i, configure(i))
			}
			time.Sleep(time.Minute)
			require.Empty(t, s.disagreement(), "before, seed %d", seed)
			for range 5 {
				s.trouble(rnd, configure)
			}
			s.healAll()
			time.Sleep(4 * time.Minute) // silence ends what was cut, and back-off ends
			if s.disagreement() != "" {
				time.Sleep(2 * defaultGossipInterval)
			}
			require.Empty(t, s.disagreement(), "seed %d", seed)
			s.stop()
		})
	}
}

// trouble cuts the mesh in two, or some links, resets others, or restarts peers, and lets some time pass.
func (s *simulation) trouble(rnd *rand.Rand, configure func(int) func(*Config)) {
	n := len(s.rs)
	switch rnd.IntN(4) {
	case 0:
		at := 1 + rnd.IntN(n-1)
		for i := 1; i <= at; i++ {
			for j := at + 1; j <= n; j++ {
				s.net.Cut(host(i), host(j))
			}
		}
	case 1:
		for range n {
			s.net.Cut(host(1+rnd.IntN(n)), host(1+rnd.IntN(n)))
		}
	case 2:
		for range n {
			s.net.Reset(host(1+rnd.IntN(n)), host(1+rnd.IntN(n)))
		}
	case 3:
		for range 1 + rnd.IntN(5) {
			i := 1 + rnd.IntN(n)
			s.rs[i-1].stop()
			s.start(i, configure(i))
		}
	}
	time.Sleep(time.Duration(rnd.IntN(100)) * time.Second)
	if rnd.IntN(2) == 0 {
		s.healAll()
	}
}

func (s *simulation) healAll() {
	for i := range s.rs {
		for j := range i {
			s.net.Heal(host(i+1), host(j+1))
		}
	}
}

// TestSimLimit joins 300 peers with a limit of 8, in any order: all get in, the graph is connected and shallow, and nobody
// stays above the limit.
func TestSimLimit(t *testing.T) {
	const peers, limit = 300, 8
	for _, joinBy := range []string{"one", "any"} {
		t.Run(joinBy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSimulation(t)
				for i := 1; i <= peers; i++ {
					s.start(i, func(c *Config) {
						c.ConnLimit = limit
						if i > 1 && joinBy == "one" {
							c.Targets = []string{host(1).String()}
						} else if i > 1 {
							c.Targets = []string{host(1 + rand.IntN(i-1)).String()}
						}
					})
				}
				time.Sleep(3 * time.Minute)
				require.Empty(t, s.disagreement())
				most, diameter := s.shape()
				t.Logf("%d peers: at most %d links, diameter %d", peers, most, diameter)
				require.LessOrEqual(t, most, limit)
				require.LessOrEqual(t, diameter, 12)
				s.start(peers+1, func(c *Config) { c.ConnLimit = limit; c.Targets = []string{host(1).String()} })
				time.Sleep(20 * time.Second)
				require.Empty(t, s.disagreement(), "one more gets in")
				most, _ = s.shape()
				require.LessOrEqual(t, most, limit)
				s.stop()
			})
		})
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
				for _, q := range g.all[p] {
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
			s.start(i, nil)
		}
		time.Sleep(time.Minute)
		require.Empty(t, s.disagreement())
		for range 3 {
			s.rs[5].stop()
			s.start(6, nil)
			time.Sleep(8 * time.Second)
			require.Empty(t, s.disagreement())
		}
		s.stop()
	})
}

// TestSimStarved: a peer whose traffic stops for a minute comes back, and the others notice nothing.
func TestSimStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(t)
		for i := 1; i <= 8; i++ {
			s.start(i, nil)
		}
		time.Sleep(30 * time.Second)
		before := s.rs[0].Status().Terminations
		for i := 2; i <= 8; i++ {
			s.net.Cut(host(1), host(i))
		}
		time.Sleep(60 * time.Second)
		s.healAll()
		time.Sleep(6 * time.Minute)
		require.Empty(t, s.disagreement())
		for _, r := range s.rs[1:] {
			require.True(t, !slices.ContainsFunc(r.Status().Ended, func(e EndedStatus) bool {
				return e.Name != name(1) && e.Reason != "" && e.Err != nil && !isDuplicate(e.Err)
			}))
		}
		require.GreaterOrEqual(t, s.rs[0].Status().Terminations, before)
		s.stop()
	})
}

func isDuplicate(err error) bool { return errors.Is(err, errDuplicate) }

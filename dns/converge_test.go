package dns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// cluster is a number of tables on a simulated network, inside a bubble of synctest.
type cluster struct {
	t      *testing.T
	bus    *gossiptest.Bus
	tables map[peer.Name]*Table
}

func newCluster(t *testing.T, c gossiptest.Config, size int) *cluster {
	k := &cluster{t: t, bus: gossiptest.New(c), tables: map[peer.Name]*Table{}}
	for i := range size {
		k.join(peer.Name(i+1), 0)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.bus.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	synctest.Wait()
	return k
}

// join adds a peer, or a new run of it, whose clock is ahead.
func (k *cluster) join(name peer.Name, ahead time.Duration) *gossiptest.Node {
	node := k.bus.Node(gossip.Member{Name: name})
	table, err := New(Config{Bus: node, Now: func() time.Time { return time.Now().Add(ahead) }})
	require.NoError(k.t, err)
	k.tables[name] = table
	return node
}

// agree fails unless all tables hold the same.
func (k *cluster) agree() []Entry {
	synctest.Wait()
	want := k.tables[1].Entries()
	for name, table := range k.tables {
		require.Equal(k.t, want, table.Entries(), "peer %s", name)
	}
	stats := k.bus.Stats()
	require.Zero(k.t, stats.Errors+stats.Panics, "%v", k.bus.Faults())
	return want
}

func addrOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, byte(i >> 8), byte(i)}) }

// seeds is how many runs a simulation has: five, or what a soak asks for.
func seeds(t *testing.T) uint64 {
	text, ok := os.LookupEnv("OVERWEAVE_SEEDS")
	if !ok {
		return 5
	}
	n, err := strconv.ParseUint(text, 10, 32)
	require.NoError(t, err)
	return n
}

// TestSimConverges changes names all over a network that loses, repeats and splits, and then lets it come to rest.
func TestSimConverges(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 12
				k := newCluster(t, gossiptest.Config{Seed: seed, Loss: 0.2, Duplicate: 0.1}, size)
				rng := rand.New(rand.NewPCG(seed, 1))
				want := map[string]bool{}
				for step := range 200 {
					time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
					switch step {
					case 60:
						k.bus.Partition([]peer.Name{1, 2, 3, 4, 5})
					case 140:
						k.bus.Heal()
					}
					i := 1 + rng.IntN(size)
					name := fmt.Sprintf("n%d.p%d.weave.local.", rng.IntN(5), i)
					if want[name] = rng.IntN(3) > 0; want[name] {
						require.NoError(t, k.tables[peer.Name(i)].Register(name, "c", addrOf(i)))
					} else {
						k.tables[peer.Name(i)].Unregister(Match{Name: name})
					}
				}
				time.Sleep(10 * time.Minute)
				k.agree()
				for name, live := range want {
					_, ok := k.tables[1].Lookup(name)
					require.Equal(t, live, ok, name)
				}
			})
		})
	}
}

// TestRestartForgetsNames restarts a peer: what its first run said is taken back by the second, everywhere.
func TestRestartForgetsNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, gossiptest.Config{Gone: time.Hour}, 4)
		node := k.join(9, 0)
		node.Start()
		require.NoError(t, k.tables[9].Register("old.weave.local", "c", addrOf(1)))
		require.NoError(t, k.tables[9].Register("kept.weave.local", "c", addrOf(2)))
		time.Sleep(time.Minute)
		require.Len(t, k.agree(), 2)

		node.Crash()
		k.join(9, 0).Start()
		require.NoError(t, k.tables[9].Register("kept.weave.local", "c", addrOf(2)))
		time.Sleep(5 * time.Minute)
		k.agree()
		_, ok := k.tables[1].Lookup("old.weave.local")
		require.False(t, ok)
		_, ok = k.tables[1].Lookup("kept.weave.local")
		require.True(t, ok)
	})
}

// TestPeerGone loses a peer for good, and another for a while.
func TestPeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, gossiptest.Config{}, 4)
		for i := 1; i <= 4; i++ {
			require.NoError(t, k.tables[peer.Name(i)].Register(fmt.Sprintf("p%d.weave.local", i), "c", addrOf(i)))
		}
		time.Sleep(time.Minute)
		require.Len(t, k.agree(), 4)
		k.bus.Partition([]peer.Name{4})
		time.Sleep(time.Minute)
		require.Equal(t, 3, k.tables[1].Status().Live)
		require.Equal(t, 1, k.tables[4].Status().Live)
		k.bus.Heal()
		time.Sleep(2 * time.Minute)
		require.Len(t, k.agree(), 4)
	})
}

// TestSkewedClock has a peer whose clock is two hours ahead: the predecessor cut its links.
func TestSkewedClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, gossiptest.Config{}, 4)
		k.join(9, 2*time.Hour).Start()
		require.NoError(t, k.tables[9].Register("ahead.weave.local", "c", addrOf(9)))
		require.NoError(t, k.tables[1].Register("right.weave.local", "c", addrOf(1)))
		time.Sleep(time.Minute)
		require.Len(t, k.agree(), 2)
		require.NotZero(t, k.tables[9].Status().Skewed)
		k.tables[9].UnregisterAll()
		k.tables[1].UnregisterAll()
		time.Sleep(2 * time.Minute)
		for _, table := range k.tables {
			require.Zero(t, table.Status().Live)
		}
	})
}

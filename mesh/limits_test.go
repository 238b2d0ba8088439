package mesh

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVectorBucket(t *testing.T) {
	var want struct {
		Cases []struct {
			Calls []struct {
				Blocked int64 `json:"blocked_ms"`
				Called  int64 `json:"called_at_ms"`
			}
			Case  string
			Start int64 `json:"start_ns_past_grid"`
		}
	}
	load(t, "accept-token-bucket", nil, &want)
	for _, w := range want.Cases {
		start := time.Unix(1e6, 0).Add(time.Duration(w.Start))
		b := newBucket(start, bucketInterval)
		for i, c := range w.Calls {
			got := b.take(start.Add(time.Duration(c.Called) * time.Millisecond))
			require.InDelta(t, c.Blocked, got.Milliseconds(), 1, "%s, call %d", w.Case, i)
		}
	}
}

// TestSources: one source that floods gets half of what is accepted, and a part of the places for introductions; others get
// theirs.
func TestSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, flood, other := newSources(), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")
		got, start := 0, time.Now()
		for time.Since(start) < 10*time.Second {
			if s.admit(flood, time.Now()) {
				got++
				s.settle(flood)
			}
			flood = flood.Next() // in the same network
			time.Sleep(time.Millisecond)
		}
		require.InDelta(t, bucketCapacity+int(10*time.Second/sourceInterval), got, 2)
		require.True(t, s.admit(other, time.Now()))
		for time.Since(start) < time.Minute { // these stay half introduced
			s.admit(flood, time.Now())
			time.Sleep(sourceInterval)
		}
		require.Equal(t, maxSourceSetUps, s.watched[sourceOf(flood)].setUps)
		for range 2 * maxWatched {
			other = other.Next()
			require.True(t, s.admit(other, time.Now()))
			s.settle(other)
		}
		require.LessOrEqual(t, len(s.watched), maxWatched)
		time.Sleep(time.Minute)
		require.True(t, s.admit(netip.MustParseAddr("198.51.100.1"), time.Now()))
		require.Len(t, s.watched, 3, "only those with introductions, and the new one")
	})
}

func TestVectorSurrogate(t *testing.T) {
	var want struct {
		Steps []struct {
			At       float64 `json:"at_s"`
			Message  string
			Relayed  bool
			Remember []string `json:"remembered_after"`
		}
	}
	load(t, "surrogate-dedup", nil, &want)
	synctest.Test(t, func(t *testing.T) {
		s, start := newSurrogates(30*time.Second), time.Now()
		for _, w := range want.Steps {
			now := start.Add(time.Duration(w.At * float64(time.Second)))
			require.Equal(t, w.Relayed, s.fresh([]byte("ch"), []byte(w.Message), now), "%+v", w)
			require.Len(t, s.channels["ch"].seen, len(w.Remember))
		}
	})
}

// TestLimit joins 300 peers with a limit of 8, in any order: all get in, the graph is connected and shallow, and nobody
// stays above the limit for long. Those that join slowly are fewer unless the long simulations are asked for.
func TestLimit(t *testing.T) {
	const limit = 8
	slow := 120
	if os.Getenv("OVERWEAVE_SEEDS") != "" {
		slow = 300
	}
	for _, tt := range []struct {
		name  string
		peers int
		pause time.Duration // between two that join
		via   func(s *simulation, i int) int
	}{
		{"all at once through the first", 300, 0, func(*simulation, int) int { return 1 }},
		{"all at once through any", 300, 0, func(s *simulation, i int) int { return 1 + s.random.IntN(i-1) }},
		{"one after the other through the one before", 300, 300 * time.Millisecond, func(_ *simulation, i int) int { return i - 1 }},
		{"slowly through the first", slow, 7 * time.Second, func(*simulation, int) int { return 1 }},
	} {
		if testing.Short() || underRace {
			tt.peers /= 3
		}
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSimulation(t)
				s.random = rand.New(rand.NewPCG(1, 1))
				s.configure = func(i int, c *Config) {
					c.ConnLimit, c.Targets = limit, nil
					if i > 1 {
						c.Targets = []string{host(tt.via(s, i)).String()}
					}
				}
				above := s.watchLimit(limit)
				for i := 1; i <= tt.peers; i++ {
					s.start(i)
					time.Sleep(tt.pause)
				}
				s.agree(2 * time.Minute)
				time.Sleep(30 * time.Second) // settled: it may add links that make it shallow
				s.agree(20 * time.Second)
				most, diameter := s.shape()
				t.Logf("%d peers: at most %d links, diameter %d", tt.peers, most, diameter)
				require.LessOrEqual(t, most, limit)
				if diameter > 7 {
					t.Errorf("diameter")
				}
				s.start(tt.peers + 1)
				s.agree(20 * time.Second)
				require.Less(t, above(), 20*time.Second) // accepting 300 takes one 14 s
				s.stop()
			})
		})
	}
}

// watchLimit looks at all peers, often. The function it returns ends that, and says for how long one was above the limit
// at a stretch.
func (s *simulation) watchLimit(limit int) (end func() time.Duration) {
	const often = 250 * time.Millisecond
	ctx, cancel := context.WithCancel(s.t.Context())
	result := make(chan time.Duration, 1)
	go func() {
		since, longest := map[*running]time.Duration{}, time.Duration(0)
		for sleep(ctx, often) {
			s.mu.Lock()
			rs := slices.Clone(s.rs)
			s.mu.Unlock()
			for _, r := range rs {
				if len(r.view.Load().links) <= limit {
					delete(since, r)
					continue
				}
				since[r] += often
				longest = max(longest, since[r])
			}
		}
		result <- longest
	}()
	return func() time.Duration {
		cancel()
		return <-result
	}
}

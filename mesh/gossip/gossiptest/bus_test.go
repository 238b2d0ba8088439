package gossiptest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestBroadcastReachesEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{Interval: -1}, 20)
		w.words[7].say("hello")
		time.Sleep(time.Second)
		w.requireAllKnow(t, "hello")
		for i := range w.words {
			if i != 7 {
				require.Contains(t, w.words[i].entries(), "broadcast "+name(7).String()+" hello")
			}
		}
		require.Equal(t, uint64(19), w.bus.Stats().Sent)
	})
}

func TestLossIsRepairedByState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{Seed: 3, Loss: 0.5, Duplicate: 0.3}, 10)
		w.words[0].say("a")
		w.words[9].say("b")
		time.Sleep(10 * time.Minute)
		w.requireAllKnow(t, "a", "b")
		st := w.bus.Stats()
		require.NotZero(t, st.Lost)
		require.NotZero(t, st.Duplicated)
		require.Zero(t, st.Errors+st.Panics+st.Overflowed+st.Oversized)
	})
}

// TestSameSeedSameRun compares everything that every receiver is called with, in order, over two runs.
func TestSameSeedSameRun(t *testing.T) {
	run := func(seed uint64) (logs [][]string) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, gossiptest.Config{Seed: seed, Loss: 0.2, Duplicate: 0.2, Interval: 5 * time.Second}, 8)
			for i := range w.words {
				w.words[i].say(fmt.Sprint("word", i))
				_ = w.words[i].send.Unicast(t.Context(), name((i+1)%8), fmt.Appendf(nil, "uni%d", i))
			}
			time.Sleep(7 * time.Second)
			w.bus.Partition([]peer.Name{name(0), name(1)}, []peer.Name{name(2)})
			time.Sleep(20 * time.Second)
			w.nodes[4].Crash()
			w.bus.Heal()
			time.Sleep(20 * time.Second)
			for i := range w.words {
				logs = append(logs, w.words[i].entries())
			}
		})
		return logs
	}
	for seed := range uint64(5) {
		require.Equal(t, run(seed), run(seed), "seed %d", seed)
	}
	require.NotEqual(t, run(1), run(2))
}

func TestPartitionAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{Gone: 10 * time.Second}, 4)
		w.bus.Partition([]peer.Name{name(0), name(1)})
		w.words[0].say("left")
		w.words[2].say("right")
		time.Sleep(9 * time.Second)
		require.Len(t, w.nodes[0].Members(), 4, "not gone yet")
		require.NoError(t, w.words[0].send.Unicast(t.Context(), name(2), []byte("lost")), "nobody has noticed yet")
		time.Sleep(2 * time.Second)

		require.Equal(t, []gossip.Member{{Name: name(0), UID: 1}, {Name: name(1), UID: 2}}, w.nodes[0].Members())
		_, ok := w.nodes[0].Member(name(2))
		require.False(t, ok)
		require.ErrorIs(t, w.words[0].send.Unicast(t.Context(), name(2), []byte("x")), gossip.ErrUnreachable)
		require.Contains(t, w.words[3].entries(), "gone "+name(0).String())
		require.Equal(t, []string{"left"}, w.words[1].knows())
		require.Equal(t, []string{"right"}, w.words[3].knows())

		w.bus.Heal()
		time.Sleep(time.Second) // less than the interval: the exchange on coming into reach has to do
		w.requireAllKnow(t, "left", "right")
		m, ok := w.nodes[0].Member(name(2))
		require.True(t, ok)
		require.Equal(t, peer.UID(3), m.UID)
	})
}

func TestBriefPartitionGoesUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{Gone: 10 * time.Second, Interval: -1}, 2)
		for range 3 { // never ten seconds at a time
			w.bus.Partition([]peer.Name{name(0)})
			time.Sleep(6 * time.Second)
			w.bus.Heal()
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		require.Empty(t, w.words[0].entries())
		require.Len(t, w.nodes[0].Members(), 2)
	})
}

func TestCrashAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{}, 3)
		w.words[0].say("before")
		time.Sleep(time.Second)
		w.nodes[1].Crash()
		w.nodes[1].Crash()
		calls := len(w.words[1].entries())
		w.words[0].say("meanwhile")
		w.words[1].say("from the dead")
		require.ErrorIs(t, w.words[1].send.Unicast(t.Context(), name(0), nil), gossip.ErrUnreachable)
		time.Sleep(time.Minute)
		require.Len(t, w.words[1].entries(), calls, "called after Crash")
		require.Equal(t, []string{"before", "meanwhile"}, w.words[0].knows())
		require.Contains(t, w.words[0].entries(), "gone "+name(1).String())

		again := w.bus.Node(gossip.Member{Name: name(1), UID: 99})
		reborn := newWords(t, again)
		require.Len(t, again.Members(), 1)
		again.Start()
		again.Start()
		time.Sleep(time.Second)
		require.Equal(t, []string{"before", "meanwhile"}, reborn.knows())
		m, _ := w.nodes[0].Member(name(1))
		require.Equal(t, peer.UID(99), m.UID)
	})
}

func TestJoinRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{}, 1)
		n := w.bus.Node(gossip.Member{Name: name(1)})
		newWords(t, n)
		_, err := n.Join("words", &words{})
		require.ErrorIs(t, err, gossip.ErrChannelTaken)
		n.Start()
		_, err = n.Join("other", &words{})
		require.ErrorIs(t, err, gossip.ErrRunning)
		require.Panics(t, func() { w.bus.Node(gossip.Member{Name: name(1)}) })
	})
}

// TestFaultsStayInTheirChannel has one receiver fail, panic and block while another on the same node goes on.
func TestFaultsStayInTheirChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := gossiptest.New(gossiptest.Config{Queue: 4, Interval: -1})
		a, b := bus.Node(gossip.Member{Name: name(0)}), bus.Node(gossip.Member{Name: name(1)})
		bad := &words{known: map[string]bool{}}
		good := &words{known: map[string]bool{}}
		toBad, _ := a.Join("bad", &words{known: map[string]bool{}})
		toGood, _ := a.Join("good", &words{known: map[string]bool{}})
		_, _ = b.Join("bad", bad)
		_, _ = b.Join("good", good)
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- bus.Run(ctx) }()
		synctest.Wait()

		for _, m := range []string{"panic", "error", "fine"} {
			require.NoError(t, toBad.Unicast(ctx, name(1), []byte(m)))
			time.Sleep(time.Second)
		}
		require.Equal(t, []string{"fine"}, bad.knows())
		require.Len(t, bus.Faults(), 2)
		require.ErrorContains(t, bus.Faults()[0], "panic: as asked")

		bad.block = make(chan struct{})
		for range 20 {
			require.NoError(t, toBad.Unicast(ctx, name(1), []byte("much")))
		}
		require.NoError(t, toGood.Unicast(ctx, name(1), []byte("through")))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"through"}, good.knows())
		st := bus.Stats()
		require.Equal(t, uint64(15), st.Overflowed, "one in the receiver and four in the queue")
		require.Equal(t, uint64(1), st.Errors)
		require.Equal(t, uint64(1), st.Panics)
		close(bad.block)
		cancel()
		require.NoError(t, <-done)
		require.Error(t, bus.Run(t.Context()), "runs once")
	})
}

func TestUnicastLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{Interval: -1}, 2)
		send := w.words[0].send
		require.ErrorIs(t, send.Unicast(t.Context(), name(0), nil), gossip.ErrUnreachable, "ourselves")
		require.Error(t, send.Unicast(t.Context(), name(1), make([]byte, gossip.MaxMessage+1)))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, send.Unicast(ctx, name(1), nil), context.Canceled)

		msg := []byte("copied")
		require.NoError(t, send.Unicast(t.Context(), name(1), msg))
		copy(msg, "!!!!!!")
		time.Sleep(time.Second)
		require.Equal(t, []string{"copied"}, w.words[1].knows())
	})
}

// blob is Data of one message of a size, or a panic.
type blob int

func (b blob) Encode() [][]byte {
	if b < 0 {
		panic("as asked")
	}
	return [][]byte{make([]byte, b)}
}

func (b blob) Merge(gossip.Data) gossip.Data { return b }

func TestDataThatCannotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gossiptest.Config{Interval: -1}, 2)
		w.words[0].send.Broadcast(blob(gossip.MaxMessage + 1))
		w.words[0].send.Gossip(blob(-1))
		w.words[0].send.Gossip(nil)
		time.Sleep(time.Second)
		st := w.bus.Stats()
		require.Equal(t, uint64(1), st.Oversized)
		require.Equal(t, uint64(1), st.Panics)
		require.Zero(t, st.Sent)
	})
}

// TestManySeeds is what the package is for: short lives of small networks, many of them.
func TestManySeeds(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, gossiptest.Config{Seed: seed, Loss: 0.3, Duplicate: 0.2, Gone: 3 * time.Second}, 3+int(seed%6))
			w.words[0].say("a")
			w.bus.Partition([]peer.Name{name(0), name(1)})
			time.Sleep(time.Minute)
			w.words[2].say("b")
			w.bus.Heal()
			time.Sleep(15 * time.Minute)
			w.requireAllKnow(t, "a", "b")
			require.Empty(t, w.bus.Faults())
		})
	}
}

package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

// TestUnicastOnEndingLink: a unicast for which the way is just being lost says that its peer is not in reach, and one after
// the end of Run that nothing runs.
func TestUnicastOnEndingLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		var s gossip.Sender
		one := start(t, inMemory(n, 1), func(r *Router) {
			var err error
			s, err = r.Join("ch", &echo{})
			require.NoError(t, err)
		})
		two := start(t, inMemory(n, 2, 1))
		time.Sleep(10 * time.Second)
		one.view.Load().links[name(2)].out.close() // as it does before the engine hears of it
		err := s.Unicast(t.Context(), name(2), []byte("x"))
		require.ErrorIs(t, err, gossip.ErrUnreachable)
		require.NotErrorIs(t, err, ErrClosed)
		one.stop()
		require.ErrorIs(t, s.Unicast(t.Context(), name(2), []byte("x")), ErrClosed)
		two.stop()
	})
}

// TestTargetWithTakenName: a target that leads to one of two others with the same name is tried again, seldom. One with our
// own name is not.
func TestTargetWithTakenName(t *testing.T) {
	for _, tt := range []struct {
		err   error
		never bool
	}{{ErrNameTaken, false}, {errOurName, true}, {errSelf, true}} {
		d := newDialer(6783, func(n int64) int64 { return n / 2 })
		now := time.Unix(0, 0)
		require.NoError(t, d.connect(false, []string{"192.0.2.1"}, now))
		s := situation{reachable: func(peer.Name) bool { return false }}
		require.Len(t, d.pass(s, now), 1)
		key := "192.0.2.1:6783"
		d.ended(key, errors.Join(tt.err, errors.New("more")), now)
		require.Equal(t, tt.never, d.targets[key].never, tt.err)
		if !tt.never {
			require.Equal(t, now.Add(retryMax), d.targets[key].next)
		}
	}
	require.ErrorIs(t, errOurName, ErrNameTaken)
}

// TestNothingStaysOfLinks: what a receiver that blocks leaves undone for a link does not keep it when it has ended.
func TestNothingStaysOfLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		block := make(chan struct{})
		var s gossip.Sender
		one := start(t, inMemory(n, 1), func(r *Router) {
			var err error
			s, err = r.Join("stuck", &bad{how: "block", block: block})
			require.NoError(t, err)
		})
		release := sync.OnceFunc(func() { close(block) })
		t.Cleanup(release)
		c := one.channels[0]
		c.deliver(message{tag: tagGossip}) // the receiver blocks in it
		synctest.Wait()
		for range 5 {
			two := start(t, inMemory(n, 2, 1))
			time.Sleep(10 * time.Second)
			s.Broadcast(badData{&bad{how: "block", block: block}}) // the encoder blocks in the first
			synctest.Wait()
			two.stop()
			time.Sleep(10 * time.Second)
		}
		require.Empty(t, one.view.Load().links)
		c.mu.Lock()
		require.Empty(t, c.states)
		c.mu.Unlock()
		require.Empty(t, c.work.takeAll())
		release()
		one.stop()
	})
}

// TestCounters: attempts that fail count as ended, what is not passed on and what the topology takes are counted too.
func TestCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		one, two := victims(t, n)
		require.Zero(t, two.Status().Terminations)
		require.NoError(t, two.Connect(false, host(77).String())) // nobody is there
		time.Sleep(time.Second)
		require.NotZero(t, two.Status().Terminations)
		c := join(t, n, name(9), 1)
		for i := range maxSurrogates + 3 {
			c.send(t, encodeMessage(tagBroadcast, "ch"+strings.Repeat("x", i), name(9), 0, nil))
		}
		synctest.Wait()
		st := one.Status()
		require.EqualValues(t, 3, st.Unrelayed)
		require.Len(t, st.Channels, 1)
		topo := st.Channels[0]
		require.Equal(t, topologyChannel, topo.Name)
		require.NotZero(t, topo.Received)
		require.NotZero(t, topo.Sent)
		require.Zero(t, topo.Dropped)
		_ = c.Close()
		one.stop()
		two.stop()
	})
}

// TestStalledWriter: a connection to somebody who takes nothing ends as one to somebody who says nothing.
func TestStalledWriter(t *testing.T) {
	require.ErrorIs(t, explain(&net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}), errSilence)
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		var s gossip.Sender
		one := start(t, inMemory(n, 1), func(r *Router) {
			var err error
			s, err = r.Join("ch", &echo{})
			require.NoError(t, err)
		})
		synctest.Wait()
		c := join(t, n, name(9), 1)
		c.sendTopology(t, map[peer.Name][]peer.Name{name(9): {name(1)}})
		time.Sleep(2 * time.Second)
		require.NoError(t, s.Unicast(t.Context(), name(9), make([]byte, 2<<20))) // more than the pipe holds
		for range 5 {
			time.Sleep(20 * time.Second)
			_, _ = c.Write([]byte{0, 0, 0, 1, tagHeartbeat})
		}
		require.ErrorIs(t, one.Status().Ended[0].Err, errSilence)
		_ = c.Close()
		one.stop()
	})
}

// TestStatusBesideJoin: status may be asked for while channels join, and what it hands out is the caller's.
func TestStatusBesideJoin(t *testing.T) {
	trusted := netip.MustParsePrefix("10.0.0.0/8")
	r, err := New(Config{Name: 1, TrustedSubnets: []netip.Prefix{trusted}})
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 100 {
			_, err := r.Join("ch"+strings.Repeat("x", i), &echo{})
			require.NoError(t, err)
		}
	})
	for range 100 {
		r.Status().TrustedSubnets[0] = netip.Prefix{}
	}
	wg.Wait()
	require.Len(t, r.Status().Channels, 101)
	require.Equal(t, trusted, r.cfg.TrustedSubnets[0])
}

// TestNothingRunsAfterRun: when Run returns no goroutine of the router is left, whatever it was in: not one that would end a
// moment later. The clock does not move between.
func TestNothingRunsAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		c := inMemory(n, 1, 50, 51) // nobody is at 50 and 51
		c.ConnLimit = minConnLimit
		n.Cut(host(1), host(51))
		r, err := New(c)
		require.NoError(t, err)
		_, err = r.Join("ch", &echo{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go pprof.Do(ctx, pprof.Labels("router", "the first"), func(ctx context.Context) { done <- r.Run(ctx) })
		var others []*running
		for i := 2; i <= 8; i++ { // above the limit: some are being shed
			others = append(others, start(t, inMemory(n, i, 1)))
		}
		synctest.Wait()
		half := dial(t, n, 60)
		_, _ = half.Write([]byte("weave\x01"))
		time.Sleep(heartbeatInterval + 300*time.Millisecond)
		require.Contains(t, goroutines(t), "the first")
		cancel()
		require.NoError(t, <-done)
		synctest.Wait()
		require.NotContains(t, goroutines(t), "the first")
		_ = half.Close()
		for _, o := range others {
			o.stop()
		}
	})
}

// goroutines lists all goroutines with their labels.
func goroutines(t *testing.T) string {
	var b strings.Builder
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
	return b.String()
}

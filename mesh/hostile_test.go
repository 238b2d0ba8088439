package mesh

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

// victims are two routers that know each other, of which the first is attacked.
func victims(t *testing.T, n *meshtest.Network) (one, two *running) {
	one, two = start(t, inMemory(n, 1)), start(t, inMemory(n, 2, 1))
	time.Sleep(10 * time.Second)
	require.True(t, knows(2, one, two)())
	return one, two
}

// requireUnharmed says that two victims have noticed nothing and are still connected.
func requireUnharmed(t *testing.T, one, two *running) {
	t.Helper()
	require.Empty(t, ended(two))
	require.Len(t, two.Status().Connections, 1)
	require.Equal(t, name(2), one.Status().Connections[0].Name)
	require.True(t, knows(2, one, two)(), "%v", one.Members())
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHostileHalfIntroductions: many connections that say half of what they should occupy a bounded number of places, and
// for a bounded time; who comes later gets in.
func TestHostileHalfIntroductions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		one, two := victims(t, n)
		var conns []net.Conn
		for i := range maxSetUps + 50 {
			c := dial(t, n, 100+i)
			_, _ = io.WriteString(c, "weave\x01\x02\x00\x00\x00")
			conns = append(conns, c)
			time.Sleep(bucketInterval)
		}
		synctest.Wait()
		require.LessOrEqual(t, one.setUps.Load(), int32(maxSetUps))
		require.NotZero(t, one.Status().Refused)
		time.Sleep(introLimit)
		require.Zero(t, one.setUps.Load())
		require.NotEmpty(t, one.Status().Ended)
		for _, e := range one.Status().Ended {
			require.ErrorIs(t, e.Err, errSilence)
		}
		requireUnharmed(t, one, two)
		three := start(t, inMemory(n, 3, 1))
		time.Sleep(10 * time.Second)
		require.True(t, knows(3, one, two, three)())
		for _, c := range conns {
			_ = c.Close()
		}
		for _, r := range []*running{one, two, three} {
			r.stop()
		}
	})
}

// TestHostileFlood: endless small messages are taken one by one, and leave nothing behind.
func TestHostileFlood(t *testing.T) {
	const count = 200_000
	floods := map[string]func(i int) []byte{
		"empty":     func(int) []byte { return nil },
		"unknown":   func(i int) []byte { return []byte{byte(20 + i%200), byte(i)} },
		"heartbeat": func(int) []byte { return []byte{tagHeartbeat} },
		"gossip on many channels": func(i int) []byte {
			channel := string([]byte{'c', byte(i), byte(i >> 8), byte(i >> 16)})
			return encodeMessage(tagGossip, channel, name(9), 0, []byte{byte(i)})
		},
		"unicast to nobody": func(i int) []byte { return encodeMessage(tagUnicast, "c", name(9), peer.Name(1<<40+i), nil) },
		"broadcast of invented sources": func(i int) []byte {
			return encodeMessage(tagBroadcast, "c", peer.Name(1<<40+i), 0, []byte{1})
		},
	}
	for what, message := range floods {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.NewNetwork(0)
				one, two := victims(t, n)
				c := join(t, n, name(9), 1)
				before := heap()
				var buf []byte
				for i := range count {
					var err error
					buf, err = c.s.out.append(buf, message(i))
					require.NoError(t, err)
					if len(buf) > 1<<16 || i == count-1 {
						_, err = c.Write(buf)
						require.NoError(t, err)
						buf = buf[:0]
					}
				}
				synctest.Wait()
				if after := heap(); after > before {
					require.Less(t, after-before, uint64(8<<20))
				}
				_ = c.Close()
				time.Sleep(5 * time.Second)
				requireUnharmed(t, one, two)
				one.stop()
				two.stop()
			})
		})
	}
}

// TestHostileLength: a message over the limit is refused when its length is seen. One below it that does not come takes no
// more memory than what has come of it.
func TestHostileLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		one, two := victims(t, n)
		c := join(t, n, name(9), 1)
		_, err := c.Write([]byte{0, 0xa0, 0, 1, tagHeartbeat}) // 10 MiB and one byte
		require.NoError(t, err)
		require.True(t, closed(t, c))
		synctest.Wait()
		require.ErrorIs(t, one.Status().Ended[0].Err, errTooLong)

		before := heap()
		for i := range 20 {
			c := join(t, n, name(10+i), uint64(i))
			_, err := c.Write([]byte{0, 0xa0, 0, 0, tagHeartbeat})
			require.NoError(t, err)
		}
		synctest.Wait()
		if after := heap(); after > before {
			require.Less(t, after-before, uint64(16<<20), "20 of 10 MiB are on their way")
		}
		time.Sleep(silenceLimit + 10*time.Second)
		requireUnharmed(t, one, two)

		whole := join(t, n, name(9), 2)
		frame, err := whole.s.out.append(nil, append([]byte{tagHeartbeat}, make([]byte, maxFrame-1)...))
		require.NoError(t, err)
		_, err = whole.Write(frame)
		require.NoError(t, err)
		require.False(t, closed(t, whole), "exactly the limit is allowed")
		_ = whole.Close()
		time.Sleep(5 * time.Second)
		one.stop()
		two.stop()
	})
}

// TestRestartWithoutGoodbye: a peer whose machine lost power comes back under its name while its old connection still looks
// alive. The new run replaces the old one at once.
func TestRestartWithoutGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		one, two := victims(t, n)
		before := join(t, n, name(9), 1)
		before.sendTopology(t, map[peer.Name][]peer.Name{name(9): {name(1)}})
		time.Sleep(2 * time.Second)
		require.True(t, knows(3, one, two)())
		after := start(t, inMemory(n, 9, 1))
		time.Sleep(2 * time.Second)
		require.True(t, closed(t, before))
		for _, r := range []*running{one, two, after} {
			m, ok := r.Member(name(9))
			require.True(t, ok)
			require.Equal(t, after.Self().UID, m.UID, r.Self().Name)
		}
		for _, r := range []*running{one, two, after} {
			r.stop()
		}
	})
}

// TestCloneByGossip: two peers with one name that never meet hear of each other, and say so.
func TestCloneByGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		var rs []*running
		for i := 1; i <= 5; i++ { // a line, with the same name at both ends
			c := inMemory(n, i, max(1, i-1))
			if c.NoDiscovery = true; i == 5 {
				c.Name = name(1)
			}
			rs = append(rs, start(t, c))
		}
		time.Sleep(time.Minute)
		for i, other := range map[int]int{0: 4, 4: 0} {
			clones := rs[i].Status().Clones
			require.Len(t, clones, 1)
			require.Equal(t, rs[other].Self().UID, clones[0].UID)
			require.GreaterOrEqual(t, clones[0].Heard, sureOfClone)
			require.ErrorIs(t, clones[0].Err, ErrNameTaken)
			require.Contains(t, clones[0].Reason, host(i+1).String())
			require.Contains(t, clones[0].Reason, host(other+1).String(), "known by gossip only")
		}
		require.Empty(t, rs[2].Status().Clones)
		for _, r := range rs {
			r.stop()
		}
	})
}

// TestReceiverThatNeverReturns: Run waits for it, but not for ever, and says which channel it is.
func TestReceiverThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		r, err := New(inMemory(meshtest.NewNetwork(0), 1))
		require.NoError(t, err)
		_, err = r.Join("stuck", &bad{how: "block", block: block})
		require.NoError(t, err)
		_, err = r.Join("fine", &echo{})
		require.NoError(t, err)
		for _, c := range r.channels {
			c.deliver(message{tag: tagGossip})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		cancel()
		begin := time.Now()
		err = <-done
		require.ErrorIs(t, err, ErrReceiver)
		require.ErrorContains(t, err, "stuck")
		require.NotContains(t, err.Error(), "fine")
		require.Equal(t, receiverPatience, time.Since(begin))
		close(block)
		<-r.channels[0].ended
	})
}

// TestHostileSource: one host that connects without end keeps nobody else from getting in.
func TestHostileSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		one, two := victims(t, n)
		ctx, cancel := context.WithCancel(t.Context())
		flooded := make(chan int)
		go func() {
			opened := 0
			for sleep(ctx, 2*time.Millisecond) {
				if c, err := n.Host(host(9)).Dial(ctx, netip.Addr{}, netip.AddrPortFrom(host(1), 6783)); err == nil {
					opened++
					defer func() { _ = c.Close() }() // half introduced until then
				}
			}
			flooded <- opened
		}()
		time.Sleep(30 * time.Second)
		require.LessOrEqual(t, one.setUps.Load(), int32(maxSourceSetUps))
		three := start(t, inMemory(n, 3, 1))
		time.Sleep(time.Second)
		require.True(t, knows(3, one, two, three)())
		cancel()
		require.Greater(t, <-flooded, 10_000)
		require.Empty(t, ended(two))
		for _, r := range []*running{one, two, three} {
			r.stop()
		}
	})
}

// slowNetwork answers no question and no attempt to connect.
type slowNetwork struct{ Network }

func (slowNetwork) Resolve(ctx context.Context, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (slowNetwork) Dial(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestAttemptsEnd: neither a resolver nor a host that does not answer holds an attempt up for long.
func TestAttemptsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inMemory(meshtest.NewNetwork(0), 1)
		c.Network, c.Targets = slowNetwork{c.Network}, []string{"nobody.example", "192.0.2.1"}
		r := start(t, c)
		time.Sleep(max(resolveLimit, dialLimit) + time.Second)
		for _, target := range r.Status().Targets {
			require.Equal(t, "waiting", target.State)
			require.True(t, errors.Is(target.Err, context.DeadlineExceeded), target.Reason)
		}
		r.stop()
	})
}

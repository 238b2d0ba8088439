package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// running returns an allocator of a cluster of one that runs until the benchmark ends.
func running(b *testing.B, store ipam.Store) *ipam.Allocator {
	bus := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: name(1), UID: 1})
	a, err := ipam.New(ipam.Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/12"), Store: store})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-done)
	})
	require.NoError(b, a.Prime(ctx))
	return a
}

// BenchmarkAllocateFree is one allocation and one release without a store, on one core; half of a thousand owners hold an
// address meanwhile.
func BenchmarkAllocateFree(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	a, ctx := running(b, nil), context.Background()
	owners := make([]string, 1024)
	for i := range owners {
		owners[i] = fmt.Sprintf("container-%04d", i)
		if i%2 == 0 {
			_, err := a.Allocate(ctx, owners[i], netip.Prefix{})
			require.NoError(b, err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		owner := owners[(2*i+1)%len(owners)]
		p, err := a.Allocate(ctx, owner, netip.Prefix{})
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Free(ctx, owner, p.Addr()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDurable is one allocation that is on disk when it returns. With one caller each has a commit of its own.
func BenchmarkDurable(b *testing.B) {
	for _, callers := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			store, err := ipam.OpenStore(filepath.Join(b.TempDir(), "ipam.db"))
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, store.Close()) })
			a, ctx := running(b, store), context.Background()
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := a.Allocate(ctx, fmt.Sprint(i), netip.Prefix{}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkReceive decodes, merges and notes a gossiped ring of 1,000 peers.
func BenchmarkReceive(b *testing.B) {
	for _, peers := range []int{100, 1000} {
		b.Run(fmt.Sprintf("peers=%d", peers), func(b *testing.B) {
			var names []int
			for i := range peers {
				names = append(names, i+1)
			}
			c := ipam.Config{Universe: netip.MustParsePrefix("10.32.0.0/12")}
			seed(names...)(&c)
			bus := &loopback{self: gossip.Member{Name: name(1), UID: 1}}
			c.Bus = bus
			a, err := ipam.New(c)
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- a.Run(ctx) }()
			require.NoError(b, a.Prime(ctx))
			for a.Status().Commits == 0 {
				runtime.Gosched()
			}
			msg := bus.receiver.State().Encode()[0]
			b.ReportAllocs()
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, err := bus.receiver.OnGossip(msg); err != nil {
					b.Fatal(err)
				}
			}
			cancel()
			require.NoError(b, <-done)
		})
	}
}

// loopback is a carrier that reaches nobody.
type loopback struct {
	self     gossip.Member
	receiver gossip.Receiver
}

func (l *loopback) Join(_ string, r gossip.Receiver) (gossip.Sender, error) {
	l.receiver = r
	return l, nil
}
func (l *loopback) Self() gossip.Member                              { return l.self }
func (l *loopback) Members() []gossip.Member                         { return []gossip.Member{l.self} }
func (l *loopback) Broadcast(gossip.Data)                            {}
func (l *loopback) Gossip(gossip.Data)                               {}
func (l *loopback) Unicast(context.Context, peer.Name, []byte) error { return gossip.ErrUnreachable }
func (l *loopback) Member(n peer.Name) (gossip.Member, bool)         { return l.self, n == l.self.Name }

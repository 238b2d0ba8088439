package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// ipamResult is what the ipam measurement prints.
type ipamResult struct {
	AllocateFree float64     `json:"allocate_free_per_s"` // in memory, one core, one caller
	Single       float64     `json:"durable_single_per_s"`
	Gathered     float64     `json:"durable_64_callers_per_s"`
	Ratio        float64     `json:"durable_ratio"` // median of pairs
	Ratios       []float64   `json:"durable_ratios"`
	Merge        []ipamMerge `json:"merge"`
	Memory       float64     `json:"memory_mib"` // of an allocator in a /12 with 1,000 peers
}

// ipamMerge is the cost of a gossiped ring with news.
type ipamMerge struct {
	Peers        int     `json:"peers"`
	Bytes        int     `json:"message_bytes"`
	Milliseconds float64 `json:"ms"` // from the bytes of the message: decoding and merging, and what follows; median of 51
	PerToken     float64 `json:"ns_per_token"`
}

type ipamOptions struct {
	dir    string
	pairs  int
	window time.Duration
	json   bool
}

// runIPAM measures an allocator on its own: the carrier reaches nobody.
func runIPAM(ctx context.Context, args []string, out io.Writer) error {
	var o ipamOptions
	fs := flag.NewFlagSet("ipam", flag.ContinueOnError)
	fs.StringVar(&o.dir, "dir", "", "folder for the stores; empty is a temporary one")
	fs.IntVar(&o.pairs, "pairs", 5, "how often one caller and 64 callers are measured in turn")
	fs.DurationVar(&o.window, "window", 2*time.Second, "how long each is measured")
	fs.BoolVar(&o.json, "json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.pairs < 1 || o.window <= 0 {
		return errors.New("ipam: want --pairs and --window above 0")
	}
	res, err := measureIPAM(ctx, o)
	if err != nil {
		return fmt.Errorf("ipam: %w", err)
	}
	if o.json {
		return json.NewEncoder(out).Encode(res)
	}
	return res.print(out)
}

func (r *ipamResult) print(out io.Writer) error {
	rows := [][]string{
		{"allocate and free in memory, one core", fmt.Sprintf("%.0f per s", r.AllocateFree)},
		{"durable, one caller, an fsync each", fmt.Sprintf("%.0f per s", r.Single)},
		{"durable, 64 callers", fmt.Sprintf("%.0f per s", r.Gathered)},
		{"the latter to the former, median of pairs", fmt.Sprintf("%.1f", r.Ratio)},
	}
	for _, m := range r.Merge {
		rows = append(rows, []string{
			fmt.Sprintf("decode and merge a gossiped ring of %d peers", m.Peers),
			fmt.Sprintf("%.3f ms, %.0f ns per token", m.Milliseconds, m.PerToken),
		})
	}
	rows = append(rows, []string{"memory, /12 with 1,000 peers", fmt.Sprintf("%.1f MiB", r.Memory)})
	return printTable(out, []string{"ipam", "figure"}, rows)
}

func measureIPAM(ctx context.Context, o ipamOptions) (*ipamResult, error) {
	res := new(ipamResult)
	var err error
	if res.Memory, err = ipamMemory(ctx); err != nil {
		return nil, err
	}
	if res.AllocateFree, err = ipamMemoryRate(ctx, o.window); err != nil {
		return nil, err
	}
	for _, peers := range []int{250, 500, 1000, 2000} {
		m, err := ipamMerges(ctx, peers)
		if err != nil {
			return nil, err
		}
		res.Merge = append(res.Merge, m)
	}
	return res, ipamDurable(ctx, o, res)
}

// ipamNode is an allocator that runs.
type ipamNode struct {
	*ipam.Allocator
	bus  *loneBus
	stop func() error
}

func startIPAM(ctx context.Context, i int, c ipam.Config) (*ipamNode, error) {
	n := &ipamNode{bus: &loneBus{self: gossip.Member{Name: ipamPeer(i), UID: 1}}}
	c.Bus, c.Universe = n.bus, netip.MustParsePrefix("10.32.0.0/12")
	var err error
	if n.Allocator, err = ipam.New(c); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = func() error {
		cancel()
		return <-done
	}
	err = n.Prime(ctx)
	for err == nil && n.Status().Commits == 0 { // until it runs
		err = pause(ctx, time.Millisecond/10)
	}
	return n, err
}

// state returns what others would hear now.
func (n *ipamNode) state() []byte { return n.bus.receiver.State().Encode()[0] }

func ipamPeer(i int) peer.Name { return peer.Name(0x020000000001 + i) }

func ipamPeers(n int) []peer.Name {
	out := make([]peer.Name, n)
	for i := range out {
		out[i] = ipamPeer(i)
	}
	return out
}

// ipamMemoryRate is one caller without a store, with 512 owners that hold an address meanwhile.
func ipamMemoryRate(ctx context.Context, window time.Duration) (perSecond float64, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	n, err := startIPAM(ctx, 0, ipam.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	owners := make([]string, 1024)
	for i := range owners {
		owners[i] = fmt.Sprintf("container-%04d", i)
		if i%2 == 0 {
			if _, err := n.Allocate(ctx, owners[i], netip.Prefix{}); err != nil {
				return 0, err
			}
		}
	}
	start, count := time.Now(), 0
	for time.Since(start) < window {
		for range 1000 {
			owner := owners[(2*count+1)%len(owners)]
			p, err := n.Allocate(ctx, owner, netip.Prefix{})
			if err != nil {
				return 0, err
			}
			if err := n.Free(ctx, owner, p.Addr()); err != nil {
				return 0, err
			}
			count++
		}
	}
	return float64(count) / time.Since(start).Seconds(), ctx.Err()
}

// ipamDurable measures one caller, each of whose allocations has a commit of its own, and 64 callers, in turn.
func ipamDurable(ctx context.Context, o ipamOptions, res *ipamResult) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "ipam-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	var single, gathered []float64
	for i := range o.pairs {
		for _, callers := range []int{1, 64} {
			rate, err := ipamDurableRate(ctx, filepath.Join(o.dir, fmt.Sprintf("%d-%d.db", i, callers)), callers, o.window)
			if err != nil {
				return err
			}
			if callers == 1 {
				single = append(single, rate)
			} else {
				gathered = append(gathered, rate)
			}
		}
		res.Ratios = append(res.Ratios, gathered[i]/single[i])
	}
	res.Single, res.Gathered, res.Ratio = median(single), median(gathered), median(res.Ratios)
	return nil
}

func ipamDurableRate(ctx context.Context, path string, callers int, window time.Duration) (perSecond float64, err error) {
	store, err := ipam.OpenStore(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close(), os.Remove(path)) }()
	n, err := startIPAM(ctx, 0, ipam.Config{Store: store})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	var count atomic.Int64
	failed := make(chan error, callers)
	start := time.Now()
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := 0; time.Since(start) < window; i++ {
				if _, err := n.Allocate(ctx, fmt.Sprintf("%d-%d", caller, i), netip.Prefix{}); err != nil {
					failed <- err
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	select {
	case err = <-failed:
	default:
	}
	return float64(count.Load()) / elapsed, err
}

// ipamMerges has peers receive the ring of another one, of which something is new to them.
func ipamMerges(ctx context.Context, peers int) (m ipamMerge, err error) {
	m.Peers = peers
	birth := ipam.Seed(ipamPeers(peers)...)
	there, err := startIPAM(ctx, 1, ipam.Config{Birth: birth, Store: new(ipam.MemStore)})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, there.stop()) }()
	if _, err := there.Allocate(ctx, "news", netip.Prefix{}); err != nil {
		return m, err
	}
	msg := there.state()
	var took []float64
	for range 51 {
		here, err := startIPAM(ctx, 0, ipam.Config{Birth: birth})
		if err != nil {
			return m, err
		}
		start := time.Now()
		_, err = here.bus.receiver.OnGossip(msg)
		took = append(took, float64(time.Since(start).Nanoseconds())/1e6)
		if err = errors.Join(err, here.stop()); err != nil {
			return m, err
		}
	}
	m.Milliseconds, m.Bytes = median(took), len(msg)
	m.PerToken = m.Milliseconds * 1e6 / float64(peers)
	return m, ctx.Err()
}

// ipamMemory returns what the heap grows by with an allocator in a /12 with 1,000 peers, of which it has heard, and which
// holds 1,000 addresses.
func ipamMemory(ctx context.Context) (mib float64, err error) {
	before := heapBytes()
	n, err := startIPAM(ctx, 0, ipam.Config{Birth: ipam.Seed(ipamPeers(1000)...), Store: new(ipam.MemStore)})
	if err != nil {
		return 0, err
	}
	for i := range 1000 {
		if _, err := n.Allocate(ctx, fmt.Sprintf("container-%04d", i), netip.Prefix{}); err != nil {
			return 0, errors.Join(err, n.stop())
		}
	}
	msg := n.state()
	for range 10 {
		if _, err := n.bus.receiver.OnGossip(msg); err != nil {
			return 0, errors.Join(err, n.stop())
		}
	}
	after := heapBytes()
	runtime.KeepAlive(msg)
	return float64(after-before) / (1 << 20), n.stop()
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// loneBus is a carrier that reaches nobody.
type loneBus struct {
	self     gossip.Member
	receiver gossip.Receiver
}

var _ gossip.Bus = (*loneBus)(nil)

func (l *loneBus) Join(_ string, r gossip.Receiver) (gossip.Sender, error) {
	l.receiver = r
	return l, nil
}

func (l *loneBus) Self() gossip.Member                              { return l.self }
func (l *loneBus) Members() []gossip.Member                         { return []gossip.Member{l.self} }
func (l *loneBus) Member(n peer.Name) (gossip.Member, bool)         { return l.self, n == l.self.Name }
func (l *loneBus) Broadcast(gossip.Data)                            {}
func (l *loneBus) Gossip(gossip.Data)                               {}
func (l *loneBus) Unicast(context.Context, peer.Name, []byte) error { return gossip.ErrUnreachable }

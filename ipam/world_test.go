package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// world is a cluster in one process and one bubble of time.
type world struct {
	t        testing.TB
	bus      *gossiptest.Bus
	universe netip.Prefix
	stores   map[peer.Name]*ipam.MemStore
	nodes    map[peer.Name]*node
	runs     peer.UID
	made     func(*ipam.Allocator) // is given each before it runs; nil: nothing
}

// node is one run of one peer.
type node struct {
	*ipam.Allocator
	name   peer.Name
	carry  *gossiptest.Node
	cancel context.CancelFunc
	done   chan error
}

// inWorld runs f in a bubble, in a cluster that is torn down after.
func inWorld(t *testing.T, universe string, c gossiptest.Config, f func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, bus: gossiptest.New(c), universe: netip.MustParsePrefix(universe),
			stores: make(map[peer.Name]*ipam.MemStore), nodes: make(map[peer.Name]*node),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.bus.Run(ctx) }()
		synctest.Wait()
		f(t, w)
		for name := range w.nodes {
			w.stop(name)
		}
		cancel()
		require.NoError(t, <-done)
		require.Zero(t, w.bus.Stats().Panics, "%v", w.bus.Faults())
	})
}

func name(i int) peer.Name { return peer.Name(0x020000000000 + uint64(i)) }

// start starts a peer, or starts it again with what it had stored.
func (w *world) start(i int, tweak func(*ipam.Config)) *node {
	w.t.Helper()
	w.runs++
	n := &node{name: name(i), done: make(chan error, 1)}
	require.Nil(w.t, w.nodes[n.name])
	if w.stores[n.name] == nil {
		w.stores[n.name] = new(ipam.MemStore)
	}
	n.carry = w.bus.Node(gossip.Member{Name: n.name, UID: w.runs, Nickname: fmt.Sprintf("host%d", i)})
	c := ipam.Config{Bus: n.carry, Universe: w.universe, Store: w.stores[n.name]}
	if tweak != nil {
		tweak(&c)
	}
	var err error
	n.Allocator, err = ipam.New(c)
	require.NoError(w.t, err)
	if w.made != nil {
		w.made(n.Allocator)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	n.cancel = cancel
	go func() { n.done <- n.Run(ctx) }()
	n.carry.Start()
	w.nodes[n.name] = n
	return n
}

// stop ends a peer in good order.
func (w *world) stop(p peer.Name) {
	n := w.nodes[p]
	delete(w.nodes, p)
	n.cancel()
	require.NoError(w.t, <-n.done)
	n.carry.Crash()
}

// kill ends a peer as a power cut would: what is not stored by now never will be.
func (w *world) kill(p peer.Name) {
	w.stores[p].Fail(errors.New("power cut"))
	w.stop(p)
	w.stores[p].Fail(nil)
}

// within returns a context that ends after d.
func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	w.t.Cleanup(cancel)
	return ctx
}

// allocate wants an address for owner at n within a minute.
func (w *world) allocate(n *node, owner string) netip.Prefix {
	w.t.Helper()
	p, err := n.Allocate(w.within(time.Minute), owner, netip.Prefix{})
	require.NoError(w.t, err, "%v: %s", n.name, n.Status().State)
	return p
}

// requireOneRing checks that all peers that run have the same ring, and that no address is held twice.
func (w *world) requireOneRing() {
	w.t.Helper()
	var first []ipam.Entry
	for _, n := range w.sorted() {
		var entries []ipam.Entry
		for _, e := range n.Status().Entries {
			entries = append(entries, ipam.Entry{Token: e.Token, Size: e.Size, Peer: e.Peer})
		}
		require.NotEmpty(w.t, entries, "%v has no ring", n.name)
		if first == nil {
			first = entries
		}
		require.Equal(w.t, first, entries, "ring of %v", n.name)
	}
	w.requireNoDouble()
}

// requireNoDouble checks that no address is held at two places.
func (w *world) requireNoDouble() {
	w.t.Helper()
	if double := w.double(func(*node) bool { return true }, nil); double != "" {
		require.Fail(w.t, double)
	}
}

// double names an address that is held at two places, of those for which counts holds, unless excused holds for both; nil
// excuses nothing. It is empty if none is.
func (w *world) double(counts func(*node) bool, excused func(a netip.Addr, at, other peer.Name) bool) string {
	type where struct {
		who string
		at  peer.Name
	}
	holder := make(map[netip.Addr]where)
	for _, n := range w.sorted() {
		if !counts(n) {
			continue
		}
		for _, o := range n.Owners() {
			for _, p := range o.Addrs {
				if !w.universe.Contains(p.Addr()) {
					continue
				}
				who := fmt.Sprintf("%s at %v", o.Owner, n.name)
				other, taken := holder[p.Addr()]
				if taken && (excused == nil || !excused(p.Addr(), n.name, other.at)) {
					return fmt.Sprintf("%v is held by %s and by %s", p, other.who, who)
				}
				holder[p.Addr()] = where{who, n.name}
			}
		}
	}
	return ""
}

func (w *world) sorted() []*node {
	var list []*node
	for _, n := range w.nodes {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *node) int { return int(int64(a.name) - int64(b.name)) })
	return list
}

// eventually waits until ok, for at most d.
func (w *world) eventually(d time.Duration, what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(d)
	for !ok() {
		require.True(w.t, time.Now().Before(deadline), "not in %v: %s", d, what)
		w.pass(100 * time.Millisecond)
	}
}

// pass lets time of the bubble pass.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func consensus(n int) func(*ipam.Config) {
	return func(c *ipam.Config) { c.Birth = ipam.Consensus(n) }
}

func seed(list ...int) func(*ipam.Config) {
	var names []peer.Name
	for _, i := range list {
		names = append(names, name(i))
	}
	return func(c *ipam.Config) { c.Birth = ipam.Seed(names...) }
}

package gossiptest

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// Config sets what the network between the peers is like. The zero value is a network that delays but loses nothing.
type Config struct {
	// Seed starts all the draws.
	Seed uint64
	// Delay is the mean time a message takes; each takes from half to three halves of it. 0 means 10 ms.
	Delay time.Duration
	// Loss is the share of messages that are lost, from 0 to 1.
	Loss float64
	// Duplicate is the share of messages that arrive twice, from 0 to 1.
	Duplicate float64
	// Interval is the time between two rounds in which a node sends its complete state to some neighbours. 0 means 30 s,
	// negative means never.
	Interval time.Duration
	// Gone is how long a peer that is out of reach stays in the membership. Until then messages to it are lost without an
	// error; then OnPeerGone is called. 0 means 10 s, negative means that it stays.
	Gone time.Duration
	// Queue is how many messages may wait for one Receiver; more are dropped. 0 means 1,000.
	Queue int
}

func (c Config) withDefaults() Config {
	c.Delay = max(cmp.Or(c.Delay, 10*time.Millisecond), 1)
	c.Interval = cmp.Or(c.Interval, 30*time.Second)
	c.Gone = cmp.Or(c.Gone, 10*time.Second)
	c.Queue = cmp.Or(c.Queue, 1000)
	return c
}

// Bus joins nodes. It is safe for concurrent use.
type Bus struct {
	config Config
	wake   chan struct{} // holds one token while there is something new for Run to look at

	mu       sync.Mutex // guards all below, and the fields of nodes and channels that say so
	nodes    map[peer.Name]*Node
	runs     map[peer.Name]uint64 // how many nodes of a name there have been
	groups   map[peer.Name]int    // the partition; absent means group 0
	agenda   agenda
	stats    Stats
	faults   []error
	running  bool
	finished bool
}

// New makes a bus without nodes.
func New(c Config) *Bus {
	return &Bus{
		config: c.withDefaults(),
		wake:   make(chan struct{}, 1),
		nodes:  map[peer.Name]*Node{},
		runs:   map[peer.Name]uint64{},
		groups: map[peer.Name]int{},
	}
}

// Run starts the nodes there are, moves messages until ctx ends, and returns nil when all its goroutines have ended. A bus
// runs once.
func (b *Bus) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.running || b.finished {
		b.mu.Unlock()
		return errors.New("gossiptest: bus runs once")
	}
	b.running = true
	for _, n := range b.sortedNodes() {
		b.start(n)
	}
	b.mu.Unlock()

	b.loop(ctx)

	b.mu.Lock()
	b.finished = true
	nodes := b.sortedNodes()
	b.mu.Unlock()
	for _, n := range nodes {
		n.Crash()
	}
	return nil
}

func (b *Bus) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.wake:
		}
		if wait, ok := b.runDue(); ok {
			timer.Reset(wait)
		}
	}
}

// runDue does what is due and returns the time until there is more to do.
func (b *Bus) runDue() (wait time.Duration, ok bool) {
	for {
		b.mu.Lock()
		if len(b.agenda) == 0 {
			b.mu.Unlock()
			return 0, false
		}
		if wait = time.Until(b.agenda[0].at); wait > 0 {
			b.mu.Unlock()
			return wait, true
		}
		e := heap.Pop(&b.agenda).(*entry)
		b.mu.Unlock()
		e.do()
	}
}

// at puts do on the agenda. Order at one instant is by owner and not by arrival, so that it does not depend on the
// scheduler. The caller holds mu.
func (b *Bus) at(when time.Time, owner *channel, do func()) {
	if b.finished {
		return
	}
	owner.entries++
	e := &entry{at: when, owner: owner, seq: owner.entries, do: do}
	heap.Push(&b.agenda, e)
	if b.agenda[0] == e {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

// entry is something to do at a time.
type entry struct {
	at    time.Time
	owner *channel
	seq   uint64
	do    func()
}

// agenda is a heap of entries.
type agenda []*entry

func (a agenda) Len() int      { return len(a) }
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(*entry)) }

func (a agenda) Less(i, j int) bool {
	x, y := a[i], a[j]
	if c := x.at.Compare(y.at); c != 0 {
		return c < 0
	}
	return cmp.Or(
		cmp.Compare(x.owner.node.self.Name, y.owner.node.self.Name),
		cmp.Compare(x.owner.node.run, y.owner.node.run),
		cmp.Compare(x.owner.name, y.owner.name),
		cmp.Compare(x.seq, y.seq),
	) < 0
}

func (a *agenda) Pop() any {
	old := *a
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	return e
}

// draws returns the random source of one channel of one run of a peer. Each has its own, so that what one draws does not
// depend on when the others do.
func (b *Bus) draws(n *Node, channel string) *rand.Rand {
	h := fnv.New64a()
	name := n.self.Name.Bytes()
	_, _ = h.Write(name[:])
	_, _ = h.Write([]byte(channel))
	return rand.New(rand.NewPCG(b.config.Seed^n.run<<48, h.Sum64()))
}

// Stats counts messages. One that goes to several peers counts once for each.
type Stats struct {
	Sent       uint64 // handed to the network
	Lost       uint64 // by chance, or because the receiver was out of reach when they arrived
	Duplicated uint64
	Delivered  uint64 // handed to a Receiver
	Overflowed uint64 // dropped because too many waited for a Receiver
	Oversized  uint64 // longer than gossip.MaxMessage, not sent
	Errors     uint64 // returned by Receivers
	Panics     uint64 // of Receivers and of Data
}

// Stats returns the counts so far.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

// maxFaults bounds what Faults remembers.
const maxFaults = 16

// Faults returns the first errors and panics of Receivers, sixteen at most. A panic comes with its stack.
func (b *Bus) Faults() []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]error(nil), b.faults...)
}

var _ gossip.Bus = (*Node)(nil)

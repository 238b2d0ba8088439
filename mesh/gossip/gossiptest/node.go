package gossiptest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// Node is one run of one peer on a bus, from Start to Crash. It is the [gossip.Bus] that this peer's components see. It is
// safe for concurrent use.
type Node struct {
	bus  *Bus
	self gossip.Member
	run  uint64 // counts the nodes of this name

	// guarded by bus.mu
	state    nodeState
	channels map[string]*channel
	clock    *channel             // owns what is on the agenda for the node as a whole
	view     map[peer.Name]*sight // the membership without ourselves

	down chan struct{} // closed by Crash
	wg   sync.WaitGroup
}

type nodeState uint8

const (
	fresh nodeState = iota // channels may be joined
	up
	crashed
)

// sight is what a node knows of another.
type sight struct {
	member gossip.Member
	run    uint64
	lost   bool // out of reach; a new sight takes its place if it comes back
}

// Node adds a peer, or a new run of one whose node has crashed; it panics if the peer has a node already. Components join
// the node's channels, then it is started, by Run or by Start.
func (b *Bus) Node(m gossip.Member) *Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !m.Name.IsValid() || b.nodes[m.Name] != nil {
		panic(fmt.Sprintf("gossiptest: invalid or repeated node %s", m.Name))
	}
	b.runs[m.Name]++
	n := &Node{
		bus: b, self: m, run: b.runs[m.Name],
		channels: map[string]*channel{},
		view:     map[peer.Name]*sight{},
		down:     make(chan struct{}),
	}
	n.clock = &channel{node: n}
	b.nodes[m.Name] = n
	return n
}

// Join implements [gossip.Bus].
func (n *Node) Join(name string, r gossip.Receiver) (gossip.Sender, error) {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	if n.state != fresh {
		return nil, fmt.Errorf("gossiptest: join %q: %w", name, gossip.ErrRunning)
	}
	if n.channels[name] != nil {
		return nil, fmt.Errorf("gossiptest: join %q: %w", name, gossip.ErrChannelTaken)
	}
	c := &channel{node: n, name: name, receiver: r, rand: n.bus.draws(n, name), inbox: make(chan func() error, n.bus.config.Queue)}
	n.channels[name] = c
	return c, nil
}

// Self implements [gossip.Bus].
func (n *Node) Self() gossip.Member { return n.self }

// Member implements [gossip.Bus].
func (n *Node) Member(name peer.Name) (gossip.Member, bool) {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	if name == n.self.Name {
		return n.self, true
	}
	if s := n.view[name]; s != nil {
		return s.member, true
	}
	return gossip.Member{}, false
}

// Members implements [gossip.Bus].
func (n *Node) Members() []gossip.Member {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	members := []gossip.Member{n.self}
	for _, s := range n.view {
		members = append(members, s.member)
	}
	slices.SortFunc(members, func(a, b gossip.Member) int { return cmp.Compare(a.Name, b.Name) })
	return members
}

// Start lets a node that was made while the bus runs take part. It is idempotent.
func (n *Node) Start() {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	n.bus.start(n)
}

// Crash ends the node between two calls of a Receiver, and waits for calls that are under way; so it may not be called
// from a Receiver. What its senders send from then on goes nowhere. Others learn of it as Config.Gone says. A new node of
// the same name is a restart. It is idempotent.
func (n *Node) Crash() {
	b := n.bus
	b.mu.Lock()
	if n.state != crashed {
		n.state = crashed
		close(n.down)
		delete(b.nodes, n.self.Name)
		b.reachChanged()
	}
	b.mu.Unlock()
	n.wg.Wait()
}

// channel is one channel of one node: its sender, and the queue before its receiver.
type channel struct {
	node     *Node
	name     string
	receiver gossip.Receiver
	inbox    chan func() error

	// guarded by bus.mu
	rand    *rand.Rand
	entries uint64
}

var _ gossip.Sender = (*channel)(nil)

// Unicast implements [gossip.Sender].
func (c *channel) Unicast(ctx context.Context, to peer.Name, msg []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(msg) > gossip.MaxMessage {
		return fmt.Errorf("gossiptest: unicast of %d bytes, at most %d", len(msg), gossip.MaxMessage)
	}
	b, from := c.node.bus, c.node.self.Name
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.node.state != up || c.node.view[to] == nil {
		return fmt.Errorf("gossiptest: unicast from %s to %s: %w", from, to, gossip.ErrUnreachable)
	}
	c.transmit(to, msg, func(d *channel, m []byte) error { return d.receiver.OnUnicast(from, m) })
	return nil
}

// Broadcast implements [gossip.Sender].
func (c *channel) Broadcast(data gossip.Data) { c.spread(c.node.self.Name, data) }

// Gossip implements [gossip.Sender].
func (c *channel) Gossip(data gossip.Data) { c.pass(data, c.someNeighbours) }

// spread sends data to this node's children in the broadcast tree of source.
func (c *channel) spread(source peer.Name, data gossip.Data) {
	c.encode(data, func() []peer.Name { return c.node.children(source) }, func(d *channel, m []byte) error {
		result, err := d.receiver.OnBroadcast(source, m)
		if result != nil {
			d.spread(source, result)
		}
		return err
	})
}

// pass sends data to the neighbours that to names.
func (c *channel) pass(data gossip.Data, to func() []peer.Name) {
	c.encode(data, to, func(d *channel, m []byte) error {
		result, err := d.receiver.OnGossip(m)
		if result != nil {
			d.Gossip(result)
		}
		return err
	})
}

// encode has data encoded and sent, a moment later: the sender's caller may hold locks that Encode needs. It calls to with
// bus.mu held.
func (c *channel) encode(data gossip.Data, to func() []peer.Name, deliver func(*channel, []byte) error) {
	if data == nil {
		return
	}
	b := c.node.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at(time.Now().Add(1), c, func() {
		var messages [][]byte
		c.guard(func() error { messages = data.Encode(); return nil })
		b.mu.Lock()
		defer b.mu.Unlock()
		if c.node.state != up {
			return
		}
		for _, name := range to() {
			for _, m := range messages {
				if len(m) > gossip.MaxMessage {
					b.stats.Oversized++
					continue
				}
				c.transmit(name, m, deliver)
			}
		}
	})
}

// transmit puts a copy of a message on its way, or none, or two. The caller holds bus.mu.
func (c *channel) transmit(to peer.Name, msg []byte, deliver func(*channel, []byte) error) {
	b := c.node.bus
	b.stats.Sent++
	copies := 1
	if c.rand.Float64() < b.config.Duplicate {
		b.stats.Duplicated++
		copies = 2
	}
	for range copies {
		if c.rand.Float64() < b.config.Loss {
			b.stats.Lost++
			continue
		}
		msg, run := bytes.Clone(msg), b.runOf(to)
		delay := b.config.Delay/2 + time.Duration(c.rand.Int64N(int64(b.config.Delay)+1))
		b.at(time.Now().Add(max(delay, 1)), c, func() { c.arrive(to, run, func(d *channel) error { return deliver(d, msg) }) })
	}
}

// arrive hands what was sent to a run of a peer over to its channel, if it is still in reach. The sender may have crashed
// since.
func (c *channel) arrive(to peer.Name, run uint64, do func(*channel) error) {
	b := c.node.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[to]
	if n == nil || n.run != run || n.state != up || b.groups[to] != b.groups[c.node.self.Name] {
		b.stats.Lost++
		return
	}
	if d := n.channels[c.name]; d != nil {
		d.enqueue(func() error {
			b.mu.Lock()
			b.stats.Delivered++
			b.mu.Unlock()
			return do(d)
		})
	}
}

// enqueue has do done in the channel's goroutine. The caller holds bus.mu.
func (c *channel) enqueue(do func() error) {
	select {
	case c.inbox <- do:
	default:
		c.node.bus.stats.Overflowed++
	}
}

// sendState asks the receiver for its complete state and sends it.
func (c *channel) sendState(to func() []peer.Name) {
	c.enqueue(func() error {
		c.pass(c.receiver.State(), to)
		return nil
	})
}

// serve calls the receiver until the node crashes.
func (c *channel) serve() {
	for {
		select {
		case <-c.node.down:
			return
		default:
		}
		select {
		case <-c.node.down:
			return
		case do := <-c.inbox:
			c.guard(do)
		}
	}
}

// guard calls into the component and notes what goes wrong.
func (c *channel) guard(do func() error) {
	b := c.node.bus
	note := func(count *uint64, format string, args ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		*count++
		if len(b.faults) < maxFaults {
			b.faults = append(b.faults, fmt.Errorf("%s, channel %q: "+format, append([]any{c.node.self.Name, c.name}, args...)...))
		}
	}
	defer func() {
		if p := recover(); p != nil {
			note(&b.stats.Panics, "panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := do(); err != nil {
		note(&b.stats.Errors, "%w", err)
	}
}

// someNeighbours draws about log2 of the number of peers in reach. The caller holds bus.mu.
func (c *channel) someNeighbours() []peer.Name {
	names := c.node.neighbours()
	c.rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(len(names), bits.Len(uint(len(names))))]
}

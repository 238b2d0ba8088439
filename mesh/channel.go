package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	maxInbox      = 1024     // messages that wait for a channel's receiver
	maxInboxBytes = 32 << 20 // and their bytes
)

// channel joins a receiver with the mesh. Its goroutines call the application: one hands it what has come, the other
// encodes what is to go. Whatever the application does hurts its channel alone: links only ever queue.
type channel struct {
	name     string
	receiver gossip.Receiver
	router   *Router
	work     laneQueue
	stats    channelCounters
	ended    chan struct{} // closed when run has returned

	mu     sync.Mutex
	inbox  []message
	bytes  int // of inbox
	gone   []peer.Name
	states []*link // that get the full state
	all    bool    // a choice of neighbours gets the full state
	signal chan struct{}
}

type channelCounters struct {
	received, receivedBytes atomic.Uint64
	sent, sentBytes         atomic.Uint64
	dropped, faults         atomic.Uint64
	lastFault               atomic.Pointer[string]
}

func newChannel(r *Router, name string, recv gossip.Receiver) *channel {
	return &channel{
		name: name, receiver: recv, router: r,
		signal: make(chan struct{}, 1), work: laneQueue{signal: make(chan struct{}, 1)}, ended: make(chan struct{}),
	}
}

// Unicast implements gossip.Sender.
func (c *channel) Unicast(ctx context.Context, to peer.Name, msg []byte) error {
	v := c.router.view.Load()
	l := v.linkTo(to)
	if l == nil {
		return c.unreachable(to)
	}
	if len(msg) > gossip.MaxMessage {
		return fmt.Errorf("mesh: channel %s: %w: %d bytes, limit %d", c.name, errTooLong, len(msg), gossip.MaxMessage)
	}
	enc := encodeMessage(tagUnicast, c.name, c.router.cfg.Name, to, msg)
	if err := l.out.urgentWait(ctx, enc); errors.Is(err, errEnding) {
		return c.unreachable(to)
	} else if err != nil {
		return fmt.Errorf("mesh: channel %s: unicast to %s: %w", c.name, to, err)
	}
	c.stats.noteSent(len(enc))
	l.kick()
	return nil
}

// unreachable returns the error for a peer to which no link leads.
func (c *channel) unreachable(to peer.Name) error {
	reason := gossip.ErrUnreachable
	select {
	case <-c.router.stopped:
		reason = ErrClosed
	default:
	}
	return fmt.Errorf("mesh: channel %s: unicast to %s: %w", c.name, to, reason)
}

// Broadcast implements gossip.Sender.
func (c *channel) Broadcast(data gossip.Data) {
	if data != nil {
		c.spread(c.router.cfg.Name, data)
	}
}

// Gossip implements gossip.Sender.
func (c *channel) Gossip(data gossip.Data) {
	if data != nil {
		c.passToSome(c.router.cfg.Name, data)
	}
}

// spread sends data down the tree of src.
func (c *channel) spread(src peer.Name, data gossip.Data) {
	v := c.router.view.Load()
	it := &item{data: data}
	for _, hop := range v.graph.spread(src) {
		c.queue(v.links[hop], src, it)
	}
}

// passToSome sends data to neighbours other than one.
func (c *channel) passToSome(except peer.Name, data gossip.Data) {
	v := c.router.view.Load()
	it := &item{data: data}
	for _, hop := range v.graph.choose(except, randomInt) {
		c.queue(v.links[hop], 0, it)
	}
}

func (c *channel) queue(l *link, src peer.Name, it *item) {
	if l != nil && !l.lanes[c].ended.Load() {
		l.lanes[c].push(src, it)
	}
}

func (c *channelCounters) noteSent(bytes int) {
	c.sent.Add(1)
	c.sentBytes.Add(uint64(bytes))
}

func (c *channelCounters) noteReceived(bytes int) {
	c.received.Add(1)
	c.receivedBytes.Add(uint64(bytes))
}

// fault notes that the application has failed.
func (c *channel) fault(what string, err error) {
	c.stats.faults.Add(1)
	text := what + ": " + err.Error()
	c.stats.lastFault.Store(&text)
	c.router.cfg.Log.Warn("gossip receiver failed", "channel", c.name, "in", what, "err", err)
}

// deliver queues what has come from the network; if the queue is full it is dropped.
func (c *channel) deliver(m message) {
	c.mu.Lock()
	full := len(c.inbox) >= maxInbox || c.bytes > 0 && c.bytes+len(m.payload) > maxInboxBytes
	if !full {
		c.inbox = append(c.inbox, m)
		c.bytes += len(m.payload)
	}
	c.mu.Unlock()
	c.stats.noteReceived(len(m.payload))
	if full {
		c.stats.dropped.Add(1)
		return
	}
	c.wake()
}

// peersGone queues the news that peers have left.
func (c *channel) peersGone(names []peer.Name) {
	c.mu.Lock()
	c.gone = append(c.gone, names...)
	if over := len(c.gone) - maxPeers; over > 0 {
		c.gone = slices.Delete(c.gone, 0, over)
		c.stats.dropped.Add(uint64(over))
	}
	c.mu.Unlock()
	c.wake()
}

// wantState asks for the full state: for one link or, if that is nil, for a choice of neighbours.
func (c *channel) wantState(l *link) {
	c.mu.Lock()
	if l == nil {
		c.all = true
	} else if !slices.Contains(c.states, l) {
		c.states = append(c.states, l)
	}
	c.mu.Unlock()
	c.wake()
}

// forget has nothing more done for a link that has ended.
func (c *channel) forget(l *link) {
	c.mu.Lock()
	c.states = slices.DeleteFunc(c.states, func(s *link) bool { return s == l })
	c.mu.Unlock()
	c.work.end(l.lanes[c])
}

func (c *channel) wake() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// run calls the application until ctx ends.
func (c *channel) run(ctx context.Context) {
	defer close(c.ended)
	var encoder sync.WaitGroup
	encoder.Go(func() { c.encode(ctx) })
	c.serve(ctx)
	encoder.Wait()
}

// serve calls the receiver until ctx ends.
func (c *channel) serve(ctx context.Context) {
	for {
		select {
		case <-c.signal:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		inbox, gone, states, all := c.inbox, c.gone, c.states, c.all
		c.inbox, c.bytes, c.gone, c.states, c.all = nil, 0, nil, nil, false
		c.mu.Unlock()
		for _, m := range inbox {
			if ctx.Err() != nil {
				return
			}
			c.handle(m)
		}
		for _, name := range gone {
			if ctx.Err() != nil {
				return
			}
			c.call("peer gone", func() (gossip.Data, error) { c.receiver.OnPeerGone(name); return nil, nil })
		}
		if all || len(states) > 0 {
			c.sendState(states, all)
		}
	}
}

// call calls the application; the result is nil if it fails.
func (c *channel) call(what string, f func() (gossip.Data, error)) (data gossip.Data) {
	err := guard(func() (err error) {
		data, err = f()
		return err
	})
	if err != nil {
		c.fault(what, err)
		return nil
	}
	return data
}

func (c *channel) handle(m message) {
	switch m.tag {
	case tagUnicast:
		c.call("unicast", func() (gossip.Data, error) { return nil, c.receiver.OnUnicast(m.src, m.payload) })
	case tagBroadcast:
		data := c.call("broadcast", func() (gossip.Data, error) { return c.receiver.OnBroadcast(m.src, m.payload) })
		if data != nil && m.src != c.router.cfg.Name {
			c.spread(m.src, data)
		}
	case tagGossip:
		data := c.call("gossip", func() (gossip.Data, error) { return c.receiver.OnGossip(m.payload) })
		if data != nil {
			c.passToSome(m.src, data)
		}
	}
}

func (c *channel) sendState(links []*link, all bool) {
	data := c.call("state", func() (gossip.Data, error) { return c.receiver.State(), nil })
	if data == nil {
		return
	}
	it := &item{data: data}
	for _, l := range links {
		c.queue(l, 0, it)
	}
	if all {
		c.passToSome(c.router.cfg.Name, data)
	}
}

// encode encodes what is to go over links that are ready for it, until ctx ends.
func (c *channel) encode(ctx context.Context) {
	for {
		select {
		case <-c.work.signal:
		case <-ctx.Done():
			return
		}
		for _, l := range c.work.takeAll() {
			if ctx.Err() != nil {
				return
			}
			c.encodeLane(l)
		}
	}
}

// encodeLane has the next thing that waits in a lane written.
func (c *channel) encodeLane(l *lane) {
	for {
		src, it := l.take()
		if it == nil {
			return
		}
		pieces, err := it.pieces()
		if err != nil {
			c.fault("encode", err)
		}
		tag := byte(tagBroadcast)
		if src == 0 {
			tag, src = tagGossip, c.router.cfg.Name
		}
		var messages [][]byte
		for _, p := range pieces {
			if len(p) > gossip.MaxMessage {
				c.fault("encode", fmt.Errorf("%w: %d bytes, limit %d", errTooLong, len(p), gossip.MaxMessage))
				continue
			}
			msg := encodeMessage(tag, c.name, src, 0, p)
			c.stats.noteSent(len(msg))
			messages = append(messages, msg)
		}
		if len(messages) > 0 {
			l.link.out.pushLane(l, messages)
			l.link.kick()
			return
		}
	}
}

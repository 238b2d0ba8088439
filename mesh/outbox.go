package mesh

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	maxUrgent = 1 << 20 // bytes of unicasts and control messages that wait at a link; one message of any size always fits
	maxRaw    = 1 << 20 // bytes of messages on channels we do not serve
	maxBatch  = 8 << 10 // bytes after which a writer writes
)

// outbox is what waits to be sent over a link. A message is in one of four places: urgent ones (heartbeats, unicasts,
// overlay control) first; then topology, as names whose entries are read when they are sent; then what channels have
// encoded, one piece of work per channel; then what is merely passed on. The first and the last are bounded in bytes, the
// second by the number of peers, the third by coalescing in the lanes. It is safe for concurrent use.
type outbox struct {
	mu      sync.Mutex
	urgent  messageQueue
	raw     messageQueue
	topo    map[peer.Name]struct{}
	topoAll bool          // the whole topology
	flush   bool          // topology may go
	ready   []work        // of lanes
	writing bool          // a goroutine is at it
	closed  bool          // nothing is taken any more
	room    chan struct{} // closed when there is room among the urgent; nil if nobody waits

	dropped atomic.Uint64
}

// messageQueue is a list of messages that knows its size.
type messageQueue struct {
	list  [][]byte
	bytes int
}

func (q *messageQueue) push(msg []byte) { q.list, q.bytes = append(q.list, msg), q.bytes+len(msg) }

func (q *messageQueue) take() (list [][]byte) {
	list, *q = q.list, messageQueue{}
	return list
}

// urgentNow queues a message, or fails with errQueueFull or errEnding. The outbox keeps msg.
func (o *outbox) urgentNow(msg []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pushUrgentLocked(msg)
}

func (o *outbox) pushUrgentLocked(msg []byte) error {
	if o.closed {
		return errEnding
	}
	if o.urgent.bytes > 0 && o.urgent.bytes+len(msg) > maxUrgent {
		o.dropped.Add(1)
		return fmt.Errorf("%w: %d bytes wait", errQueueFull, o.urgent.bytes)
	}
	o.urgent.push(msg)
	return nil
}

// urgentWait queues a message as soon as there is room.
func (o *outbox) urgentWait(ctx context.Context, msg []byte) error {
	for {
		o.mu.Lock()
		if o.closed || o.urgent.bytes == 0 || o.urgent.bytes+len(msg) <= maxUrgent {
			err := o.pushUrgentLocked(msg)
			o.mu.Unlock()
			return err
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errQueueFull, ctx.Err())
		}
	}
}

// passOn queues a message of a channel we do not serve, or drops it.
func (o *outbox) passOn(msg []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.raw.bytes > 0 && o.raw.bytes+len(msg) > maxRaw {
		o.dropped.Add(1)
		return
	}
	o.raw.push(msg)
}

// addTopology notes that entries of these peers, maxPeers at most, are to be sent at the next flush; nil means all.
func (o *outbox) addTopology(names []peer.Name) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if names == nil {
		o.topoAll = true
	}
	if o.topo == nil && len(names) > 0 {
		o.topo = make(map[peer.Name]struct{}, len(names))
	}
	for _, n := range names {
		o.topo[n] = struct{}{}
	}
	if len(o.topo) > maxPeers { // of which many are gone by now
		o.topo, o.topoAll = nil, true
	}
}

// omitTopology takes names back that the other end has shown to know.
func (o *outbox) omitTopology(names []peer.Name) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range names {
		delete(o.topo, n)
	}
}

// flushTopology lets the topology go that waits, and reports whether there is any.
func (o *outbox) flushTopology() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush = o.topoAll || len(o.topo) > 0
	return o.flush
}

// pushLane queues what a channel has encoded of a lane. It is released when that is written.
func (o *outbox) pushLane(l *lane, messages [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.ready = append(o.ready, work{lane: l, messages: messages})
	}
}

// wake calls start, which starts a writer, if there is something to write and nobody at it.
func (o *outbox) wake(start func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || o.closed || o.emptyLocked() {
		return
	}
	o.writing = true
	start()
}

// idle reports whether the writer may end because nothing waits; then the next message starts another.
func (o *outbox) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = !o.emptyLocked()
	return !o.writing
}

func (o *outbox) emptyLocked() bool {
	return len(o.urgent.list) == 0 && len(o.raw.list) == 0 && len(o.ready) == 0 && !o.flush
}

// work is what a writer takes from the outbox at once.
type work struct {
	messages [][]byte
	topology []peer.Name // nil with all: everything
	all      bool
	lane     *lane // to be released when the messages are written
}

// next takes some work; ok is false if there is none.
func (o *outbox) next() (w work, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.urgent.list) > 0:
		w.messages = o.urgent.take()
		if o.room != nil {
			close(o.room)
			o.room = nil
		}
	case o.flush:
		w.all = o.topoAll
		for n := range o.topo {
			w.topology = append(w.topology, n)
		}
		o.topo, o.topoAll, o.flush = nil, false, false
	case len(o.ready) > 0:
		w, o.ready = o.ready[0], o.ready[1:]
	case len(o.raw.list) > 0:
		w.messages = o.raw.take()
	default:
		return w, false
	}
	return w, true
}

// close drops everything and refuses more.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.flush, o.topoAll, o.topo, o.ready = true, false, false, nil, nil
	o.urgent, o.raw = messageQueue{}, messageQueue{}
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// depth returns how many messages and pieces of work wait.
func (o *outbox) depth() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.urgent.list) + len(o.raw.list) + len(o.ready) + len(o.topo)
}

package mesh

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// maxSources bounds the sources whose broadcasts wait in a lane; the oldest are dropped.
const maxSources = 1024

// item is Data on its way to any number of links; it is encoded once.
type item struct {
	data gossip.Data
	once sync.Once
	enc  [][]byte
	err  error
}

// pieces returns the encoded data. Errors are those of the application, a panic included.
func (i *item) pieces() ([][]byte, error) {
	i.once.Do(func() {
		i.err = guard(func() error {
			i.enc = i.data.Encode()
			return nil
		})
	})
	return i.enc, i.err
}

// merge returns the union of both; if the application cannot make it, the newer one.
func (i *item) merge(newer *item) (out *item, err error) {
	if i == nil || i == newer {
		return newer, nil
	}
	out = &item{}
	err = guard(func() error {
		out.data = i.data.Merge(newer.data)
		return nil
	})
	if err != nil || out.data == nil {
		return newer, err
	}
	return out, nil
}

// guard calls into an application and makes an error of its panic.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// lane is what one channel has to send over one link (section 5.6 of the mesh specification): at most one piece of gossip,
// and one broadcast for each source, into which more is merged. While something of it is on its way to the wire, what
// comes is merged and waits; so a slow link costs memory only as far as the data grows when it is merged.
//
//	idle --push--> queued in channel.work --encodeLane--> queued in outbox.ready --write--> queued in channel.work again
//	  ^                                        |
//	  +------------- nothing waits ------------+
//
// Everybody else only pushes, whatever the state; whoever takes the lane out of a queue has it alone.
type lane struct {
	link  *link
	ch    *channel
	ended atomic.Bool // the link is no more; the lane is not queued again

	mu     sync.Mutex // not held while a lane is encoded or written, but while it merges
	gossip *item
	casts  map[peer.Name]*item
	order  []peer.Name // sources of casts, oldest first
	busy   bool        // not idle
}

// push adds an item: gossip if src is zero, else a broadcast of src.
func (l *lane) push(src peer.Name, it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if src == 0 {
		l.gossip, err = l.gossip.merge(it)
	} else {
		err = l.pushCastLocked(src, it)
	}
	if err != nil {
		l.ch.fault("merge", err)
	}
	if !l.busy {
		l.busy = true
		l.ch.work.push(l)
	}
}

func (l *lane) pushCastLocked(src peer.Name, it *item) (err error) {
	have := l.casts[src]
	if have == nil {
		if l.casts == nil {
			l.casts = map[peer.Name]*item{}
		}
		if len(l.order) == maxSources {
			delete(l.casts, l.order[0])
			l.order = l.order[1:]
			l.ch.stats.dropped.Add(1)
		}
		l.order = append(l.order, src)
	}
	l.casts[src], err = have.merge(it)
	return err
}

// take removes one item, gossip first.
func (l *lane) take() (src peer.Name, it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if it = l.gossip; it != nil {
		l.gossip = nil
		return 0, it
	}
	if len(l.order) == 0 {
		l.busy = false
		return 0, nil
	}
	src = l.order[0]
	it, l.order = l.casts[src], l.order[1:]
	delete(l.casts, src)
	return src, it
}

// release tells that what was encoded is written, or will never be. It only queues, so that a link does not wait for an
// application that merges.
func (l *lane) release() { l.ch.work.push(l) }

// laneQueue holds the lanes of a channel that have something to encode, each once.
type laneQueue struct {
	mu     sync.Mutex
	lanes  []*lane
	signal chan struct{} // capacity 1
}

func (q *laneQueue) push(l *lane) {
	q.mu.Lock()
	if !l.ended.Load() {
		q.lanes = append(q.lanes, l)
	}
	q.mu.Unlock()
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// end takes a lane out for good.
func (q *laneQueue) end(l *lane) {
	l.ended.Store(true)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lanes = slices.DeleteFunc(q.lanes, func(have *lane) bool { return have == l })
}

func (q *laneQueue) takeAll() []*lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.lanes
	q.lanes = nil
	return out
}

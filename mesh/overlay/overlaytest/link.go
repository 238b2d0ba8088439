package overlaytest

import (
	"bytes"
	"sync"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	// tagHeard is the control message that says: your frames reach me.
	tagHeard = 1
	// linkQueue is how many batches of frames wait for a receiver; more are dropped.
	linkQueue = 1024
	// linkMTU is what a link reports.
	linkMTU = 1500
)

// link is one end of an in-memory wire. One goroutine makes all its calls to the outside, so that they come in order and
// with no lock held.
type link struct {
	net     *Network
	id      wireID
	params  overlay.Params
	frames  chan []overlay.Frame // batches that arrived
	wake    chan struct{}        // holds a token while calls is not empty
	done    chan struct{}        // closed by Close
	running sync.WaitGroup

	// guarded by net.mu
	confirmed, answered, established, failed, closed bool

	calls  []func() // to be made in order; few, since each kind of event comes from a test
	reason error
	sent   overlay.Counter
	recv   overlay.Counter
	drops  map[string]uint64
}

func newLink(o *Overlay, p overlay.Params) *link {
	return &link{
		net: o.net, id: wireID{o.name, p.ConnUID}, params: p,
		frames: make(chan []overlay.Frame, linkQueue),
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		drops:  map[string]uint64{},
	}
}

func (l *link) run() {
	for {
		select {
		case <-l.done:
			return
		case <-l.wake:
			l.makeCalls()
		case frames := <-l.frames:
			l.params.Receive(frames)
		}
	}
}

func (l *link) makeCalls() {
	for {
		l.net.mu.Lock()
		if len(l.calls) == 0 || l.closed {
			l.net.mu.Unlock()
			return
		}
		call := l.calls[0]
		l.calls = l.calls[1:]
		l.net.mu.Unlock()
		call()
	}
}

// queueLocked has the link's goroutine make a call. The caller holds net.mu.
func (l *link) queueLocked(call func()) {
	l.calls = append(l.calls, call)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// event notes a change and has it reported, if the link is in a state to report anything. The caller holds net.mu.
func (l *link) event(e overlay.Event) {
	if !l.confirmed || l.failed || l.closed {
		return
	}
	switch e.Kind {
	case overlay.Established:
		l.established = true
	case overlay.Failed:
		l.failed = true
	}
	l.reason = e.Err
	l.queueLocked(func() { l.params.Report(e) })
}

// Confirm implements [overlay.Link].
func (l *link) Confirm() {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.confirmed = true
	l.net.probe(l.id)
}

// Control implements [overlay.Link].
func (l *link) Control(tag byte, payload []byte) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	switch {
	case l.closed:
	case tag != tagHeard || len(payload) != 0:
		l.drops["bad_control"]++
	case !l.established:
		l.event(overlay.Event{Kind: overlay.Established})
	}
}

// Send implements [overlay.Link].
func (l *link) Send(frames []overlay.Frame) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if !l.confirmed || l.failed || l.closed {
		l.drops["not_up"] += uint64(len(frames))
		return
	}
	count(&l.sent, frames)
	other := l.net.otherEnd(l)
	if other == nil || !l.net.carries(l) {
		l.drops["lost"] += uint64(len(frames))
		return
	}
	copies := make([]overlay.Frame, len(frames))
	for i, f := range frames {
		copies[i] = overlay.Frame{Data: bytes.Clone(f.Data), Src: f.Src, Dst: f.Dst}
	}
	select {
	case other.frames <- copies:
		count(&other.recv, frames)
	default:
		other.drops["queue_full"] += uint64(len(frames))
	}
}

func count(c *overlay.Counter, frames []overlay.Frame) {
	c.Frames += uint64(len(frames))
	for _, f := range frames {
		c.Bytes += uint64(len(f.Data))
	}
}

// Status implements [overlay.Link].
func (l *link) Status() overlay.LinkStatus {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	s := overlay.LinkStatus{
		Overlay: l.id.overlay, Encrypted: l.params.Key != nil, Established: l.established, MTU: linkMTU,
		Remote: l.params.RemoteAddr, Sent: l.sent, Received: l.recv, Drops: map[string]uint64{},
	}
	if l.reason != nil {
		s.Reason = l.reason.Error()
	}
	for reason, n := range l.drops {
		s.Drops[reason] = n
	}
	return s
}

// Close implements [overlay.Link].
func (l *link) Close() {
	l.net.mu.Lock()
	if !l.closed {
		l.closed = true
		l.net.remove(l)
		close(l.done)
	}
	l.net.mu.Unlock()
	l.running.Wait()
}

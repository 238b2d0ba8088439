package odptest

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// datagramSize is what messages of a listing are put together to.
const datagramSize = 4096

// socket is a queue of datagrams. Readers wait on channels, so it can be used in a bubble of testing/synctest.
type socket struct {
	k      *Kernel
	port   uint32
	room   int  // bytes that may wait
	silent bool // losses are neither told nor end queueing

	mu       sync.Mutex
	queue    [][]byte
	size     int
	listing  [][]byte // messages that wait for room in the queue
	overrun  bool     // a loss is to be told
	latched  bool     // after a loss nothing is queued until the queue is empty
	deadline time.Time
	groups   map[uint32]bool
	closed   bool
	changed  chan struct{} // closed and replaced at each change
}

func newSocket(k *Kernel, port uint32, room int, silent bool) *socket {
	if room <= 0 {
		room = 212992
	}
	return &socket{k: k, port: port, room: room, silent: silent, groups: make(map[uint32]bool), changed: make(chan struct{})}
}

// wake lets readers look again. The caller holds mu.
func (s *socket) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// deliver queues a datagram; if there is no room it is lost, and the reader told so.
func (s *socket) deliver(b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.latched || s.size+len(b) > s.room {
		s.overrun = s.overrun || !s.latched && !s.silent
		s.latched = !s.silent
		return false
	}
	s.push(b)
	return true
}

// push queues a datagram. The caller holds mu.
func (s *socket) push(b []byte) {
	s.queue = append(s.queue, b)
	s.size += len(b)
	s.wake()
}

// list begins a listing, unless one is still going on.
func (s *socket) list(messages [][]byte) (begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listing) > 0 {
		return false
	}
	s.listing = messages
	s.fill()
	return true
}

// fill queues more of a listing, until half of the room is taken. The caller holds mu.
func (s *socket) fill() {
	for len(s.listing) > 0 && s.size <= s.room/2 {
		var b []byte
		for len(s.listing) > 0 && (b == nil || len(b)+len(s.listing[0]) <= datagramSize) {
			b = append(b, s.listing[0]...)
			s.listing = s.listing[1:]
		}
		s.push(b)
	}
}

// Send implements odp.Socket.
func (s *socket) Send(messages []byte) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	return s.k.handle(s, append([]byte(nil), messages...))
}

// Receive implements odp.Socket.
func (s *socket) Receive(bufs [][]byte, lengths []int) (int, error) {
	for {
		n, wait, timeout, err := s.take(bufs, lengths)
		if n > 0 || err != nil {
			return n, err
		}
		if timeout == nil {
			<-wait
			continue
		}
		select {
		case <-wait:
		case <-timeout.C:
		}
		timeout.Stop()
	}
}

// take reads what there is, or else returns what to wait for.
func (s *socket) take(bufs [][]byte, lengths []int) (n int, wait chan struct{}, timeout *time.Timer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, nil, nil, net.ErrClosed
	case s.overrun:
		s.overrun, s.latched = false, len(s.queue) > 0
		return 0, nil, nil, syscall.ENOBUFS
	}
	for n < len(bufs) && len(s.queue) > 0 {
		b := s.queue[0]
		s.queue, s.size = s.queue[1:], s.size-len(b)
		copy(bufs[n], b)
		lengths[n] = len(b)
		n++
	}
	s.latched = s.latched && len(s.queue) > 0
	s.fill()
	if n > 0 || s.deadline.IsZero() {
		return n, s.changed, nil, nil
	}
	left := time.Until(s.deadline)
	if left <= 0 {
		return 0, nil, nil, os.ErrDeadlineExceeded
	}
	return 0, s.changed, time.NewTimer(left), nil
}

// SetDeadline implements odp.Socket.
func (s *socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.deadline = t
	s.wake()
	return nil
}

// Join implements odp.Socket.
func (s *socket) Join(group uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[group] = true
	return nil
}

func (s *socket) joined(group uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[group]
}

// Port implements odp.Socket.
func (s *socket) Port() uint32 { return s.port }

// Close implements odp.Socket.
func (s *socket) Close() error {
	s.k.with(func() { delete(s.k.sockets, s.port) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake()
	return nil
}

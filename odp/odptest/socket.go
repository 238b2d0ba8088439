package odptest

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// socket is a queue of datagrams. Readers wait on channels, so it can be used in a bubble of testing/synctest.
type socket struct {
	k    *Kernel
	port uint32
	room int // bytes that may wait

	mu       sync.Mutex
	queue    [][]byte
	size     int
	overrun  bool
	deadline time.Time
	groups   map[uint32]bool
	closed   bool
	changed  chan struct{} // closed and replaced at each change
}

func newSocket(k *Kernel, port uint32, room int) *socket {
	if room <= 0 {
		room = 212992
	}
	return &socket{k: k, port: port, room: room, groups: make(map[uint32]bool), changed: make(chan struct{})}
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
	if s.closed || s.size+len(b) > s.room {
		s.overrun = s.overrun || !s.closed
		return false
	}
	s.queue = append(s.queue, b)
	s.size += len(b)
	s.wake()
	return true
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
		s.overrun = false
		return 0, nil, nil, syscall.ENOBUFS
	}
	for n < len(bufs) && len(s.queue) > 0 {
		b := s.queue[0]
		s.queue, s.size = s.queue[1:], s.size-len(b)
		copy(bufs[n], b)
		lengths[n] = len(b)
		n++
	}
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

package odp

import (
	"errors"
	"syscall"
	"time"
)

// Protocols of netlink that this package asks a [Config]'s Dial for.
const (
	ProtocolRoute   = 0  // devices, for tunnels
	ProtocolGeneric = 16 // everything else
)

// Socket is a netlink socket: the seam between this package and the kernel. Package odptest has one without a kernel. Send and
// Receive may be called at the same time as each other, as SetDeadline and as Close, but neither at the same time as itself.
type Socket interface {
	// Send sends one or more whole messages, each aligned to 4 bytes. It keeps nothing of them.
	Send(messages []byte) error

	// Receive waits until there is a datagram and reads as many as there are, at most one into each buffer. It returns their
	// number and their lengths; a length greater than its buffer means that the datagram was cut off. The error
	// is syscall.ENOBUFS once after datagrams were lost, os.ErrDeadlineExceeded if the deadline has passed and there is no
	// datagram, and net.ErrClosed after Close.
	Receive(bufs [][]byte, lengths []int) (n int, err error)

	// SetDeadline ends waiting at a time, also of calls in progress. The zero time is never.
	SetDeadline(t time.Time) error

	// Join subscribes to a multicast group.
	Join(group uint32) error

	// Port returns the number at which the kernel sends to this socket (often called pid).
	Port() uint32

	// Close ends all calls. It is idempotent.
	Close() error
}

// SocketOptions are what a socket needs to be told when it is made.
type SocketOptions struct {
	Protocol      int
	ReceiveBuffer int  // bytes that the kernel may queue
	NetNS         int  // descriptor of the network namespace; 0 is the caller's
	Silent        bool // losses are not reported as ENOBUFS, and do not end queueing until the queue has been emptied
}

// drainFor bounds the time that emptying a queue takes, if it is filled all the while.
const drainFor = 50 * time.Millisecond

// drain empties the queue of a socket, and reports whether it is empty. After a loss the kernel queues nothing more until then, and does
// not say so again. It changes the socket's deadline.
func drain(s Socket, bufs [][]byte, lengths []int) (empty bool) {
	if s.SetDeadline(time.Unix(1, 0)) != nil {
		return true // it is closed
	}
	for end := time.Now().Add(drainFor); time.Now().Before(end); {
		if _, err := s.Receive(bufs, lengths); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return true // there was nothing, or never will be
		}
	}
	return false
}

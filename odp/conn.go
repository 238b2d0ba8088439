package odp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Config configures [Open]. Its zero value is ready to use.
type Config struct {
	// Dial opens the sockets; nil means [DialKernel].
	Dial func(SocketOptions) (Socket, error)

	// NetNS is the descriptor of the network namespace whose datapaths are meant; 0 is the namespace of the thread that calls
	// Open. It must stay open as long as the Conn. Sockets belong to a namespace for ever, so the Conn may be used anywhere.
	NetNS int

	// Timeout bounds every request whose context has no earlier deadline; 0 means 5 seconds.
	Timeout time.Duration

	// ReceiveBuffer is the number of bytes that the kernel may queue for each socket; 0 means 4 MiB. More than
	// net.core.rmem_max takes CAP_NET_ADMIN; without it, the kernel gives what it allows.
	ReceiveBuffer int

	// MaxDump bounds the bytes that one listing may take; 0 means 1 GiB.
	MaxDump int
}

func (c Config) withDefaults() Config {
	if c.Dial == nil {
		c.Dial = DialKernel
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.ReceiveBuffer <= 0 {
		c.ReceiveBuffer = 4 << 20
	}
	if c.MaxDump <= 0 {
		c.MaxDump = 1 << 30
	}
	return c
}

const (
	receiveSize  = 68 << 10 // the largest message of the datapath, and the headers
	receiveCount = 8
	maxAttempts  = 6 // of a listing
)

// Conn asks the kernel. Its methods are safe for concurrent use; requests go out one after the other, and each has a deadline.
// After an error the Conn is still usable: answers that come too late are told by their numbers and dropped.
type Conn struct {
	cfg      Config // constant
	families families
	closed   atomic.Bool

	turn chan struct{} // holds a token while nobody asks; it guards all below
	sock Socket
	seq  uint32
	enc  nla.Encoder
	bufs [][]byte
	lens []int

	probed answers
}

// Open opens a Conn and finds out what the kernel has. It fails with an [UnsupportedError] where there is no Open vSwitch
// datapath; asking makes the kernel load the module if it may.
func Open(ctx context.Context, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	sock, err := cfg.Dial(SocketOptions{Protocol: ProtocolGeneric, ReceiveBuffer: cfg.ReceiveBuffer, NetNS: cfg.NetNS})
	if err != nil {
		return nil, opError("open a netlink socket", err)
	}
	c := newConn(cfg, sock)
	if err := c.findFamilies(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newConn(cfg Config, sock Socket) *Conn {
	c := &Conn{cfg: cfg, sock: sock, turn: make(chan struct{}, 1), lens: make([]int, receiveCount)}
	for range receiveCount {
		c.bufs = append(c.bufs, make([]byte, receiveSize))
	}
	c.turn <- struct{}{}
	return c
}

// Close ends all requests with net.ErrClosed. It is idempotent. What was made in the kernel stays.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.sock.Close()
}

// begin waits for the turn and arms the deadline. The function it returns gives the turn back.
func (c *Conn) begin(ctx context.Context) (end func(), err error) {
	return c.beginWithin(ctx, c.cfg.Timeout)
}

func (c *Conn) beginWithin(ctx context.Context, timeout time.Duration) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.closed.Load() {
		c.turn <- struct{}{}
		return nil, net.ErrClosed
	}
	deadline := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.sock.SetDeadline(deadline); err != nil {
		c.turn <- struct{}{}
		return nil, err
	}
	disarm := interruptOn(ctx, c.sock)
	return func() { disarm(); c.turn <- struct{}{} }, nil
}

// interruptOn has a socket's calls end when ctx ends. The function it returns undoes that, and when it has returned the
// socket's deadline is not touched any more.
func interruptOn(ctx context.Context, s Socket) (disarm func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = s.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-fired
		}
	}
}

// do sends one request and calls visit for each message that answers it, until it is acknowledged or refused. The messages
// are valid during the call only.
func (c *Conn) do(ctx context.Context, op string, r request, visit func(m message) error) error {
	end, err := c.begin(ctx)
	if err != nil {
		return opError(op, err)
	}
	defer end()
	c.seq++
	c.enc = nla.Encoder{B: c.enc.B[:0]}
	r.flags |= flagAck
	mark := appendRequest(&c.enc, r, c.seq)
	if r.body != nil {
		r.body(&c.enc)
	}
	endRequest(&c.enc, mark)
	if c.enc.Err != nil {
		return opError(op, c.enc.Err)
	}
	if err := c.sock.Send(c.enc.B); err != nil {
		return opError(op, c.cause(ctx, err))
	}
	var visitErr error
	err = c.receive(ctx, func(m message) (bool, error) {
		if m.seq != c.seq {
			return false, nil // the late answer to a request that was given up
		}
		if m.typ == msgError || m.typ == msgDone {
			return true, refusal(op, m)
		}
		if visit != nil && visitErr == nil {
			visitErr = visit(m)
		}
		return false, nil
	})
	if err == nil {
		err = visitErr
	}
	return opError(op, err)
}

// refusal returns the error in an ERROR or DONE message, nil if it is an acknowledgement.
func refusal(op string, m message) error {
	text, offset, err := m.status()
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Err: err, Message: text, Offset: offset}
}

// receive calls f for each message until it says that it was the last.
func (c *Conn) receive(ctx context.Context, f func(m message) (last bool, err error)) error {
	for {
		n, err := c.sock.Receive(c.bufs, c.lens)
		if err != nil {
			return c.cause(ctx, err)
		}
		for i := range n {
			last, err := eachMessage(c.bufs[i], c.lens[i], f)
			if last || err != nil {
				return err
			}
		}
	}
}

// eachMessage calls f for the messages of a datagram. One that was cut off or makes no sense is as good as lost.
func eachMessage(buf []byte, n int, f func(m message) (last bool, err error)) (bool, error) {
	if n > len(buf) {
		return false, fmt.Errorf("%w: an answer of %d bytes", ErrUnknownOutcome, n)
	}
	for rest := buf[:n]; len(rest) > 0; {
		m, more, err := nextMessage(rest)
		if err != nil {
			return false, err
		}
		rest = more
		if last, err := f(m); last || err != nil {
			return last, err
		}
	}
	return false, nil
}

// cause explains the failure of a socket.
func (c *Conn) cause(ctx context.Context, err error) error {
	switch {
	case c.closed.Load():
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	case errors.Is(err, syscall.ENOBUFS):
		drain(c.sock, c.bufs, c.lens) // so that the next request can be answered
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return err
}

// dump sends a request to list and returns the datagrams of the answer. A listing during which the table changed, or of which
// a part was lost, is repeated.
func (c *Conn) dump(ctx context.Context, op string, r request) ([][]byte, error) {
	r.flags |= flagDump
	for range maxAttempts {
		parts, again, err := c.dumpOnce(ctx, op, r)
		if err != nil {
			return nil, opError(op, err)
		}
		if !again {
			return parts, nil
		}
	}
	return nil, opError(op, ErrDumpInterrupted)
}

func (c *Conn) dumpOnce(ctx context.Context, op string, r request) (parts [][]byte, again bool, err error) {
	end, err := c.begin(ctx)
	if err != nil {
		return nil, false, err
	}
	defer end()
	c.seq++
	c.enc = nla.Encoder{B: c.enc.B[:0]}
	mark := appendRequest(&c.enc, r, c.seq)
	if r.body != nil {
		r.body(&c.enc)
	}
	endRequest(&c.enc, mark)
	if err := c.sock.Send(c.enc.B); err != nil {
		return nil, false, c.cause(ctx, err)
	}
	size := 0
	for {
		n, err := c.sock.Receive(c.bufs, c.lens)
		if errors.Is(err, syscall.ENOBUFS) {
			drain(c.sock, c.bufs, c.lens)
			return nil, true, nil
		}
		if err != nil {
			return nil, false, c.cause(ctx, err)
		}
		for i := range n {
			part, last, interrupted, err := c.dumpPart(op, c.bufs[i], c.lens[i])
			if errors.Is(err, syscall.EBUSY) { // an abandoned listing of this socket is still running
				return nil, true, nil
			}
			if err != nil {
				return nil, false, err
			}
			again = again || interrupted
			if size += len(part); size > c.cfg.MaxDump {
				return nil, false, fmt.Errorf("listing longer than %d bytes", c.cfg.MaxDump)
			}
			if parts = append(parts, part); last {
				return parts, again, nil
			}
		}
	}
}

// dumpPart returns a copy of those messages of a datagram that answer the current listing.
func (c *Conn) dumpPart(op string, buf []byte, n int) (part []byte, last, interrupted bool, err error) {
	if n > len(buf) {
		return nil, false, false, fmt.Errorf("%w: an answer of %d bytes", ErrUnknownOutcome, n)
	}
	start := -1
	for at := 0; at < n; {
		m, rest, err := nextMessage(buf[at:n])
		if err != nil {
			return nil, false, false, err
		}
		next := n - len(rest)
		if m.seq != c.seq {
			at = next
			continue
		}
		interrupted = interrupted || m.flags&flagInterrupted != 0
		if m.typ == msgDone || m.typ == msgError {
			last, err = true, refusal(op, m)
			if err != nil {
				return nil, true, interrupted, err
			}
		} else if start < 0 {
			start = at
		}
		at = next
	}
	if start >= 0 {
		part = bytes.Clone(buf[start:n])
	}
	return part, last, interrupted, nil
}

// each calls f for the messages of a listing that are of a family, until it returns false.
func each(parts [][]byte, fam family, f func(dp Index, attrs []byte) bool) error {
	for _, part := range parts {
		for len(part) > 0 {
			m, rest, err := nextMessage(part)
			if err != nil {
				return err
			}
			part = rest
			if m.typ != fam.id {
				continue
			}
			_, dp, attrs, err := m.ovs()
			if err != nil {
				return err
			}
			if !f(dp, attrs) {
				return nil
			}
		}
	}
	return nil
}

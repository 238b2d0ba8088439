package odp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Config configures [Open]. Its zero value is ready to use.
type Config struct {
	// Dial opens the sockets; nil means [DialKernel].
	Dial func(SocketOptions) (Socket, error)

	// NetNS is the descriptor of the network namespace whose datapaths are meant; it must stay open as long as the Conn. 0 is the
	// namespace of the thread that calls Open, which the Conn then keeps alive until it is closed. All that the Conn does is done
	// there, from whatever thread; from a thread elsewhere, opening readers and making devices needs CAP_SYS_ADMIN.
	NetNS int

	// Timeout bounds every request whose context has no earlier deadline, from the call on, with the wait for other requests; 0 means
	// 5 seconds. A listing is one request; a batch gets as much again for each 1024 of its requests.
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
)

// Conn asks the kernel. Its methods are safe for concurrent use; requests go out one after the other, and each has a deadline.
// After an error the Conn is still usable: answers that come too late are told by their numbers and dropped.
type Conn struct {
	cfg      Config // constant
	families families
	closed   atomic.Bool

	dialing sync.RWMutex // held for reading while sockets are opened in netns, for writing while that is closed
	netns   *os.File     // what cfg.NetNS is the descriptor of if it was not given; nil if it was, or if there is no way to one

	life context.Context // ends with the Conn
	end  context.CancelFunc

	turn     chan struct{} // holds a token while nobody asks; it guards all below
	sock     Socket
	deadline time.Time
	seq      uint32
	enc      nla.Encoder
	bufs     [][]byte
	lens     []int

	probed answers
}

// Open opens a Conn and finds out what the kernel has. It fails with an [UnsupportedError] where there is no Open vSwitch
// datapath; asking makes the kernel load the module if it may.
func Open(ctx context.Context, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	var netns *os.File
	if cfg.NetNS == 0 {
		if netns = openNetNS(); netns != nil {
			cfg.NetNS = int(netns.Fd())
		}
	}
	sock, err := cfg.Dial(SocketOptions{Protocol: ProtocolGeneric, ReceiveBuffer: cfg.ReceiveBuffer, NetNS: cfg.NetNS})
	if err != nil {
		_ = netns.Close()
		return nil, opError("open a netlink socket", err)
	}
	c := newConn(cfg, sock, receiveCount)
	c.netns = netns
	if err := c.findFamilies(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// newConn returns a Conn that receives so many datagrams at once.
func newConn(cfg Config, sock Socket, receive int) *Conn {
	c := &Conn{cfg: cfg, sock: sock, turn: make(chan struct{}, 1), lens: make([]int, receive)}
	c.life, c.end = context.WithCancel(context.Background())
	for range receive {
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
	c.end()
	err := c.sock.Close()
	c.dialing.Lock()
	defer c.dialing.Unlock()
	if c.netns != nil {
		err = errors.Join(err, c.netns.Close())
	}
	return err
}

// dial opens another socket in the Conn's namespace.
func (c *Conn) dial(o SocketOptions) (Socket, error) {
	c.dialing.RLock()
	defer c.dialing.RUnlock()
	if c.closed.Load() {
		return nil, net.ErrClosed
	}
	o.NetNS = c.cfg.NetNS
	return c.cfg.Dial(o)
}

// begin waits for the turn and arms the deadline. The function it returns gives the turn back.
func (c *Conn) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	deadline := c.until(ctx)
	if err := c.await(ctx, deadline); err != nil {
		return nil, err
	}
	c.deadline = deadline
	disarm := interruptOn(ctx, c.sock)
	end = func() { disarm(); c.turn <- struct{}{} }
	if err := c.arm(ctx); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// until returns when a request that begins now is to be done.
func (c *Conn) until(ctx context.Context) time.Time {
	deadline := time.Now().Add(c.cfg.Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		return d
	}
	return deadline
}

// await takes the turn.
func (c *Conn) await(ctx context.Context, deadline time.Time) error {
	select {
	case <-c.turn:
		return nil
	default:
	}
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		if err := ended(ctx); err != nil {
			return err
		}
		return fmt.Errorf("other requests take too long: %w", os.ErrDeadlineExceeded)
	}
}

// arm sets the socket's deadline.
func (c *Conn) arm(ctx context.Context) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	if err := c.sock.SetDeadline(c.deadline); err != nil {
		return err
	}
	return ctx.Err() // if the context has ended before, its own deadline may have been overwritten
}

// ended returns why a context has ended. Its own timer may be later than another for the same deadline.
func ended(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
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
	r.flags |= flagAck
	if err := c.send(ctx, r); err != nil {
		return opError(op, err)
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

// send sends a request, under a number of its own.
func (c *Conn) send(ctx context.Context, r request) error {
	c.seq++
	c.enc = nla.Encoder{B: c.enc.B[:0]}
	mark := appendRequest(&c.enc, r, c.seq)
	if r.body != nil {
		r.body(&c.enc)
	}
	if c.enc.Err != nil {
		return c.enc.Err
	}
	endRequest(&c.enc, mark)
	if err := c.sock.Send(c.enc.B); err != nil {
		return c.cause(ctx, err)
	}
	return nil
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
		if ctx.Err() != nil || !time.Now().Before(c.deadline) { // what there is is received beyond the deadline too
			return c.cause(ctx, os.ErrDeadlineExceeded)
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
	case errors.Is(err, syscall.ENOBUFS):
		drain(c.sock, c.bufs, c.lens) // so that the next request can be answered
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, cmp.Or(ended(ctx), err))
	}
	return err
}

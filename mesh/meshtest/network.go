// Package meshtest has a network in memory for tests of programs that use the mesh: routers that take their connections from
// it need no sockets, and run under testing/synctest, so that minutes of a mesh of many peers pass in moments.
//
// A [Network] has hosts, each with an address. Between two hosts traffic may be cut and healed, delayed, and connections
// may be reset.
package meshtest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const pipeBuffer = 256 << 10 // bytes that one direction of a connection holds, like a socket's buffers

// Network connects hosts in memory. It is safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
	conns     map[*conn]struct{} // dialled ends
	cut       map[[2]netip.Addr]bool
	names     map[string][]netip.Addr
	port      uint16
	delay     time.Duration
}

// NewNetwork returns a network in which everybody reaches everybody; bytes take delay from one end to the other.
func NewNetwork(delay time.Duration) *Network {
	return &Network{
		listeners: map[netip.AddrPort]*listener{}, conns: map[*conn]struct{}{}, cut: map[[2]netip.Addr]bool{},
		names: map[string][]netip.Addr{}, port: 32768, delay: delay,
	}
}

// SetName makes a host name resolve to addresses.
func (n *Network) SetName(name string, addrs ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = addrs
}

func pair(a, b netip.Addr) [2]netip.Addr {
	if b.Less(a) {
		a, b = b, a
	}
	return [2]netip.Addr{a, b}
}

// Cut stops all traffic between two addresses: what is sent waits, and nobody gets through to connect.
func (n *Network) Cut(a, b netip.Addr) { n.setCut(a, b, true) }

// Heal ends a Cut: what waited arrives.
func (n *Network) Heal(a, b netip.Addr) { n.setCut(a, b, false) }

func (n *Network) setCut(a, b netip.Addr, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cut {
		n.cut[pair(a, b)] = true
	} else {
		delete(n.cut, pair(a, b))
	}
	for c := range n.conns {
		if pair(c.local.Addr(), c.remote.Addr()) == pair(a, b) {
			c.in.setCut(cut)
			c.out.setCut(cut)
		}
	}
}

// Reset breaks all connections between two addresses.
func (n *Network) Reset(a, b netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if pair(c.local.Addr(), c.remote.Addr()) == pair(a, b) {
			c.in.fail(syscall.ECONNRESET)
			c.out.fail(syscall.ECONNRESET)
		}
	}
}

// Host returns the network as seen from an address: connections that are dialled come from there.
func (n *Network) Host(addr netip.Addr) *Host { return &Host{net: n, addr: addr} }

// Host is a host of a Network. It implements the Network of package mesh.
type Host struct {
	net  *Network
	addr netip.Addr
}

// Listen opens a listener on the host's address, whatever the address in at says; port 0 means 6783.
func (h *Host) Listen(_ context.Context, at netip.AddrPort) (net.Listener, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	addr := netip.AddrPortFrom(h.addr, cmp.Or(at.Port(), 6783))
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, syscall.EADDRINUSE)
	}
	l := &listener{net: n, addr: addr, backlog: make(chan *conn, 128), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Resolve returns what [Network.SetName] has set.
func (h *Host) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if addrs := h.net.names[host]; len(addrs) > 0 {
		return slices.Clone(addrs), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Dial connects to a listener. Behind a cut it waits until ctx ends or ten seconds have passed.
func (h *Host) Dial(ctx context.Context, _ netip.Addr, to netip.AddrPort) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	l, cut := n.listeners[to], n.cut[pair(h.addr, to.Addr())]
	if l == nil || cut {
		n.mu.Unlock()
		if !cut {
			return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
		}
		return nil, waitCut(ctx, to)
	}
	if n.port++; n.port < 32768 {
		n.port = 32768
	}
	local := netip.AddrPortFrom(h.addr, n.port)
	there, back := newPipe(n.delay), newPipe(n.delay)
	near := &conn{net: n, local: local, remote: to, in: back, out: there}
	far := &conn{net: n, local: to, remote: local, in: there, out: back}
	n.conns[near] = struct{}{}
	near.twin, far.twin = near, near
	n.mu.Unlock()
	select {
	case l.backlog <- far:
		return near, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	_ = near.Close()
	return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
}

func waitCut(ctx context.Context, to netip.AddrPort) error {
	t := time.NewTimer(10 * time.Second)
	defer t.Stop()
	select {
	case <-t.C:
		return fmt.Errorf("dial %s: %w", to, syscall.ETIMEDOUT)
	case <-ctx.Done():
		return fmt.Errorf("dial %s: %w", to, ctx.Err())
	}
}

type listener struct {
	net     *Network
	addr    netip.AddrPort
	backlog chan *conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// conn is one end of a connection.
type conn struct {
	net           *Network
	local, remote netip.AddrPort
	in, out       *pipe
	twin          *conn // the dialled end, as the network knows the connection
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *conn) LocalAddr() net.Addr         { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr        { return net.TCPAddrFromAddrPort(c.remote) }

// Close ends the connection: the other end reads what was written, and then io.EOF; what it writes fails.
func (c *conn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c.twin)
	c.net.mu.Unlock()
	c.out.finish()
	c.in.fail(net.ErrClosed)
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// pipe is one direction of a connection: a bounded row of pieces, each of which arrives at its time.
type pipe struct {
	delay time.Duration

	mu      sync.Mutex
	changed *sync.Cond
	pieces  []piece
	bytes   int
	over    bool  // nothing more will be written
	broken  error // nothing more can be read or written
	cut     bool
	readBy  deadline
	writeBy deadline
}

type piece struct {
	data []byte
	at   time.Time
}

// deadline wakes those who wait for a pipe.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newPipe(delay time.Duration) *pipe {
	p := &pipe{delay: delay}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) wakeAt(t time.Time) *time.Timer {
	return time.AfterFunc(time.Until(t), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
}

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.at = t
	switch {
	case t.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case d.timer == nil:
		d.timer = p.wakeAt(t)
	default:
		d.timer.Reset(time.Until(t))
	}
	p.changed.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.broken != nil:
			return 0, p.broken
		case p.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case !p.cut && len(p.pieces) > 0 && !p.pieces[0].at.After(time.Now()):
			n := copy(b, p.pieces[0].data)
			p.bytes -= n
			if p.pieces[0].data = p.pieces[0].data[n:]; len(p.pieces[0].data) == 0 {
				p.pieces = p.pieces[1:]
			}
			p.changed.Broadcast()
			return n, nil
		case !p.cut && len(p.pieces) == 0 && p.over:
			return 0, io.EOF
		}
		if !p.cut && len(p.pieces) > 0 {
			defer p.wakeAt(p.pieces[0].at).Stop()
		}
		p.changed.Wait()
	}
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		switch {
		case p.broken != nil:
			return n, syscall.EPIPE
		case p.over:
			return n, net.ErrClosed
		case p.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case p.bytes == pipeBuffer:
			p.changed.Wait()
			continue
		}
		k := min(len(b), pipeBuffer-p.bytes)
		p.pieces = append(p.pieces, piece{slices.Clone(b[:k]), time.Now().Add(p.delay)})
		p.bytes += k
		n, b = n+k, b[k:]
		p.changed.Broadcast()
	}
	return n, nil
}

func (p *pipe) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	p.changed.Broadcast()
}

// finish says that nothing more will be written.
func (p *pipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.stopLocked(&p.writeBy)
	p.changed.Broadcast()
}

// fail breaks the pipe for both ends.
func (p *pipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = err
	}
	p.stopLocked(&p.readBy)
	p.changed.Broadcast()
}

func (p *pipe) stopLocked(d *deadline) {
	if d.timer != nil {
		d.timer.Stop()
	}
}

// Package meshtest has a network in memory for tests of programs that use the mesh: routers that take their connections from
// it need no sockets, and run under testing/synctest, so that minutes of a mesh of many peers pass in moments.
//
// A [Network] has hosts, each with an address. Between two hosts traffic may be cut and healed, delayed, and connections
// may be reset; everywhere traffic may get lost.
package meshtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Network connects hosts in memory. It is safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
	conns     map[*conn]int // dialled ends, and how many ends are open
	cut       map[[2]netip.Addr]bool
	names     map[string][]netip.Addr
	port      uint16
	delay     time.Duration
	loss      atomic.Pointer[loss]
}

// NewNetwork returns a network in which everybody reaches everybody; bytes take delay from one end to the other.
func NewNetwork(delay time.Duration) *Network {
	return &Network{
		listeners: map[netip.AddrPort]*listener{}, conns: map[*conn]int{}, cut: map[[2]netip.Addr]bool{},
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
	if late, arrives := n.loss.Load().resend(firstSyn); late > 0 {
		if err := wait(ctx, min(late, dialLimit)); err != nil || !arrives || late > dialLimit {
			return nil, fmt.Errorf("dial %s: %w", to, cmp.Or[error](err, syscall.ETIMEDOUT))
		}
	}
	n.mu.Lock()
	l, cut := n.listeners[to], n.cut[pair(h.addr, to.Addr())]
	if l == nil || cut {
		n.mu.Unlock()
		if !cut {
			return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
		}
		return nil, fmt.Errorf("dial %s: %w", to, cmp.Or[error](wait(ctx, dialLimit), syscall.ETIMEDOUT))
	}
	n.port++
	if n.port < 32768 {
		n.port = 32768
	}
	local := netip.AddrPortFrom(h.addr, n.port)
	there, back := newPipe(n), newPipe(n)
	near := &conn{net: n, local: local, remote: to, in: back, out: there}
	far := &conn{net: n, local: to, remote: local, in: there, out: back}
	n.conns[near] = 2
	near.twin, far.twin = near, near
	n.mu.Unlock()
	select {
	case l.backlog <- far:
		return near, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	_ = near.Close()
	_ = far.Close()
	return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
}

// wait waits, and returns the context's error if that ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
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
	closing       sync.Once
}

func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }
func (c *conn) LocalAddr() net.Addr        { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr       { return net.TCPAddrFromAddrPort(c.remote) }

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	if errors.Is(err, syscall.ETIMEDOUT) {
		c.in.fail(syscall.ETIMEDOUT)
	}
	return n, err
}

// Close ends the connection: the other end reads what was written, and then io.EOF; what it writes fails.
func (c *conn) Close() error {
	c.closing.Do(func() {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		c.net.conns[c.twin]--
		if c.net.conns[c.twin] == 0 {
			delete(c.net.conns, c.twin)
		}
	})
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

// Package sleevetest is a network of UDP sockets in memory, so that a whole overlay of several peers runs in one process
// without sockets and without root. It loses, delays and reorders datagrams as told, has path MTUs that the system knows of
// and others that it does not, and address translation. It works inside bubbles of testing/synctest.
package sleevetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/overweave/overweave/sleeve"
)

const (
	ipOverhead   = 28 // IPv4 and UDP
	queueLen     = 1024
	defaultMTU   = 1500
	firstFreeUDP = 49152
)

// Shape is what the network does to datagrams.
type Shape struct {
	// MTU is the largest IP packet in bytes that the sending system believes to pass. Sending more with the don't-fragment
	// bit is an error. Zero means 1500.
	MTU int
	// RealMTU, if not zero, is the MTU of a hop on the way that throws away what is bigger and has the don't-fragment bit,
	// and tells nobody.
	RealMTU int
	// DropFragments: what is bigger than the MTU and may be fragmented does not arrive.
	DropFragments bool
	// Loss is the share of datagrams that do not arrive, from 0 to 1.
	Loss float64
	// Duplicate is the share of datagrams that arrive twice, from 0 to 1.
	Duplicate float64
	// Mark is the share of datagrams that are marked as congested, of those whose class says that marks are heeded, from 0
	// to 1.
	Mark float64
	// Delay is how long a datagram takes. Zero delivers within the call that sends it.
	Delay time.Duration
	// Jitter is added to the delay, evenly spread between zero and this; datagrams overtake each other.
	Jitter time.Duration
}

// Network joins sockets in memory. It is safe for concurrent use. Chance follows from its seed.
type Network struct {
	mu    sync.Mutex // guards what follows
	rand  *rand.Rand
	shape Shape
	conns map[netip.AddrPort]*Conn
	free  [][]byte
}

// New makes a network without loss and delay and with an MTU of 1500.
func New(seed uint64) *Network {
	return &Network{
		rand: rand.New(rand.NewPCG(seed, seed)), shape: Shape{MTU: defaultMTU}, conns: map[netip.AddrPort]*Conn{},
	}
}

// SetShape changes what the network does from now on.
func (n *Network) SetShape(s Shape) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.MTU == 0 {
		s.MTU = defaultMTU
	}
	n.shape = s
}

// Listen opens a socket. The address has to be a specific one; port 0 takes one that is free. The error wraps
// [syscall.EADDRINUSE] if it is taken.
func (n *Network) Listen(addr netip.AddrPort) (*Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if port := uint16(firstFreeUDP); addr.Port() == 0 {
		for n.conns[netip.AddrPortFrom(addr.Addr(), port)] != nil {
			port++
		}
		addr = netip.AddrPortFrom(addr.Addr(), port)
	}
	if n.conns[addr] != nil {
		return nil, fmt.Errorf("sleevetest: listen on %s: %w", addr, syscall.EADDRINUSE)
	}
	c := &Conn{network: n, local: addr, outside: addr, queue: make(chan datagram, queueLen), closed: make(chan struct{})}
	n.conns[addr] = c
	return c, nil
}

// datagram is one that has arrived.
type datagram struct {
	data  []byte
	from  netip.AddrPort
	class uint8
}

// send carries one datagram, or loses it.
func (n *Network) send(from *Conn, m *sleeve.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	size, s := len(m.Data)+ipOverhead, &n.shape
	switch {
	case len(m.Data) > sleeve.MaxDatagram, m.DontFragment && size > s.MTU:
		return syscall.EMSGSIZE
	case m.DontFragment && s.RealMTU != 0 && size > s.RealMTU,
		!m.DontFragment && s.DropFragments && size > s.MTU,
		s.Loss > 0 && n.rand.Float64() < s.Loss:
		return nil
	}
	n.deliverLater(from.outside, m)
	if s.Duplicate > 0 && n.rand.Float64() < s.Duplicate {
		n.deliverLater(from.outside, m)
	}
	return nil
}

// deliverLater delivers a copy of a datagram after the delay. The caller holds mu.
func (n *Network) deliverLater(from netip.AddrPort, m *sleeve.Message) {
	d := datagram{data: append(n.buffer(), m.Data...), from: from, class: m.Class}
	if m.Class&3 != 0 && n.shape.Mark > 0 && n.rand.Float64() < n.shape.Mark {
		d.class |= 3
	}
	delay := n.shape.Delay
	if n.shape.Jitter > 0 {
		delay += time.Duration(n.rand.Int64N(int64(n.shape.Jitter)))
	}
	to := m.Remote
	if delay == 0 {
		n.deliver(to, d)
		return
	}
	time.AfterFunc(delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.deliver(to, d)
	})
}

// deliver puts a datagram into the queue of a socket; it is lost if there is none, or if it is full. The caller holds mu.
func (n *Network) deliver(to netip.AddrPort, d datagram) {
	if c := n.conns[to]; c != nil {
		select {
		case c.queue <- d:
			return
		default:
		}
	}
	n.free = append(n.free, d.data[:0])
}

// buffer returns an empty buffer. The caller holds mu.
func (n *Network) buffer() []byte {
	if len(n.free) == 0 {
		return nil
	}
	b := n.free[len(n.free)-1]
	n.free = n.free[:len(n.free)-1]
	return b
}

var _ sleeve.ClassConn = (*Conn)(nil)

// Conn is a socket of a Network.
type Conn struct {
	network *Network
	local   netip.AddrPort
	outside netip.AddrPort // guarded by network.mu
	queue   chan datagram
	once    sync.Once
	closed  chan struct{}
}

// SetOutside gives the socket another address towards the network, as when address translation maps it anew: datagrams come
// from there, and only what is sent there arrives. LocalAddr stays as it is.
func (c *Conn) SetOutside(addr netip.AddrPort) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	delete(c.network.conns, c.outside)
	c.outside = addr
	c.network.conns[addr] = c
}

// Queues implements [sleeve.Conn].
func (c *Conn) Queues() int { return 1 }

// ReadBatch implements [sleeve.Conn].
func (c *Conn) ReadBatch(_ int, msgs []sleeve.Message) (int, error) {
	var d datagram
	select {
	case <-c.closed:
		return 0, c.errClosed("read")
	case d = <-c.queue:
	}
	for i := range msgs {
		m := &msgs[i]
		m.Data = append(m.Data[:0], d.data...)
		m.Remote, m.Class = d.from, d.class
		c.release(d)
		if i+1 == len(msgs) {
			break
		}
		select {
		case d = <-c.queue:
		default:
			return i + 1, nil
		}
	}
	return len(msgs), nil
}

func (c *Conn) release(d datagram) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.network.free = append(c.network.free, d.data[:0])
}

// ReadsClass implements [sleeve.ClassConn].
func (c *Conn) ReadsClass() bool { return true }

// WriteBatch implements [sleeve.Conn].
func (c *Conn) WriteBatch(msgs []sleeve.Message) (int, error) {
	for i := range msgs {
		select {
		case <-c.closed:
			return i, c.errClosed("write")
		default:
		}
		if err := c.network.send(c, &msgs[i]); err != nil {
			return i, fmt.Errorf("sleevetest: write: %w", err)
		}
	}
	return len(msgs), nil
}

func (c *Conn) errClosed(op string) error { return fmt.Errorf("sleevetest: %s: %w", op, net.ErrClosed) }

// PathMTU implements [sleeve.Conn].
func (c *Conn) PathMTU(netip.Addr) (int, error) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	return c.network.shape.MTU, nil
}

// LocalAddr implements [sleeve.Conn].
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Close implements [sleeve.Conn].
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.network.mu.Lock()
		defer c.network.mu.Unlock()
		delete(c.network.conns, c.outside)
		close(c.closed)
	})
	return nil
}

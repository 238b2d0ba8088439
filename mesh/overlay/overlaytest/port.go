package overlaytest

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
)

// portQueue is how many frames wait in each direction of a Port.
const portQueue = 4096

// Port is a port in memory: the test plays the host's stations. It is safe for concurrent use.
type Port struct {
	name string
	mtu  atomic.Int64
	in   chan []byte
	out  chan []byte
	done chan struct{}
	once sync.Once

	dropped atomic.Uint64
}

var _ overlay.Port = (*Port)(nil)

// NewPort makes a port with an MTU of 1,500 bytes.
func NewPort(name string) *Port {
	p := &Port{name: name, in: make(chan []byte, portQueue), out: make(chan []byte, portQueue), done: make(chan struct{})}
	p.mtu.Store(1500)
	return p
}

// Inject lets the host's stations send frames, copies of those given. It waits for room. After Close it returns an error
// that wraps [net.ErrClosed].
func (p *Port) Inject(frames ...[]byte) error {
	for _, f := range frames {
		select {
		case <-p.done:
			return p.closed()
		default:
		}
		select {
		case p.in <- append([]byte{}, f...):
		case <-p.done:
			return p.closed()
		}
	}
	return nil
}

// Written is where the frames arrive that were written to the port, for the stations of the host. Up to 4,096 wait there;
// more are dropped. It is never closed.
func (p *Port) Written() <-chan []byte { return p.out }

// Dropped returns how many frames were too long for a reader's buffer, or found the queue of Written full.
func (p *Port) Dropped() uint64 { return p.dropped.Load() }

// SetMTU changes what MTU returns.
func (p *Port) SetMTU(mtu int) { p.mtu.Store(int64(mtu)) }

// Name implements [overlay.Port].
func (p *Port) Name() string { return p.name }

// MTU implements [overlay.Port].
func (p *Port) MTU() int { return int(p.mtu.Load()) }

// Read implements [overlay.Port].
func (p *Port) Read(bufs [][]byte, sizes []int) (int, error) {
	n := 0
	for n < len(bufs) {
		frame, err := p.next(n == 0)
		if err != nil {
			return 0, err
		}
		if frame == nil {
			break
		}
		if len(frame) > len(bufs[n]) {
			p.dropped.Add(1)
			continue
		}
		sizes[n] = copy(bufs[n], frame)
		n++
	}
	return n, nil
}

// next returns the next frame of the host's, nil if there is none and wait is not set.
func (p *Port) next(wait bool) ([]byte, error) {
	if wait {
		select {
		case <-p.done:
			return nil, p.closed()
		default:
		}
		select {
		case f := <-p.in:
			return f, nil
		case <-p.done:
			return nil, p.closed()
		}
	}
	select {
	case f := <-p.in:
		return f, nil
	default:
		return nil, nil
	}
}

// Write implements [overlay.Port].
func (p *Port) Write(frames [][]byte) error {
	select {
	case <-p.done:
		return p.closed()
	default:
	}
	for _, f := range frames {
		select {
		case p.out <- bytes.Clone(f):
		default:
			p.dropped.Add(1)
		}
	}
	return nil
}

// Close implements [overlay.Port].
func (p *Port) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *Port) closed() error { return fmt.Errorf("overlaytest: port %s: %w", p.name, net.ErrClosed) }

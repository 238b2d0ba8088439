package meshtest

import (
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const pipeBuffer = 256 << 10 // bytes that one direction of a connection holds, like a socket's buffers

// pipe is one direction of a connection: a bounded row of pieces, each of which arrives at its time.
type pipe struct {
	net *Network

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

func newPipe(n *Network) *pipe {
	p := &pipe{net: n}
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
			p.pieces[0].data = p.pieces[0].data[n:]
			if len(p.pieces[0].data) == 0 {
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
		case p.broken != nil && !p.cut: // behind a cut nobody hears of it
			return n, syscall.EPIPE
		case p.over:
			return n, net.ErrClosed
		case p.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case p.bytes == pipeBuffer:
			p.changed.Wait()
			continue
		}
		late, arrives := p.net.loss.Load().resend(firstResend)
		if !arrives {
			p.broken = syscall.ETIMEDOUT
			p.changed.Broadcast()
			return n, p.broken
		}
		k := min(len(b), pipeBuffer-p.bytes)
		p.pieces = append(p.pieces, piece{slices.Clone(b[:k]), p.arrivalLocked(late)})
		p.bytes += k
		n, b = n+k, b[k:]
		p.changed.Broadcast()
	}
	return n, nil
}

// arrivalLocked returns when something arrives that is sent now: not before what was sent earlier.
func (p *pipe) arrivalLocked(late time.Duration) time.Time {
	at := time.Now().Add(p.net.delay + late)
	if n := len(p.pieces); n > 0 && p.pieces[n-1].at.After(at) {
		return p.pieces[n-1].at
	}
	return at
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

package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	heartbeatInterval = 30 * time.Second
	silenceLimit      = 60 * time.Second
	writeLimit        = 60 * time.Second
)

// pace says when connections show signs of life, and how long they wait for them.
type pace struct {
	heartbeat time.Duration
	silence   time.Duration // without anything heard
	write     time.Duration // without anything taken
}

// link is one TCP connection to another peer, from its introduction to its end. Its reader is the goroutine that runs it;
// a writer exists while there is something to write.
type link struct {
	// constant
	router   *Router
	conn     net.Conn
	outbound bool
	target   string // the dialer's key, if outbound
	direct   bool   // outbound, to a target the operator asked for
	local    netip.AddrPort
	addr     netip.AddrPort // of the other end
	trusted  bool           // we trust that address
	started  time.Time
	ctx      context.Context
	cancel   context.CancelCauseFunc

	// constant after the introduction
	sess   *session
	bundle *overlay.Bundle // nil without data plane
	lanes  map[*channel]*lane
	delta  bool

	// owned by the engine
	established bool
	eager       bool // news of the topology goes this way without being asked for
	wasted      int  // entries that came and were no news, less those that were
	fresh       bool // its other end may lack much, or know much that we lack: not compared yet
	versionsAt  time.Time

	out       outbox
	probe     probe
	heartbeat *time.Timer
	beating   sync.WaitGroup // done when the timer is not set, and beat does not run
	writers   sync.WaitGroup
	sent      atomic.Uint64 // bytes
	received  atomic.Uint64
}

func newLink(ctx context.Context, r *Router, c net.Conn, target *target) *link {
	l := &link{
		router: r, conn: c, outbound: target != nil, started: time.Now(),
		local: addrPortOf(c.LocalAddr()), addr: addrPortOf(c.RemoteAddr()),
	}
	if target != nil {
		l.target, l.direct = target.key, target.direct
	}
	l.trusted = r.cfg.trusts(l.addr.Addr())
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	return l
}

// fail ends the link for a reason; the first one counts. It does not wait.
func (l *link) fail(reason error) { l.cancel(reason) }

func (l *link) remote() peer.Name { return l.sess.remote.name }

// run introduces both ends, and then reads messages until the link ends. It returns the reason when nothing of the link
// runs any more; the engine has forgotten it then.
func (l *link) run() error {
	closed := make(chan struct{})
	stop := context.AfterFunc(l.ctx, func() {
		_ = l.conn.Close()
		close(closed)
	})
	err := l.setUp()
	if !l.outbound {
		l.router.setUps.Add(-1)
		l.router.sources.settle(l.addr.Addr())
	}
	if err == nil {
		err = l.read()
		l.router.do(func(e *engine) { e.removeLink(l, l.reason(err)) })
	}
	reason := l.reason(err)
	if !stop() {
		<-closed
	}
	l.end(reason)
	return reason
}

// end ends what runs for the link besides its reader, and returns when nothing does.
func (l *link) end(reason error) {
	l.fail(reason)
	_ = l.conn.Close()
	l.out.close()
	if l.heartbeat != nil && l.heartbeat.Stop() {
		l.beating.Done()
	}
	l.beating.Wait()
	l.writers.Wait()
	for c := range l.lanes {
		c.forget(l)
	}
	if l.bundle != nil {
		l.bundle.Close()
	}
}

// reason returns why the link has ended: what somebody gave to fail, else err.
func (l *link) reason(err error) error {
	if cause := context.Cause(l.ctx); cause != nil {
		return cause
	}
	return explain(err)
}

// explain says what an error of the connection means.
func explain(err error) error {
	if refused(err) {
		return err
	}
	if closedByRemote(err) {
		return fmt.Errorf("%w: %w", errPeerClosed, err)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errSilence, err)
	}
	return err
}

// setUp goes through steps 1 to 10 of section 2.1 of the mesh specification.
func (l *link) setUp() (err error) {
	r := l.router
	intro := introduction{
		self: r.features(l), minimum: r.cfg.MinProtocol, password: r.cfg.Password, outbound: l.outbound,
	}
	if l.sess, err = intro.run(l.conn, counting{l.conn, &l.received}); err != nil {
		return err
	}
	if err := l.checkName(); err != nil {
		return err
	}
	l.sess.in.buffers = &r.buffers
	l.delta = l.sess.remote.delta && !r.cfg.NoDeltas
	l.lanes = make(map[*channel]*lane, len(r.channels))
	for _, c := range r.channels {
		l.lanes[c] = &lane{link: l, ch: c}
	}
	if err := l.prepare(); err != nil {
		return err
	}
	added := errStopped
	r.do(func(e *engine) { added = e.addLink(l, time.Now()) })
	if added != nil {
		l.refuse(added)
		return added
	}
	l.beating.Add(1)
	l.heartbeat = time.AfterFunc(r.pace.silence, l.beat)
	l.heartbeat.Reset(r.pace.heartbeat) // after the assignment, which beat reads
	if l.delta {
		_ = l.out.urgentNow(l.probe.ping(time.Now()))
		l.kick()
	}
	return nil
}

// refuse tells a peer that understands it that there is no room now, so that it tries again soon.
func (l *link) refuse(reason error) {
	if !l.delta || !errors.Is(reason, ErrLimit) {
		return
	}
	if frame, err := l.sess.out.append(nil, goodbyeMessage()); err == nil {
		_ = l.writeAll(frame)
	}
}

// checkName refuses ourselves, and others with our name.
func (l *link) checkName() error {
	cfg, remote := &l.router.cfg, &l.sess.remote
	switch {
	case remote.name != cfg.Name:
		return nil
	case remote.uid == cfg.UID:
		return errSelf
	default:
		return fmt.Errorf("%w: %s (we are at %s) is also that of another peer at %s", errOurName, cfg.Name, l.local, l.addr)
	}
}

// prepare has the data plane make its links.
func (l *link) prepare() (err error) {
	sw, remote := l.router.cfg.Switch, &l.sess.remote
	if sw == nil {
		return nil
	}
	p := overlay.Params{
		Self: l.router.cfg.Name, Remote: remote.name, Local: l.local, RemoteAddr: l.addr, Outbound: l.outbound,
		ConnUID: l.sess.connUID, Features: remote.raw,
	}
	if l.encryptsData() {
		p.Key = (*[32]byte)(l.sess.key)
	}
	l.bundle, err = sw.Prepare(p, l.sendControl, l.onOverlay)
	return err
}

// encryptsData reports whether frames are encrypted: there is a password, and not both ends trust each other's address.
func (l *link) encryptsData() bool {
	return l.sess.key != nil && !(l.trusted && l.sess.remote.trusted)
}

func (l *link) sendControl(tag byte, payload []byte) error {
	if err := l.out.urgentNow(append([]byte{tag}, payload...)); err != nil {
		if !errors.Is(err, errEnding) { // then it has a reason already, or the reader finds one
			l.fail(err) // the next ones would arrive without it
		}
		return err
	}
	l.kick()
	return nil
}

func (l *link) onOverlay(e overlay.Event) {
	switch e.Kind {
	case overlay.Established:
		l.router.post(func(e *engine) { e.establish(l) })
	case overlay.Failed:
		l.fail(e.Err)
	}
}

// beat shows a sign of life, and is called again after a while. It, or whoever stops the timer, says that it is done.
func (l *link) beat() {
	if l.ctx.Err() != nil {
		l.beating.Done()
		return
	}
	beat := []byte{tagHeartbeat}
	if l.delta {
		beat = l.probe.ping(time.Now())
	}
	_ = l.out.urgentNow(beat) // a full queue is a sign of life too, or ends by its own limit
	l.kick()
	l.heartbeat.Reset(l.router.pace.heartbeat)
	if l.ctx.Err() != nil && l.heartbeat.Stop() { // it has been stopped meanwhile
		l.beating.Done()
	}
}

// counting counts what is read.
type counting struct {
	r io.Reader
	n *atomic.Uint64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(uint64(n))
	return n, err
}

// read handles messages until one cannot be read.
func (l *link) read() error {
	for {
		if err := l.conn.SetReadDeadline(time.Now().Add(l.router.pace.silence)); err != nil {
			return err
		}
		msg, err := l.sess.in.next()
		if err != nil {
			return l.readError(err)
		}
		if len(msg) == 0 {
			continue
		}
		if err := l.router.dispatch(l, msg[0], msg[1:]); err != nil {
			return err
		}
	}
}

// readError makes what does not open in version 1 a matter of the password: it shows only here.
func (l *link) readError(err error) error {
	if l.sess.version == 1 && l.sess.key != nil && time.Since(l.started) < headerLimit {
		return fmt.Errorf("%w: %w", ErrPassword, err)
	}
	return err
}

// kick sees to it that somebody writes what waits.
func (l *link) kick() { l.out.wake(func() { l.writers.Go(l.write) }) }

// write writes what waits, in large pieces, and returns when nothing does.
func (l *link) write() {
	bufp := l.router.buffers.Get().(*[]byte)
	defer func() { keepBuffer(&l.router.buffers, bufp) }()
	for {
		buf, lanes, err := l.fill((*bufp)[:0])
		if len(buf) > 0 && err == nil {
			err = l.writeAll(buf)
		}
		for _, lane := range lanes {
			lane.release()
		}
		*bufp = buf
		if err != nil {
			if !closedByRemote(err) { // else the reader finds it too, and before that, perhaps, why
				l.fail(explain(err))
			}
			l.out.close()
			return
		}
		if len(buf) == 0 && l.out.idle() {
			return
		}
	}
}

// fill makes frames of waiting messages, as many as fit well into one write.
func (l *link) fill(buf []byte) (out []byte, lanes []*lane, err error) {
	for len(buf) < maxBatch {
		w, ok := l.out.next()
		if !ok {
			break
		}
		if w.lane != nil {
			lanes = append(lanes, w.lane)
		}
		if w.all || w.topology != nil {
			if buf, err = l.router.appendTopology(buf, l, w); err != nil {
				return buf, lanes, err
			}
		}
		for _, msg := range w.messages {
			if buf, err = l.sess.out.append(buf, msg); err != nil {
				return buf, lanes, err
			}
		}
	}
	return buf, lanes, nil
}

func (l *link) writeAll(buf []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.router.pace.write)); err != nil {
		return err
	}
	n, err := l.conn.Write(buf)
	l.sent.Add(uint64(n))
	return err
}

// closedByRemote reports whether an error means that the other end is gone.
func closedByRemote(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE)
}

package fastdp

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const (
	retryInterval  = 100 * time.Millisecond // of frames that cannot be sent yet
	pendingControl = 8                      // messages for the protection that may wait; more are dropped
)

// link is one end of a tunnel between two peers. It implements [overlay.DatapathLink].
type link struct {
	// constant
	d      *Datapath
	name   string
	params overlay.Params
	outer  outer // of what we send
	udp    uint16
	log    *slog.Logger

	open     atomic.Bool // frames may be sent: it is confirmed, what it sends is protected, and it is not closed
	sent     counter
	received counter
	noRoute  atomic.Uint64 // frames that could not be addressed
	closedBy atomic.Uint64 // frames before it was open, or after Close
	refused  atomic.Uint64 // frames that the kernel did not take

	inside  sync.RWMutex  // held for reading by calls of Send; taken by Close to wait for them
	stop    chan struct{} // closed by Close
	wakeup  chan struct{} // the life has changed
	secrets chan []byte   // control messages for the protection
	running sync.WaitGroup
	unsent  []byte // the running goroutine's: a frame of the life that could not be sent yet
	retried bool   // the running goroutine's: the tunnel was tested again since its offloads are off

	mu         sync.Mutex // guards what follows; nothing is called out with it held
	life       life
	protection Protection
	confirmed  bool
	closed     bool
}

// counter counts frames and bytes.
type counter struct{ frames, bytes atomic.Uint64 }

func (c *counter) add(frames, bytes uint64) {
	c.frames.Add(frames)
	c.bytes.Add(bytes)
}

func (c *counter) load() overlay.Counter {
	return overlay.Counter{Frames: c.frames.Load(), Bytes: c.bytes.Load()}
}

// init completes a link that has what is constant but the log.
func (l *link) init() {
	l.log = l.d.log.With("peer", l.params.Remote.String(), "overlay", l.name)
	l.stop, l.wakeup, l.secrets = make(chan struct{}), make(chan struct{}, 1), make(chan []byte, pendingControl)
	if l.name == Name2 {
		l.life = newNewLife(l.params.ConnUID, l.d.cfg.MTU)
	} else {
		l.life = newOldLife(l.params.ConnUID, l.d.cfg.MTU)
	}
}

func (l *link) arrival() arrival { return arrival{outer: l.outer.reversed(), udp: l.udp} }

// Confirm implements [overlay.Link].
func (l *link) Confirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.confirmed {
		return
	}
	l.confirmed = true
	l.d.table.links.add(l)
	l.running.Go(l.run)
}

// protect has the tunnel protected and reports whether it may be used, now or once it has been reported to be ready.
func (l *link) protect() bool {
	p := l.d.cfg.Protector
	if p == nil {
		l.ready(nil)
		return true
	}
	t := Tunnel{
		Self: l.params.Self, Remote: l.params.Remote, Local: l.outer.src, RemoteAddr: l.outer.dst, Port: l.udp,
		Outbound: l.params.Outbound, ConnUID: l.params.ConnUID, Key: l.params.Key, Rekeys: l.name == Name2,
	}
	var protection Protection
	var err error
	if t.Key == nil {
		protection, err = p.Allow(t)
	} else {
		send := func(payload []byte) error { return l.params.SendControl(tagInitSARemote, payload) }
		protection, err = p.Protect(t, send, l.ready)
	}
	if err != nil {
		l.ready(err)
		return false
	}
	l.mu.Lock()
	l.protection = protection
	l.mu.Unlock()
	if t.Key == nil {
		l.ready(nil)
	}
	return true
}

// ready takes the word of the protection.
func (l *link) ready(err error) {
	l.mu.Lock()
	switch {
	case l.closed:
	case err != nil:
		l.open.Store(false)
		l.life.common().fail(err)
	case !l.open.Swap(true):
		l.life.ready(time.Now())
	}
	l.mu.Unlock()
	l.wake()
}

func (l *link) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

// run does what the life asks for, until the link is closed.
func (l *link) run() {
	l.d.changed(overlay.Change{}) // frames that arrive are welcome from now on
	if l.protect() {
		l.live()
	} else {
		l.step()
	}
	l.mu.Lock()
	protection := l.protection
	l.mu.Unlock()
	<-l.stop
	if protection != nil {
		protection.Close()
	}
}

// live waits for what is due, and for what comes in.
func (l *link) live() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := l.step()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
		select {
		case <-l.stop:
			return
		case payload := <-l.secrets:
			l.protection.Control(payload)
		case <-l.wakeup:
		case <-timer.C:
		}
	}
}

// step does what is due and returns when that is again; the zero time is never.
func (l *link) step() time.Time {
	var actions []action
	for {
		now := time.Now()
		l.mu.Lock()
		l.life.tick(now)
		actions = l.life.common().take(actions)
		next := l.life.next()
		l.mu.Unlock()
		for _, a := range actions {
			if l.stopped() {
				return time.Time{}
			}
			l.do(a)
		}
		if len(actions) > 0 {
			continue // they may have led to more
		}
		if l.unsent == nil || l.sendOwn(l.unsent) {
			l.unsent = nil
			return next
		}
		return now.Add(retryInterval)
	}
}

func (l *link) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// do carries out an action of the life. A frame that cannot be sent yet is kept, unless there is a younger one.
func (l *link) do(a action) {
	switch a.kind {
	case doSend:
		if l.unsent = nil; !l.sendOwn(a.frame) {
			l.unsent = a.frame
		}
	case doControl:
		if err := l.params.SendControl(a.tag, a.payload); err != nil {
			l.log.Debug("fastdp: control message not sent", "tag", a.tag, "err", err)
		}
	case doReport:
		l.params.Report(a.event)
	case doTest:
		l.sendTest(a)
	case doJudge:
		l.judge(a.err)
	}
}

// sendOwn sends a frame of the link's life. It returns false if the peers have no short ids yet, or the datapath no port.
func (l *link) sendOwn(frame []byte) bool {
	act, ok := l.action(l.params.Self, l.params.Remote)
	if !ok {
		return false
	}
	var b odp.Batch
	if err := l.d.execute(&b, []execution{{packet: frame, actions: act}}); err != nil {
		l.log.Debug("fastdp: heartbeat not sent", "err", err)
	}
	return true
}

// action returns what the kernel does to send a frame over the link.
func (l *link) action(src, dst peer.Name) ([]odp.Action, bool) {
	t := &l.d.table
	id, known := t.vniOf(src, dst)
	port, exists := t.ports.Load().tunnels[l.udp]
	return []odp.Action{setTunnel(id, l.outer), odp.Output(port)}, known && exists
}

// take gives the life a frame without addresses.
func (l *link) take(frame []byte) {
	l.mu.Lock()
	if !l.closed && l.open.Load() {
		l.life.frame(time.Now(), frame)
	}
	l.mu.Unlock()
	l.wake()
}

// Carries implements [overlay.DatapathLink].
func (l *link) Carries(src, dst peer.Name) bool {
	_, own := l.d.table.ownID()
	_, ok := l.d.table.vniOf(src, dst)
	return own && ok
}

// Send implements [overlay.Link]. It is for frames that came over another overlay; those of stations do not come here.
func (l *link) Send(frames []overlay.Frame) {
	l.inside.RLock()
	defer l.inside.RUnlock()
	if !l.open.Load() {
		l.closedBy.Add(uint64(len(frames)))
		return
	}
	out := make([]execution, 0, len(frames))
	for i := range frames {
		act, ok := l.action(frames[i].Src, frames[i].Dst)
		if !ok {
			l.noRoute.Add(1)
			continue
		}
		out = append(out, execution{packet: frames[i].Data, actions: act})
		l.sent.add(1, uint64(len(frames[i].Data)))
	}
	if len(out) == 0 {
		return
	}
	b := l.d.batches.Get().(*odp.Batch)
	if err := l.d.execute(b, out); err != nil {
		l.refused.Add(uint64(len(out)))
	}
	l.d.batches.Put(b)
}

// Control implements [overlay.Link].
func (l *link) Control(tag byte, payload []byte) {
	if tag == tagInitSARemote {
		if l.params.Key != nil && len(payload) <= maxSecret {
			select {
			case l.secrets <- append([]byte(nil), payload...):
			default:
				l.log.Debug("fastdp: too many messages for the encryption")
			}
		}
		return
	}
	l.mu.Lock()
	l.life.control(time.Now(), tag, payload)
	l.mu.Unlock()
	l.wake()
}

const maxSecret = 1024 // bytes of a control message for the protection

// Status implements [overlay.Link].
func (l *link) Status() overlay.LinkStatus {
	l.mu.Lock()
	s, protection := l.life.common(), l.protection
	st := overlay.LinkStatus{
		Overlay: l.name, Encrypted: l.params.Key != nil, Established: s.established, MTU: s.mtu, RTT: s.rtt,
		Remote: netip.AddrPortFrom(l.outer.dst, l.udp), Sent: l.sent.load(), Received: l.received.load(), Drops: map[string]uint64{},
	}
	if s.err != nil {
		st.Reason = s.err.Error()
	}
	st.Offloads = map[string]string{offloadName: l.offloads(&s.test)}
	l.mu.Unlock()
	if protection != nil {
		p := protection.Status()
		st.Cipher = p.Cipher
		if st.Reason == "" {
			st.Reason = p.Reason
		}
	}
	if st.Reason == "" {
		st.Reason = l.d.problem()
	}
	for name, n := range map[string]uint64{"no_short_id": l.noRoute.Load(), "closed": l.closedBy.Load(), "refused": l.refused.Load()} {
		if n > 0 {
			st.Drops[name] = n
		}
	}
	return st
}

// Close implements [overlay.Link].
func (l *link) Close() {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.open.Store(false)
	l.mu.Unlock()
	if first {
		l.d.noteSecond(l.params.ConnUID, false)
		l.d.table.links.remove(l)
		l.d.changed(overlay.Change{})
		close(l.stop)
	}
	l.inside.Lock() // waits for Send
	defer l.inside.Unlock()
	l.running.Wait()
}

// execution is a packet that the kernel is to run actions on.
type execution struct {
	packet  []byte
	actions []odp.Action
}

// execute has packets sent.
func (d *Datapath) execute(b *odp.Batch, list []execution) error {
	k := d.kernel.Load()
	if k == nil {
		return errNotRunning
	}
	b.Reset()
	for _, x := range list {
		b.Execute(k.dp, odp.Execute{Packet: x.packet, Actions: x.actions})
	}
	return k.conn.Run(context.Background(), b)
}

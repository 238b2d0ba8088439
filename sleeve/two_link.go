package sleeve

import (
	"crypto/rand"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

var _ overlay.SegmentedLink = (*link2)(nil)

// link2 is one end of sleeve2 between two peers. It implements [overlay.SegmentedLink].
type link2 struct {
	// constant
	overlay *Overlay2
	own     hello

	// atomic; what sending and receiving need
	route    atomic.Pointer[route2]   // nil: send nothing
	sealing  atomic.Pointer[sealing]  // nil before the hellos
	openings atomic.Pointer[openings] // nil before the hellos
	bundles  atomic.Uint32            // super-frames so far

	life
	// guarded by mu
	machine machine2
	keys    keys
	theirs  hello
}

// route2 is where datagrams go and how large they may be. It is immutable.
type route2 struct {
	remote netip.AddrPort
	link   uint32 // the remote's id
	size   int    // of a datagram, at most; 0 while unknown
	mtu    int    // of an inner IP packet
	ecn    bool   // the remote heeds marks
}

func newLink2(o *Overlay2, p overlay.Params) *link2 {
	l := &link2{overlay: o, keys: keys{session: p.Key, uid: p.ConnUID}}
	l.life.init(o.base, p, Name2)
	seal := check2Len
	if p.Key != nil {
		seal = 16
	}
	l.machine = newMachine2(l.params, frame2Overhead+seal+overlay.HeaderLen)
	l.own.link = randomID()
	_, _ = rand.Read(l.own.check[:]) // never fails
	if hasFastAES() {
		l.own.abilities |= fastAES
	}
	if c, ok := l.conn.(ClassConn); ok && c.ReadsClass() {
		l.own.abilities |= heedsECN
	}
	return l
}

// Confirm implements [overlay.Link].
func (l *link2) Confirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.machine.confirmed {
		return
	}
	l.machine.confirm(time.Now())
	l.publish()
	l.running.Go(func() { live(&l.life, l.turn, l.do) })
}

// TakesSegments implements [overlay.SegmentedLink].
func (l *link2) TakesSegments() bool { return true }

// Control implements [overlay.Link].
func (l *link2) Control(tag byte, payload []byte) {
	theirs, ok := parseHello(payload)
	if tag != tag2Hello || !ok {
		return
	}
	l.mu.Lock()
	if l.machine.greeted || l.closed {
		l.mu.Unlock()
		return
	}
	l.theirs = theirs
	l.keys.aes = l.own.abilities&theirs.abilities&fastAES != 0
	if err := l.begin(); err != nil { // of a cipher that has no way to fail
		l.log.Error("sleeve: no keys", "err", err)
	} else {
		l.machine.greet(time.Now())
	}
	l.publish()
	l.mu.Unlock()
	l.wake()
}

// step gives the machine an input.
func (l *link2) step(input func(m *machine2, now time.Time)) {
	l.mu.Lock()
	input(&l.machine, time.Now())
	l.publish()
	l.mu.Unlock()
	l.wake()
}

// publish makes the machine's state known to senders. The caller holds mu.
func (l *link2) publish() {
	m := &l.machine
	if !m.ready() {
		return
	}
	r := route2{remote: m.remote, link: l.theirs.link, size: m.path.size, mtu: m.mtu(), ecn: l.theirs.abilities&heedsECN != 0}
	if old := l.route.Load(); old == nil || *old != r {
		l.route.Store(&r)
	}
}

// turn lets the machine do what is due. The caller holds mu.
func (l *link2) turn(now time.Time, buf []action2) (actions []action2, due time.Time) {
	if s := l.sealing.Load(); s != nil {
		l.machine.sent(now, s.epoch, s.next.Load())
	}
	l.machine.tick(now)
	actions = l.machine.take(buf)
	l.publish()
	return actions, l.machine.next()
}

// do carries out an action of the machine.
func (l *link2) do(a action2) {
	switch a.kind {
	case do2Hello:
		if err := l.params.SendControl(tag2Hello, l.own.append(nil)); err != nil {
			l.log.Debug("sleeve: hello not sent", "err", err)
			l.step(func(m *machine2, now time.Time) { m.unsent(now) })
		}
	case do2Ping:
		l.sendOwn(func(b []byte, overhead int) []byte { return appendPing(b, a.seq, a.size-overhead) })
	case do2Pong:
		l.sendOwn(func(b []byte, _ int) []byte { return appendPong(b, a.seq, a.size) })
	case do2AskMTU:
		l.learnMTU()
	case do2Rekey:
		l.rekey()
	case do2Report:
		l.params.Report(a.event)
	case do2LogMove:
		l.log.Info("sleeve: peer sends from another address", "address", l.Status().Remote)
	}
}

// sendOwn sends a datagram of the link's own, whatever its size. fill appends its content, and learns the overhead.
func (l *link2) sendOwn(fill func(b []byte, overhead int) []byte) {
	s := l.overlay.senders.Get().(*sender2)
	if s.begin(l) {
		s.start()
		s.arena = fill(s.arena, s.overhead())
		s.seal()
		s.end()
	}
	l.overlay.senders.Put(s)
}

// askMTU has the path MTU looked up.
func (l *link2) askMTU() {
	l.step(func(m *machine2, _ time.Time) { m.askMTU() })
}

func (l *link2) learnMTU() {
	r := l.route.Load()
	if r == nil {
		return
	}
	pmtu, err := l.conn.PathMTU(r.remote.Addr())
	if err != nil {
		l.log.Debug("sleeve: path MTU unknown", "err", err)
		pmtu = usualMTU // which is tested
	}
	l.step(func(m *machine2, now time.Time) { m.pathMTU(now, pmtu) })
}

// Send implements [overlay.Link].
func (l *link2) Send(frames []overlay.Frame) {
	if !l.inside.enter() {
		l.drops.add(dropClosed, len(frames))
		return
	}
	defer l.inside.leave()
	s := l.overlay.senders.Get().(*sender2)
	if !s.begin(l) {
		l.overlay.senders.Put(s)
		l.drops.add(dropNoAddress, len(frames))
		return
	}
	for i := range frames {
		s.frame(&frames[i])
	}
	answers := s.end()
	l.overlay.senders.Put(s)
	if len(answers) > 0 {
		l.params.Receive(answers)
	}
}

// Status implements [overlay.Link].
func (l *link2) Status() overlay.LinkStatus {
	l.mu.Lock()
	m := &l.machine
	st := overlay.LinkStatus{
		Overlay: Name2, Encrypted: l.params.Key != nil, Established: m.established, Remote: m.remote, RTT: m.rtt,
		MTU: m.mtu(), MTUFrom: m.path.from,
	}
	if m.greeted {
		st.Cipher = l.keys.cipher()
	}
	switch {
	case m.err != nil:
		st.Reason = m.err.Error()
	case m.onHold:
		st.Reason = m.held().Error()
	}
	l.mu.Unlock()
	st.Offloads = l.offloads()
	l.traffic.fill(&st)
	return st
}

// Close implements [overlay.Link].
func (l *link2) Close() { l.end(func() { l.overlay.unregister(l) }) }

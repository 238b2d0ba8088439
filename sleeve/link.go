package sleeve

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
)

var _ overlay.SegmentedLink = (*link)(nil)

// link is one end of the overlay between two peers. It implements [overlay.SegmentedLink].
type link struct {
	// constant
	overlay *Overlay
	sealer  *crypto.DatagramSealer // nil: in the clear
	opener  *crypto.DatagramOpener

	// atomic; what sending needs of the machine's state
	remote      atomic.Pointer[netip.AddrPort] // nil: send nothing
	mtu         atomic.Int32
	maxPayload  atomic.Int32
	fragTrusted atomic.Bool

	life
	machine machine // guarded by mu
}

func newLink(o *Overlay, p overlay.Params) *link {
	l := &link{overlay: o}
	l.life.init(o, p, Name)
	overhead := plainOverhead
	if p.Key != nil {
		overhead = sealedOverhead
		l.sealer = crypto.NewDatagramSealer(*p.Key, p.Outbound)
		l.opener = crypto.NewDatagramOpener(*p.Key, !p.Outbound)
	}
	l.machine = newMachine(l.params, overhead+recordLen+overlay.HeaderLen)
	l.publish()
	return l
}

// Confirm implements [overlay.Link].
func (l *link) Confirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.machine.confirmed {
		return
	}
	l.machine.confirm(time.Now())
	l.publish()
	l.overlay.register(l)
	l.running.Go(func() { live(&l.life, l.turn, l.do) })
}

// step gives the machine an input.
func (l *link) step(input func(m *machine, now time.Time)) {
	l.mu.Lock()
	input(&l.machine, time.Now())
	l.publish()
	l.mu.Unlock()
	l.wake()
}

// publish makes the machine's state known to senders. The caller holds mu, or nobody else has the link yet.
func (l *link) publish() {
	m := &l.machine
	l.mtu.Store(int32(m.mtu))
	l.maxPayload.Store(int32(m.maxPayload))
	l.fragTrusted.Store(m.fragTrusted)
	old := l.remote.Load()
	if !m.confirmed || !m.remote.IsValid() || old != nil && *old == m.remote {
		return
	}
	remote := m.remote
	l.remote.Store(&remote)
}

// turn lets the machine do what is due. The caller holds mu.
func (l *link) turn(now time.Time, buf []action) (actions []action, due time.Time) {
	l.machine.tick(now)
	actions = l.machine.take(buf)
	l.publish()
	return actions, l.machine.next()
}

// do carries out an action of the machine.
func (l *link) do(a action) {
	switch a.kind {
	case doHeartbeat:
		l.sendSpecial(crypto.DontFragment, appendHeartbeat(nil, l.params.ConnUID))
	case doTest:
		l.sendSpecial(crypto.DontFragment, make([]byte, overlay.HeaderLen+a.value))
	case doFragTest:
		l.sendSpecial(crypto.Fragmentable, make([]byte, fragTestLen))
	case doAskMTU:
		l.learnMTU()
	case doControl:
		var payload []byte
		if a.value == tagMTUVerified {
			payload = binary.BigEndian.AppendUint16(nil, uint16(a.mtu))
		}
		if err := l.params.SendControl(byte(a.value), payload); err != nil {
			l.log.Debug("sleeve: control message not sent", "tag", a.value, "err", err)
			l.step(func(m *machine, _ time.Time) { m.unsent(a.value) })
		}
	case doReport:
		l.params.Report(a.event)
	case doLogMove:
		l.log.Info("sleeve: peer sends from another address", "address", l.Status().Remote)
	}
}

// sendSpecial sends one of the link's own frames, whatever its size.
func (l *link) sendSpecial(ch crypto.Channel, frame []byte) {
	remote := l.remote.Load()
	if remote == nil {
		return
	}
	s := l.overlay.senders.Get().(*sender)
	s.begin(l, *remote)
	p := &s.dont
	if ch == crypto.Fragmentable {
		p = &s.may
	}
	p.limit = MaxDatagram
	if !p.add(&overlay.Frame{Data: frame, Src: l.params.Self, Dst: l.params.Remote}) {
		l.drops.add(dropTooBig, 1)
	}
	s.end()
	l.overlay.senders.Put(s)
}

// askMTU has the path MTU looked up.
func (l *link) askMTU() {
	l.step(func(m *machine, _ time.Time) { m.askMTU() })
}

func (l *link) learnMTU() {
	remote := l.remote.Load()
	if remote == nil {
		return
	}
	pmtu, err := l.conn.PathMTU(remote.Addr())
	if err != nil {
		l.log.Debug("sleeve: path MTU unknown", "err", err)
		return
	}
	l.step(func(m *machine, now time.Time) { m.pathMTU(now, pmtu) })
}

// TakesSegments implements [overlay.SegmentedLink].
func (l *link) TakesSegments() bool { return true }

// Send implements [overlay.Link]. Super-frames are cut on their way into the datagrams.
func (l *link) Send(frames []overlay.Frame) {
	if !l.inside.enter() {
		l.drops.add(dropClosed, len(frames))
		return
	}
	defer l.inside.leave()
	remote := l.remote.Load()
	if remote == nil {
		l.dropUnsent(len(frames))
		return
	}
	s := l.overlay.senders.Get().(*sender)
	s.begin(l, *remote)
	for i := range frames {
		s.frame(&frames[i])
	}
	answers := s.end()
	l.overlay.senders.Put(s)
	if len(answers) > 0 {
		l.params.Receive(answers)
	}
}

func (l *link) dropUnsent(n int) {
	l.mu.Lock()
	confirmed := l.machine.confirmed
	l.mu.Unlock()
	if confirmed {
		l.drops.add(dropNoAddress, n)
	} else {
		l.drops.add(dropClosed, n)
	}
}

// Control implements [overlay.Link].
func (l *link) Control(tag byte, payload []byte) {
	l.step(func(m *machine, now time.Time) { m.control(now, tag, payload) })
}

// Status implements [overlay.Link].
func (l *link) Status() overlay.LinkStatus {
	l.mu.Lock()
	m := &l.machine
	st := overlay.LinkStatus{
		Overlay: Name, Encrypted: l.sealer != nil, Established: m.established, Remote: m.remote, RTT: m.rtt,
	}
	if m.mtu != unknownMTU {
		st.MTU, st.MTUFrom = m.mtu, m.mtuFrom
	}
	if m.err != nil {
		st.Reason = m.err.Error()
	}
	l.mu.Unlock()
	st.Offloads = l.offloads()
	l.traffic.fill(&st)
	return st
}

// Close implements [overlay.Link].
func (l *link) Close() { l.end(func() { l.overlay.unregister(l) }) }

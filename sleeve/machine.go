package sleeve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	fastHeartbeat    = 500 * time.Millisecond
	slowHeartbeat    = 10 * time.Second
	heartbeatTimeout = 60 * time.Second
	fragTestInterval = 5 * time.Minute
	mtuTestInterval  = time.Minute      // see whether what is in use still passes
	mtuGrowInterval  = 10 * time.Minute // try what the kernel believes in, although it believed so before

	unknownMTU = 65535
	maxIP      = 65535

	answerInterval = 20 * time.Millisecond // of tests, once a burst is used up
	answerBurst    = 64
)

var errNoHeartbeat = errors.New("no heartbeat")

// silence says that something has not come for a time from the remote, whose address may not be known yet.
func silence(what error, remote netip.AddrPort, d time.Duration) error {
	if !remote.IsValid() {
		return fmt.Errorf("%w (UDP) for %s", what, d)
	}
	return fmt.Errorf("%w from %s (UDP) for %s", what, remote, d)
}

// machine is the life of a link, without sockets, goroutines or clock: inputs come with the time, and what is to be done
// is collected in actions. It is not safe for concurrent use. Section 9 of the sleeve specification.
type machine struct {
	uid      uint64
	overhead int // of a datagram with one record: inner IP packet to UDP payload

	remote      netip.AddrPort // zero: not known yet
	confirmed   bool
	heard       bool // a valid heartbeat came
	established bool
	err         error // why the link failed
	interval    time.Duration
	heartbeat   time.Time // when the next one is due
	deadline    time.Time // for the remote's next one
	fragTest    time.Time // when the next one is due
	mtuTest     time.Time // likewise
	mtuGrow     time.Time // when to try what the kernel believes in, although it believed so before
	believed    int       // what the kernel said last, as an MTU of the overlay

	mtu         int // of the overlay
	mtuFrom     overlay.MTUSource
	maxPayload  int           // of a D datagram
	tested      time.Time     // when the candidate of the search was sent first
	rtt         time.Duration // of the last test that was answered at once
	fragTrusted bool
	search      search
	answers     limiter

	actions []action
}

// action is something that the link has to do for the machine.
type action struct {
	kind  actionKind
	value int // kind doTest: the MTU; kind doControl: the tag
	mtu   int // kind doControl with tagMTUVerified
	event overlay.Event
}

type actionKind uint8

const (
	doHeartbeat actionKind = iota // send one
	doFragTest                    // send one
	doTest                        // send an MTU test
	doAskMTU                      // ask the system for the path MTU and call pathMTU
	doControl                     // send a control message
	doReport                      // report an event
	doLogMove                     // the remote's address has changed
)

func newMachine(p overlay.Params, recordOverhead int) machine {
	m := machine{
		uid: p.ConnUID, overhead: recordOverhead, interval: fastHeartbeat, mtu: unknownMTU, maxPayload: MaxDatagram,
		answers: limiter{interval: answerInterval, burst: answerBurst},
	}
	if p.Outbound {
		m.remote = p.RemoteAddr
	}
	return m
}

func (m *machine) do(a action) { m.actions = append(m.actions, a) }

// confirm starts the link.
func (m *machine) confirm(now time.Time) {
	m.confirmed = true
	m.heartbeat, m.deadline = now, now.Add(heartbeatTimeout)
	m.tick(now)
}

func (m *machine) live() bool { return m.confirmed && m.err == nil }

// tick does what is due. It may be called at any time.
func (m *machine) tick(now time.Time) {
	if !m.live() {
		return
	}
	if !now.Before(m.deadline) {
		m.err = silence(errNoHeartbeat, m.remote, heartbeatTimeout)
		m.do(action{kind: doReport, event: overlay.Event{Kind: overlay.Failed, Err: m.err}})
		return
	}
	if m.remote.IsValid() && !now.Before(m.heartbeat) {
		m.heartbeat = now.Add(m.interval)
		m.do(action{kind: doHeartbeat})
		m.askMTU()
	}
	if m.established && !now.Before(m.fragTest) {
		m.fragTest, m.fragTrusted = now.Add(fragTestInterval), false
		m.do(action{kind: doFragTest})
	}
	if m.established {
		m.tickMTU(now)
	}
	m.tickSearch(now)
}

// tickMTU sees now and then whether the path still carries what it did.
func (m *machine) tickMTU(now time.Time) {
	if now.Before(m.mtuTest) {
		return
	}
	m.mtuTest = now.Add(mtuTestInterval)
	if !m.search.running() && m.mtu != unknownMTU {
		m.search.start(m.mtu)
	}
}

func (m *machine) tickSearch(now time.Time) {
	running := m.search.running()
	if test := m.search.tick(now); test != 0 {
		m.do(action{kind: doTest, value: test})
		if m.search.sent == 1 {
			m.tested = now
		}
	}
	if running && !m.search.running() {
		m.settleMTU()
	}
}

// next returns when tick is due, the zero time if never.
func (m *machine) next() time.Time {
	if !m.live() {
		return time.Time{}
	}
	next := m.deadline
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if m.remote.IsValid() {
		earlier(m.heartbeat)
	}
	if m.established {
		earlier(m.fragTest)
		earlier(m.mtuTest)
	}
	if m.search.running() {
		earlier(m.search.due())
	}
	return next
}

// special takes a special frame that the remote sent to us.
func (m *machine) special(now time.Time, from netip.AddrPort, frame []byte) {
	if !m.live() {
		return
	}
	switch body := frame[overlay.HeaderLen:]; {
	case len(frame) == heartbeatLen:
		if binary.BigEndian.Uint64(body) == m.uid {
			m.onHeartbeat(now, from)
		}
	case len(frame) == fragTestLen:
		if allZero(body) {
			m.answer(now, action{kind: doControl, value: tagFragmentsOK})
		}
	case len(body) >= minTestMTU:
		m.answer(now, action{kind: doControl, value: tagMTUVerified, mtu: len(body)})
	}
}

// answer answers a test unless there are too many of them.
func (m *machine) answer(now time.Time, a action) {
	if len(m.actions) < answerBurst && m.answers.allow(now) {
		m.do(a)
	}
}

// onHeartbeat takes a valid heartbeat: the remote is alive, and reachable where it came from.
func (m *machine) onHeartbeat(now time.Time, from netip.AddrPort) {
	m.deadline = now.Add(heartbeatTimeout)
	if m.remote != from {
		if m.remote.IsValid() {
			m.do(action{kind: doLogMove})
		}
		m.remote = from
	}
	if !m.heard {
		m.heard = true
		m.do(action{kind: doControl, value: tagEstablished})
	}
	m.tick(now)
}

// unsent notes that a control message could not be sent. The one that the remote waits for goes with its next heartbeat; what
// answers tests does with the next test.
func (m *machine) unsent(tag int) {
	if tag == tagEstablished {
		m.heard = false
	}
}

// control takes a control message of the remote.
func (m *machine) control(now time.Time, tag byte, payload []byte) {
	if !m.live() {
		return
	}
	switch tag {
	case tagEstablished:
		if !m.established && m.remote.IsValid() {
			m.onEstablished(now)
		}
	case tagFragmentsOK:
		m.fragTrusted = m.established
	case tagMTUVerified:
		if len(payload) >= 2 && m.search.running() {
			m.verified(now, int(binary.BigEndian.Uint16(payload)))
		}
	}
}

// verified takes the remote's word that a test of the given size arrived.
func (m *machine) verified(now time.Time, mtu int) {
	if mtu == m.search.cand && m.search.sent == 1 { // else nobody knows which of the tests this answers
		m.rtt = now.Sub(m.tested)
	}
	m.search.verified(mtu)
	if !m.search.running() {
		m.settleMTU()
	}
	m.tick(now)
}

func (m *machine) onEstablished(now time.Time) {
	m.established, m.interval = true, slowHeartbeat
	m.heartbeat, m.fragTest = now.Add(slowHeartbeat), now
	m.mtuTest = now.Add(mtuTestInterval)
	m.do(action{kind: doAskMTU}) // first, for with the report frames come
	m.do(action{kind: doReport, event: overlay.Event{Kind: overlay.Established}})
	m.tick(now)
}

// askMTU has pathMTU called, after a datagram was too big. Asking once is enough for many of them.
func (m *machine) askMTU() {
	if m.established && !slices.Contains(m.actions, action{kind: doAskMTU}) {
		m.do(action{kind: doAskMTU})
	}
}

// pathMTU takes what the system believes to be the path MTU, which it is asked for when the link is established, after a
// datagram was too big, and now and then. If that is not what we build on, a search begins; less is believed at once.
func (m *machine) pathMTU(now time.Time, pmtu int) {
	mtu := max(min(pmtu, maxIP)-m.ipOverhead(), minTestMTU)
	switch {
	case !m.established:
		return
	case m.search.running() && mtu >= m.search.cand:
		return
	case mtu < m.mtu:
		m.search.start(mtu)
		m.setMTU(mtu, overlay.MTUFromSystem)
	case mtu > m.mtu && (mtu != m.believed || !now.Before(m.mtuGrow)):
		m.mtuGrow = now.Add(mtuGrowInterval)
		m.search.grow(m.mtu, mtu)
	}
	m.believed = mtu
	m.tick(now)
}

func (m *machine) setMTU(mtu int, from overlay.MTUSource) {
	m.mtu, m.mtuFrom, m.maxPayload = mtu, from, min(mtu+m.overhead, MaxDatagram)
}

// settleMTU takes what a search has found.
func (m *machine) settleMTU() {
	from := overlay.MTUAssumed
	switch {
	case m.search.proven:
		from = overlay.MTUProbed
	case m.search.good == m.mtu: // nothing larger passed, which says nothing of this
		from = m.mtuFrom
	}
	m.setMTU(m.search.good, from)
}

// ipOverhead is what an inner IP packet grows by until it is an outer one.
func (m *machine) ipOverhead() int {
	if addr := m.remote.Addr(); addr.Is6() && !addr.Is4In6() {
		return m.overhead + udpOverhead6
	}
	return m.overhead + udpOverhead4
}

// take returns the collected actions and goes on collecting in buf.
func (m *machine) take(buf []action) []action {
	taken := m.actions
	m.actions = buf[:0]
	return taken
}

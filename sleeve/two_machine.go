package sleeve

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	ping2First   = 20 * time.Millisecond  // at first; then twice that, and so on, until
	ping2Fast    = 500 * time.Millisecond // until the link is established, and while it is on hold
	ping2Slow    = 3 * time.Second
	hold2After   = 10 * time.Second // without an answer
	fail2After   = 60 * time.Second // without any answer since the link was confirmed
	rekey2After  = 10 * time.Minute
	rekey2Volume = 1 << 28 // datagrams
)

var errNoAnswer = errors.New("no answer")

// machine2 is the life of a link of sleeve2, without sockets, goroutines or clock, like machine. It is not safe for
// concurrent use.
type machine2 struct {
	overhead    int            // of a datagram with one frame: inner IP packet to UDP payload
	remote      netip.AddrPort // zero: not known yet
	confirmed   bool
	greeted     bool // the remote's hello came
	established bool
	onHold      bool
	err         error
	hello       time.Time // when it is due; zero: it is sent
	ping        time.Time // when the next one is due
	answered    time.Time // the last answer, or when we began to wait for one
	answeredSeq uint64    // the latest ping that was answered
	testSeq     uint64    // the last ping that tested the path
	tries       int       // pings so far while not established
	seq         uint64    // of the last ping
	heard       uint64    // the highest of the remote's
	rttSeq      uint64    // the ping whose answer is timed
	rttSent     time.Time
	rtt         time.Duration
	path        path2
	epoch       uint64 // that we send in, or are about to
	epochSeq    uint64 // the first ping of it
	epochSince  time.Time
	answers     limiter

	actions []action2
}

// action2 is something that the link has to do for the machine.
type action2 struct {
	kind  action2Kind
	seq   uint64
	size  int // of a ping: of the datagram, 0 for the least; of an answer: what it says
	event overlay.Event
}

type action2Kind uint8

const (
	do2Hello action2Kind = iota
	do2Ping
	do2Pong
	do2AskMTU
	do2Rekey
	do2Report
	do2LogMove
)

func newMachine2(p overlay.Params, overhead int) machine2 {
	m := machine2{overhead: overhead, answers: limiter{interval: answerInterval, burst: answerBurst}}
	if p.Outbound {
		m.remote = p.RemoteAddr
	}
	return m
}

func (m *machine2) do(a action2) { m.actions = append(m.actions, a) }

// take returns the collected actions and goes on collecting in buf.
func (m *machine2) take(buf []action2) []action2 {
	taken := m.actions
	m.actions = buf[:0]
	return taken
}

func (m *machine2) live() bool { return m.confirmed && m.err == nil }

// ready reports whether datagrams can be sent.
func (m *machine2) ready() bool { return m.live() && m.greeted && m.remote.IsValid() }

func (m *machine2) confirm(now time.Time) {
	m.confirmed = true
	m.hello, m.ping, m.answered, m.epochSince = now, now, now, now
	m.tick(now)
}

// held says why the link is on hold.
func (m *machine2) held() error { return silence(errNoAnswer, m.remote, hold2After) }

// unsent notes that the hello could not be sent.
func (m *machine2) unsent(now time.Time) { m.hello = now.Add(ping2Fast) }

// greet notes that the remote's hello came.
func (m *machine2) greet(now time.Time) {
	m.greeted = true
	m.ping = now
	m.tick(now)
}

// tick does what is due. It may be called at any time.
func (m *machine2) tick(now time.Time) {
	if !m.live() {
		return
	}
	waited := now.Sub(m.answered)
	switch {
	case !m.established && waited >= fail2After:
		m.err = silence(errNoAnswer, m.remote, fail2After)
		m.do(action2{kind: do2Report, event: overlay.Event{Kind: overlay.Failed, Err: m.err}})
		return
	case m.established && !m.onHold && waited >= hold2After:
		m.onHold = true
		m.ping = now
		m.do(action2{kind: do2Report, event: overlay.Event{Kind: overlay.OnHold, Err: m.held()}})
	}
	if !m.hello.IsZero() && !now.Before(m.hello) {
		m.hello = time.Time{}
		m.do(action2{kind: do2Hello})
	}
	if !m.ready() {
		return
	}
	if !now.Before(m.ping) {
		m.pingNow(now)
	}
	if m.established {
		m.tickPath(now)
	}
}

func (m *machine2) pingNow(now time.Time) {
	m.seq++
	m.do(action2{kind: do2Ping, seq: m.seq})
	m.rttSeq, m.rttSent = m.seq, now
	if !m.established || m.onHold {
		m.ping = now.Add(min(ping2First<<min(m.tries, 10), ping2Fast))
		m.tries++
		return
	}
	m.ping = now.Add(ping2Slow)
	m.askMTU()
	m.path.verify()
}

func (m *machine2) tickPath(now time.Time) {
	if size := m.path.tick(now, m.answeredSeq > m.testSeq, m.rtt); size != 0 {
		m.seq++
		m.testSeq = m.seq
		m.do(action2{kind: do2Ping, seq: m.seq, size: size})
		m.seq++
		m.do(action2{kind: do2Ping, seq: m.seq}) // behind it: if this is answered and the other is not, it is for the size
	}
}

// next returns when tick is due, the zero time if never.
func (m *machine2) next() time.Time {
	if !m.live() {
		return time.Time{}
	}
	limit := fail2After
	if m.established {
		limit = hold2After
	}
	next := m.answered.Add(limit)
	if m.onHold {
		next = m.ping // which is due some time, if there is whom to ping
	}
	if !m.hello.IsZero() && m.hello.Before(next) {
		next = m.hello
	}
	if !m.ready() {
		return next
	}
	if !m.ping.IsZero() && m.ping.Before(next) {
		next = m.ping
	}
	if retry := m.path.retry; m.path.searching() && !retry.IsZero() && retry.Before(next) {
		next = retry
	}
	return next
}

// pinged takes a ping of the remote, in a datagram of the given size.
func (m *machine2) pinged(now time.Time, from netip.AddrPort, seq uint64, size int) {
	if !m.live() {
		return
	}
	if m.remote != from && seq > m.heard { // one that was overtaken does not lead us back
		if m.remote.IsValid() {
			m.do(action2{kind: do2LogMove})
		}
		m.remote = from
	}
	m.heard = max(m.heard, seq)
	if len(m.actions) < answerBurst && m.answers.allow(now) {
		m.do(action2{kind: do2Pong, seq: seq, size: size})
	}
	m.tick(now)
}

// ponged takes the answer to a ping that had the given size.
func (m *machine2) ponged(now time.Time, seq uint64, size int) {
	if !m.ready() || seq == 0 || seq > m.seq {
		return
	}
	m.answered, m.answeredSeq = now, max(m.answeredSeq, seq)
	if seq == m.rttSeq {
		m.rtt = now.Sub(m.rttSent)
		m.rttSeq = 0
	}
	m.path.passed(now, size)
	switch {
	case !m.established:
		m.established = true
		m.askMTU() // first, for with the report frames come
		m.do(action2{kind: do2Report, event: overlay.Event{Kind: overlay.Established}})
	case m.onHold:
		m.onHold = false
		m.do(action2{kind: do2Report, event: overlay.Event{Kind: overlay.Healthy}})
	}
	if seq >= m.epochSeq && now.Sub(m.epochSince) >= rekey2After {
		m.rekey(now)
	}
	m.tick(now)
}

// sent tells how many datagrams have been sealed in an epoch.
func (m *machine2) sent(now time.Time, epoch, datagrams uint64) {
	if epoch == m.epoch && datagrams >= rekey2Volume {
		m.epochSince = now.Add(-rekey2After) // with the next answer, since the remote must know this epoch first
	}
}

// rekey begins an epoch. The next may begin only after an answer to a ping in this one: the remote then knows it.
func (m *machine2) rekey(now time.Time) {
	m.epoch++
	m.epochSince = now
	m.epochSeq = m.seq + 1
	m.do(action2{kind: do2Rekey})
}

// askMTU has pathMTU called. Asking once is enough for many.
func (m *machine2) askMTU() {
	if m.established && !slices.ContainsFunc(m.actions, func(a action2) bool { return a.kind == do2AskMTU }) {
		m.do(action2{kind: do2AskMTU})
	}
}

// pathMTU takes what the system believes to be the path MTU.
func (m *machine2) pathMTU(now time.Time, pmtu int) {
	if !m.established {
		return
	}
	headers := udpOverhead4
	if addr := m.remote.Addr(); addr.Is6() && !addr.Is4In6() {
		headers = udpOverhead6
	}
	m.path.believe(now, min(pmtu-headers, MaxDatagram))
	m.tick(now)
}

// mtu returns the largest inner IP packet that is sent in one piece, 0 while unknown.
func (m *machine2) mtu() int {
	if m.path.size == 0 {
		return 0
	}
	return m.path.size - m.overhead
}

// appendPing appends the content of a ping that fills n bytes, or the least.
func appendPing(b []byte, seq uint64, n int) []byte {
	b = binary.BigEndian.AppendUint64(b, seq)
	if pad := n - pingLen; pad > 0 {
		b = append(b, make([]byte, pad)...)
	}
	return append(b, kindPing)
}

func appendPong(b []byte, seq uint64, size int) []byte {
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	return append(b, kindPong)
}

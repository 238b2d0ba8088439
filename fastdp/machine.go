package fastdp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	fastHeartbeat    = 500 * time.Millisecond
	slowHeartbeat    = 10 * time.Second
	heartbeatTimeout = 25 * time.Second // two of the slow ones and some; Weave Net itself waits for 60 s

	// A tick that is later than this shows that this machine, or this program, stood still. What the remote sent meanwhile may be
	// waiting to be read.
	standstill = 250 * time.Millisecond
)

var errNoHeartbeat = errors.New("no heartbeat")

// life is the life of a link, without sockets, goroutines or clock: inputs come with the time, and what is to be done is
// collected in actions. It is not safe for concurrent use.
type life interface {
	// ready starts it, or has it go on: from now on frames may leave.
	ready(now time.Time)
	// pause puts it on hold until it is ready again: no frames may leave.
	pause(why error)
	// frame takes a frame without addresses that came through the tunnel; it may be anything.
	frame(now time.Time, frame []byte)
	// control takes a control message that is for the life, not for the protection.
	control(now time.Time, tag byte, payload []byte)
	// tick does what is due. It may be called at any time.
	tick(now time.Time)
	// next returns when tick is due, the zero time if never.
	next() time.Time
	// common returns the part that all lives have.
	common() *lifeState
}

// lifeState is what a link shows of its life.
type lifeState struct {
	remote      netip.AddrPort // for the texts of errors; set before the life begins
	established bool
	onHold      bool
	err         error // why it is on hold or has failed
	failed      bool
	mtu         int // largest inner IP packet that is known to pass; 0 while unknown
	rtt         time.Duration
	actions     []action
	test        selfTest // of offloads, if the remote can take part
	acked       bool     // the remote was told that a heartbeat has arrived, if that is due
}

// action is something that the link has to do for its life.
type action struct {
	kind    actionKind
	frame   []byte // doSend, doTest
	segment int    // doTest: length that the kernel is to cut the payload to
	tag     byte   // doControl
	payload []byte // doControl
	event   overlay.Event
	err     error // doJudge
}

type actionKind uint8

const (
	doSend    actionKind = iota + 1 // a frame through the tunnel
	doControl                       // a control message
	doReport                        // an event
	doTest                          // an unfinished frame through the tunnel, as stations send them
	doJudge                         // the outcome of a self-test
)

func (s *lifeState) do(a action) { s.actions = append(s.actions, a) }

// take returns the collected actions and goes on collecting in buf.
func (s *lifeState) take(buf []action) []action {
	taken := s.actions
	s.actions = buf[:0]
	return taken
}

// silence says that something has not come from the remote for a time.
func (s *lifeState) silence(what error, d time.Duration) error {
	return fmt.Errorf("%w from %s (UDP) for %s", what, s.remote, d)
}

// fail ends a life.
func (s *lifeState) fail(err error) {
	if s.failed {
		return
	}
	s.failed, s.err = true, err
	s.do(action{kind: doReport, event: overlay.Event{Kind: overlay.Failed, Err: err}})
}

func (s *lifeState) establish() {
	if !s.established {
		s.established = true
		s.do(action{kind: doReport, event: overlay.Event{Kind: overlay.Established}})
	}
}

func (s *lifeState) hold(err error) {
	if !s.onHold {
		s.onHold, s.err = true, err
		s.do(action{kind: doReport, event: overlay.Event{Kind: overlay.OnHold, Err: err}})
	}
}

func (s *lifeState) heal() {
	if s.onHold {
		s.onHold, s.err = false, nil
		s.do(action{kind: doReport, event: overlay.Event{Kind: overlay.Healthy}})
	}
}

// heartbeatLife is the life of a link of the overlay fastdp: section 5.4 of the fastdp specification.
type heartbeatLife struct {
	lifeState
	uid       uint64
	length    int // of a heartbeat frame
	started   bool
	interval  time.Duration
	heartbeat time.Time // when the next one is due
	deadline  time.Time // for the remote's next one; zero while it is past
}

func newHeartbeatLife(uid uint64, mtu int) *heartbeatLife {
	return &heartbeatLife{uid: uid, length: mtu + overlay.HeaderLen, interval: fastHeartbeat}
}

func (l *heartbeatLife) common() *lifeState { return &l.lifeState }

func (l *heartbeatLife) ready(now time.Time) {
	l.started = true
	l.heartbeat, l.deadline = now, now.Add(heartbeatTimeout)
	l.tick(now)
}

func (l *heartbeatLife) pause(why error) {
	l.started = false
	l.hold(why)
	l.err = why
}

func (l *heartbeatLife) live() bool { return l.started && !l.failed }

func (l *heartbeatLife) tick(now time.Time) {
	if !l.live() {
		return
	}
	if late := now.Sub(l.next()); late > standstill && !l.deadline.IsZero() {
		l.deadline = l.deadline.Add(late)
	}
	if !l.deadline.IsZero() && !now.Before(l.deadline) {
		l.deadline, l.interval = time.Time{}, slowHeartbeat
		l.hold(l.silence(errNoHeartbeat, heartbeatTimeout))
	}
	if !now.Before(l.heartbeat) {
		l.heartbeat = now.Add(l.interval)
		l.do(action{kind: doSend, frame: appendHeartbeat(nil, l.uid, l.length)})
	}
}

func (l *heartbeatLife) next() time.Time {
	switch {
	case !l.live():
		return time.Time{}
	case l.deadline.IsZero() || l.heartbeat.Before(l.deadline):
		return l.heartbeat
	}
	return l.deadline
}

func (l *heartbeatLife) frame(now time.Time, frame []byte) {
	uid, ok := parseHeartbeat(frame)
	if !l.live() || !ok || uid != l.uid {
		return
	}
	l.deadline = now.Add(heartbeatTimeout)
	l.heal()
	if !l.acked {
		l.acked = true
		l.do(action{kind: doControl, tag: tagHeartbeatAck})
	}
}

func (l *heartbeatLife) control(now time.Time, tag byte, _ []byte) {
	if !l.live() || tag != tagHeartbeatAck || l.established {
		return
	}
	l.mtu = l.length - overlay.HeaderLen
	l.interval, l.heartbeat = slowHeartbeat, now.Add(slowHeartbeat)
	l.establish()
}

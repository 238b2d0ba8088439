package fastdp

import (
	"errors"
	"fmt"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	probeFast    = 250 * time.Millisecond // until the link is established, and while an answer is missing
	probeUsual   = 500 * time.Millisecond
	probeHeld    = time.Second // while the link is on hold
	probeTimeout = 2500 * time.Millisecond

	// A link that was on hold is used again when probes have been answered for some time. That is longer each time that it is
	// put on hold within flapWindow of having come back.
	steadyMin  = 500 * time.Millisecond
	steadyMax  = 30 * time.Second
	flapWindow = time.Minute

	answersPerSecond = 16 // more probes than that are not answered
)

var errNoAnswer = errors.New("no answer")

// probeLife is the life of a link of the overlay fastdp2: see fastdp2.md.
//
//	ready --> probing --answer to a full probe--> ESTABLISHED, in use
//	in use --no full probe answered for 2.5 s, or paused--> ON HOLD --full probes answered for a while--> in use
type probeLife struct {
	lifeState
	uid     uint64
	full    int // length of a probe as long as the longest frames
	started time.Time
	number  uint32
	due     time.Time // when the next probe is
	answers limiter

	lastFull time.Time // when the last full probe was answered; before the first, when it began
	lastAny  time.Time // when any probe was answered
	since    time.Time // on hold: since when full probes have been answered without a gap; zero: they are not

	fulls  lastProbes
	healed time.Time     // when it last came back
	steady time.Duration // how long probes have to be answered before it comes back
	search sizeSearch
}

func newProbeLife(uid uint64, mtu int) *probeLife {
	return &probeLife{uid: uid, full: min(mtu+overlay.HeaderLen, maxProbeLength), steady: steadyMin, answers: limiter{perSecond: answersPerSecond}}
}

func (l *probeLife) common() *lifeState { return &l.lifeState }

func (l *probeLife) live() bool { return !l.started.IsZero() && !l.failed }

func (l *probeLife) ready(now time.Time) {
	l.started, l.due, l.lastFull = now, now, now
	l.tick(now)
}

func (l *probeLife) pause(why error) {
	l.started, l.since = time.Time{}, time.Time{}
	l.hold(why)
	l.err = why
	l.test.end()
}

func (l *probeLife) tick(now time.Time) {
	if !l.live() {
		return
	}
	if late := now.Sub(l.next()); late > standstill {
		l.lastFull = l.lastFull.Add(late)
		if l.lastFull.After(now) {
			l.lastFull = now
		}
	}
	if now.Sub(l.lastFull) >= probeTimeout {
		l.lose(now)
	}
	l.tickTest(now)
	if now.Before(l.due) {
		return
	}
	l.send(now, l.full)
	interval := probeUsual
	switch {
	case !l.established:
		interval = probeFast
	case l.onHold:
		interval = probeHeld
	case now.Sub(l.lastFull) >= 2*probeUsual:
		interval = probeFast
	}
	if now.Sub(l.lastFull) >= 2*probeUsual { // is it the length?
		l.send(now, probeSmall)
		if l.small(now) {
			l.measure(now)
		}
	}
	l.due = now.Add(interval)
}

// measure looks for the longest frame that passes. What is not answered counts as too long, so it is of use only while short
// probes are answered.
func (l *probeLife) measure(now time.Time) {
	if size := l.search.next(); size != 0 {
		l.send(now, size)
	}
}

// small reports whether short probes are answered now.
func (l *probeLife) small(now time.Time) bool {
	return !l.lastAny.IsZero() && now.Sub(l.lastAny) < probeTimeout
}

func (l *probeLife) send(now time.Time, length int) {
	l.number++
	if length == l.full {
		l.fulls.sent(l.number)
	}
	p := probe{uid: l.uid, kind: kindProbe, number: l.number, sent: now.Sub(l.started)}
	l.do(action{kind: doSend, frame: p.appendTo(nil, length)})
}

// lose puts the link on hold, and says why.
func (l *probeLife) lose(now time.Time) {
	if !l.onHold || l.err == l.test.blamed {
		if !l.healed.IsZero() && now.Sub(l.healed) < flapWindow {
			l.steady = min(2*l.steady, steadyMax)
		} else {
			l.steady = steadyMin
		}
		l.search.begin(probeSmall, l.full)
	}
	l.since = time.Time{}
	reason := l.silence(errNoAnswer, probeTimeout)
	if l.small(now) {
		reason = fmt.Errorf("the path takes packets of up to %d bytes, and %d are needed", l.search.low-overlay.HeaderLen, l.full-overlay.HeaderLen)
	}
	l.hold(reason)
	l.err = reason
	l.test.end()
}

func (l *probeLife) next() time.Time {
	if !l.live() {
		return time.Time{}
	}
	next := l.due
	if timeout := l.lastFull.Add(probeTimeout); !l.onHold && timeout.Before(next) {
		next = timeout
	}
	if l.test.under && l.test.due.Before(next) {
		next = l.test.due
	}
	return next
}

func (l *probeLife) frame(now time.Time, frame []byte) {
	p, ok := parseProbe(frame)
	if !ok {
		p, ok = parseTest(frame)
	}
	if !l.live() || !ok || p.uid != l.uid {
		return
	}
	switch p.kind {
	case kindAnswer:
		l.answered(now, p)
	case kindVerdict:
		l.judged(now, p)
	case kindProbe:
		p.kind = kindAnswer
		l.answer(now, p, frame)
	case kindTest:
		p.kind, p.right = kindVerdict, isIntact(frame)
		l.answer(now, p, frame)
	}
}

// answer answers a frame, unless that is too often.
func (l *probeLife) answer(now time.Time, p probe, frame []byte) {
	if l.answers.allow(now) {
		p.size = uint16(len(frame))
		l.do(action{kind: doSend, frame: p.appendTo(nil, probeSmall)})
	}
}

// answered takes the answer to a probe of ours.
func (l *probeLife) answered(now time.Time, p probe) {
	rtt := now.Sub(l.started) - p.sent
	if rtt < 0 || rtt > probeTimeout || p.number > l.number {
		return // to none that we wait for
	}
	l.rtt, l.lastAny = rtt, now
	l.search.passed(int(p.size))
	if int(p.size) < l.full {
		return
	}
	gap := now.Sub(l.lastFull)
	l.lastFull, l.mtu = now, l.full-overlay.HeaderLen
	l.fulls.answer(p.number)
	if !l.established {
		l.test.begin(now)
	}
	l.establish()
	if !l.onHold {
		return
	}
	if l.since.IsZero() || gap > probeTimeout {
		l.since = now
	}
	if now.Sub(l.since) < l.steady {
		return
	}
	if !l.test.under {
		l.test.begin(now)
	}
	l.err = l.test.blamed
	if l.err == nil {
		l.healed = now
		l.heal()
	}
}

// control takes none: all is said by probes and answers.
func (l *probeLife) control(time.Time, byte, []byte) {}

// sizeSearch finds the longest frame that passes, by halves. The zero value has nothing to find.
type sizeSearch struct {
	low, high int // passes, does not
	probe     int // under way
	tries     int
}

const searchTries = 3

func (s *sizeSearch) begin(low, high int) { *s = sizeSearch{low: low, high: high} }

// next returns the length of the next probe, 0 if the search has ended.
func (s *sizeSearch) next() int {
	if s.probe != 0 && s.tries >= searchTries {
		s.high, s.probe = s.probe, 0
	}
	if s.high-s.low <= 1 {
		return 0
	}
	if s.probe == 0 {
		s.probe, s.tries = (s.low+s.high)/2, 0
	}
	s.tries++
	return s.probe
}

func (s *sizeSearch) passed(size int) {
	s.low = max(s.low, size)
	if s.probe != 0 && size >= s.probe {
		s.probe = 0
	}
	s.high = max(s.high, s.low)
}

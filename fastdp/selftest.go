package fastdp

import (
	"errors"
	"time"
)

const (
	testInterval = time.Minute // between tests
	testRetry    = 500 * time.Millisecond
	// So often a frame is sent until both segments have arrived as they should. It is often enough for a path that loses every
	// tenth packet, whose segments go missing one by one and not always.
	testTries = 8
	// So many segments have to arrive spoiled: those of two frames.
	testWrong = 4
	// So many of the last full probes have to have been answered, of as many as there are frames in a round, for frames that do
	// not arrive to mean anything: else it is the path that loses them.
	testAnswered = testTries - 1

	testParts = 2
)

var (
	errSpoiled  = errors.New("checksums of tunneled packets are spoiled on the way")
	errSwallows = errors.New("tunneled packets whose checksums and segments are left to the interface do not arrive")
)

// selfTest is the test of a link whether offloads work through the tunnel: section 4 of fastdp2.md. It goes on for as long as
// the link is in use. The zero value does not.
type selfTest struct {
	under  bool      // it goes on
	due    time.Time // if so: when the next frame is to be sent
	number uint32    // of the last frame
	first  uint32    // of the first frame of this round
	tries  int       // frames of this round
	right  [testParts]bool
	wrong  int

	// The outcome of the last round; none before the first.
	done   bool
	result error // nil: they work

	// blamed is why the link is on hold, as nothing can be done about it here; nil: it is not. The test goes on.
	blamed error
}

// begin begins a round.
func (t *selfTest) begin(now time.Time) {
	t.under, t.due = true, now
	t.first, t.tries, t.right, t.wrong = t.number+1, 0, [testParts]bool{}, 0
}

// end ends it until the next begin, since the link is not in use.
func (t *selfTest) end() { t.under = false }

// over ends a round. The next one is due after a while.
func (t *selfTest) over(now time.Time, err error) {
	t.begin(now.Add(testInterval))
	t.done, t.result = true, err
}

// cannot ends a round without outcome: its frame could not be sent.
func (t *selfTest) cannot(now time.Time, err error) {
	if t.under {
		t.over(now, untested{err})
	}
}

// untested is the result of a round that could not be.
type untested struct{ err error }

func (u untested) Error() string { return "not tested: " + u.err.Error() }
func (u untested) Unwrap() error { return u.err }

// failed reports whether there was an outcome, and that was bad.
func (t *selfTest) failed() bool { return t.tested() && t.result != nil }

// tested reports whether there was an outcome.
func (t *selfTest) tested() bool { return t.done && !errors.As(t.result, new(untested)) }

// tickTest sends what is due of a self-test. That nothing of it has arrived means something only if probes do arrive.
func (l *probeLife) tickTest(now time.Time) {
	t := &l.test
	if !t.under || now.Before(t.due) {
		return
	}
	if t.tries >= testTries {
		if l.fulls.answered() >= testAnswered {
			l.judge(now, errSwallows)
			return
		}
		t.begin(now)
	}
	t.tries++
	t.number++
	t.due = now.Add(testRetry)
	p := probe{uid: l.uid, kind: kindTest, number: t.number, sent: now.Sub(l.started)}
	frame, segment := testFrame(p, l.mtu)
	l.do(action{kind: doTest, frame: frame, segment: segment})
}

// judged takes what the remote says of a segment.
func (l *probeLife) judged(now time.Time, p probe) {
	t := &l.test
	if !t.under || t.tries == 0 || p.number < t.first || p.number > t.number || p.part < 1 || p.part > testParts {
		return // nothing that we wait for
	}
	if p.right {
		t.right[p.part-1] = true
	} else {
		t.wrong++
	}
	switch {
	case t.wrong >= testWrong:
		l.judge(now, errSpoiled)
	case t.right == [testParts]bool{true, true}:
		l.judge(now, nil)
	}
}

func (l *probeLife) judge(now time.Time, err error) {
	if l.test.over(now, err); err == nil {
		l.test.blamed = nil
	}
	l.do(action{kind: doJudge, err: err})
}

// blame puts the link on hold for the outcome of a round, until one has another outcome.
func (l *lifeState) blame(err error) {
	l.test.blamed = err
	l.hold(err)
}

// lastProbes are the last full probes, as many as there are frames in a round of a self-test, and whether they were answered.
type lastProbes [testTries]struct {
	number   uint32
	answered bool
}

func (f *lastProbes) sent(number uint32) {
	copy(f[1:], f[:])
	f[0].number, f[0].answered = number, false
}

// answer notes an answer.
func (f *lastProbes) answer(number uint32) {
	for i := range f {
		if f[i].number == number {
			f[i].answered = true
		}
	}
}

// answered returns how many were.
func (f *lastProbes) answered() (n int) {
	for i := range f {
		n += int(bit(f[i].answered))
	}
	return n
}

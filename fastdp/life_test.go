package fastdp

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// wire joins two lives, with a delay, and loses what it is told to.
type wire struct {
	t      *testing.T
	now    time.Time
	lives  [2]life
	events [2][]overlay.Event
	sent   [2]int // frames
	queue  []flight
	lose   func(from, length int) bool
	delay  time.Duration
	nic    func(frame []byte, segment int) [][]byte // what the interfaces make of an unfinished frame
	judged [2][]error
}

type flight struct {
	at      time.Time
	to      int
	a       action
	control bool
}

func newWire(t *testing.T, a, b life) *wire {
	w := &wire{t: t, now: epoch, lives: [2]life{a, b}, delay: time.Millisecond, lose: func(int, int) bool { return false }, nic: finish}
	a.ready(epoch)
	b.ready(epoch)
	return w
}

// run lets some time pass.
func (w *wire) run(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for {
		w.collect()
		next := end
		for _, l := range w.lives {
			if n := l.next(); !n.IsZero() && n.Before(next) {
				next = n
			}
		}
		for _, f := range w.queue {
			if f.at.Before(next) {
				next = f.at
			}
		}
		if next.Before(w.now) {
			next = w.now
		}
		w.now = next
		w.arrive()
		for _, l := range w.lives {
			l.tick(w.now)
		}
		if !w.now.Before(end) {
			w.collect()
			return
		}
	}
}

func (w *wire) collect() {
	for i, l := range w.lives {
		for _, a := range l.common().take(nil) {
			switch a.kind {
			case doReport:
				w.events[i] = append(w.events[i], a.event)
			case doControl:
				w.queue = append(w.queue, flight{w.now.Add(w.delay), 1 - i, a, true})
			case doSend:
				w.sent[i]++
				w.carry(i, a.frame)
			case doTest:
				for _, frame := range w.nic(a.frame, a.segment) {
					w.carry(i, frame)
				}
			case doJudge:
				w.judged[i] = append(w.judged[i], a.err)
			}
		}
	}
}

func (w *wire) carry(from int, frame []byte) {
	if !w.lose(from, len(frame)) {
		w.queue = append(w.queue, flight{w.now.Add(w.delay), 1 - from, action{frame: frame}, false})
	}
}

func (w *wire) arrive() {
	var later []flight
	for _, f := range w.queue {
		switch {
		case f.at.After(w.now):
			later = append(later, f)
		case f.control:
			w.lives[f.to].control(w.now, f.a.tag, f.a.payload)
		default:
			w.lives[f.to].frame(w.now, f.a.frame)
		}
	}
	w.queue = later
}

func (w *wire) kinds(i int) (kinds []overlay.EventKind) {
	for _, e := range w.events[i] {
		kinds = append(kinds, e.Kind)
	}
	w.events[i] = nil
	return kinds
}

func oldPair(t *testing.T) *wire {
	return newWire(t, newHeartbeatLife(7, 1376), newHeartbeatLife(7, 1400))
}
func newPair(t *testing.T) *wire { return newWire(t, newProbeLife(7, 1376), newProbeLife(7, 1376)) }

// TestHeartbeatLife goes through section 5.4 of the specification.
func TestHeartbeatLife(t *testing.T) {
	w := oldPair(t)
	w.run(time.Second)
	for i := range 2 {
		require.Equal(t, []overlay.EventKind{overlay.Established}, w.kinds(i))
		require.Equal(t, []int{1376, 1400}[i], w.lives[i].common().mtu)
	}
	w.sent = [2]int{}
	w.run(time.Minute)
	require.Equal(t, [2]int{6, 6}, w.sent, "one heartbeat every 10 s")
	require.Empty(t, w.kinds(0))

	w.lose = func(from, _ int) bool { return from == 0 }
	w.run(15 * time.Second)
	require.Empty(t, w.kinds(1), "not before 25 s without one")
	w.run(10 * time.Second)
	require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(1), "the one that hears nothing")
	require.ErrorIs(t, w.lives[1].common().err, errNoHeartbeat)
	require.Empty(t, w.kinds(0), "the other hears still")

	w.lose = func(int, int) bool { return false }
	w.run(10 * time.Second)
	require.Equal(t, []overlay.EventKind{overlay.Healthy}, w.kinds(1))
	require.NoError(t, w.lives[1].common().err)
}

func TestHeartbeatLifeWithoutAck(t *testing.T) {
	w := oldPair(t)
	w.lose = func(int, int) bool { return true }
	w.run(24900 * time.Millisecond)
	require.Equal(t, [2]int{50, 50}, w.sent, "one every 500 ms")
	w.sent = [2]int{}
	w.run(time.Minute)
	require.InDelta(t, 7, w.sent[0], 1, "one every 10 s after that")
	require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(0))
	w.lose = func(int, int) bool { return false }
	w.run(11 * time.Second)
	require.Equal(t, []overlay.EventKind{overlay.Healthy, overlay.Established}, w.kinds(0), "it is never too late")
}

// TestStandstill: a program that stood still does not take its own silence for that of the remote.
func TestStandstill(t *testing.T) {
	for _, pair := range []func(*testing.T) *wire{oldPair, newPair} {
		w := pair(t)
		w.run(5 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.Established}, w.kinds(0))
		w.kinds(1)
		for range 3 {
			w.now = w.now.Add(5 * time.Minute)
			w.lives[1].tick(w.now) // before it reads what came meanwhile
			w.run(10 * time.Second)
			require.Empty(t, w.kinds(0))
			require.Empty(t, w.kinds(1))
		}
		w.lose = func(int, int) bool { return true }
		w.run(26 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(0))
	}
}

func TestLivesTakeNoNonsense(t *testing.T) {
	for _, l := range []life{newHeartbeatLife(7, 1376), newProbeLife(7, 1376)} {
		l.frame(epoch, appendHeartbeat(nil, 7, 1390))
		l.control(epoch, tagHeartbeatAck, nil)
		require.Empty(t, l.common().take(nil), "before it is ready")
		require.True(t, l.next().IsZero())
		l.ready(epoch)
		l.common().take(nil)
		for _, frame := range [][]byte{
			nil, make([]byte, 13), make([]byte, 60), appendHeartbeat(nil, 8, 1390), appendHeartbeat(nil, 7, 1390)[:1389],
			append([]byte{1}, appendHeartbeat(nil, 7, 1390)[1:]...), probe{uid: 7, kind: 5}.appendTo(nil, 64),
			probe{uid: 7, kind: kindAnswer, number: 1000, size: 1390}.appendTo(nil, 64),
			probe{uid: 7, kind: kindAnswer, number: 1, sent: time.Hour, size: 1390}.appendTo(nil, 64),
		} {
			if _, old := l.(*heartbeatLife); old && len(frame) == 64 {
				continue // to fastdp these are heartbeats
			}
			l.frame(epoch.Add(time.Millisecond), frame)
			require.Empty(t, l.common().take(nil), "%x", frame)
		}
		l.control(epoch, 9, make([]byte, 1000))
		require.Empty(t, l.common().take(nil))
		l.common().fail(errNoAnswer)
		l.common().fail(errNoAnswer)
		require.Len(t, l.common().take(nil), 1)
		l.frame(epoch, appendHeartbeat(nil, 7, 1390))
		l.tick(epoch.Add(time.Hour))
		require.Empty(t, l.common().take(nil), "after it has failed")
	}
}

func TestProbeLife(t *testing.T) {
	w := newPair(t)
	w.delay = 20 * time.Millisecond
	w.run(time.Second)
	for i := range 2 {
		require.Equal(t, []overlay.EventKind{overlay.Established}, w.kinds(i))
		require.Equal(t, 1376, w.lives[i].common().mtu)
		require.Equal(t, 40*time.Millisecond, w.lives[i].common().rtt)
	}
	w.run(time.Minute)
	require.Empty(t, w.kinds(0))

	for _, from := range []int{0, 1} { // whichever way is broken, both stop
		w.lose = func(f, _ int) bool { return f == from }
		w.run(3 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(0), "within 3 s")
		require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(1))
		w.lose = func(int, int) bool { return false }
		w.run(4 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.Healthy}, w.kinds(0))
		require.Equal(t, []overlay.EventKind{overlay.Healthy}, w.kinds(1))
		w.run(2 * flapWindow)
	}
}

// TestProbeLifeLoss: it stands a bad path that still carries most frames.
func TestProbeLifeLoss(t *testing.T) {
	w := newPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	w.lose = func(int, int) bool { return r.Float64() < 0.1 }
	w.run(10 * time.Minute)
	require.Equal(t, []overlay.EventKind{overlay.Established}, w.kinds(0))
}

func TestProbeLifeFlapping(t *testing.T) {
	w := newPair(t)
	w.run(time.Second)
	w.kinds(0)
	back := func() time.Duration {
		w.lose = func(int, int) bool { return true }
		w.run(3 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(0))
		w.lose = func(int, int) bool { return false }
		for start := w.now; ; w.run(100 * time.Millisecond) {
			if len(w.kinds(0)) > 0 {
				return w.now.Sub(start)
			}
			require.Less(t, w.now.Sub(start), 2*time.Minute)
		}
	}
	first := back()
	require.Less(t, first, 3*time.Second)
	var last time.Duration
	for range 8 {
		last = back()
	}
	require.Greater(t, last, 25*time.Second, "each time it takes longer")
	require.Less(t, last, 35*time.Second)
	w.run(2 * flapWindow)
	require.Less(t, back(), 3*time.Second, "until it has been steady")
}

// TestProbeLifeMeasures finds what passes when full frames do not.
func TestProbeLifeMeasures(t *testing.T) {
	for _, limit := range []int{100, 700, 1250, 1375} {
		w := newPair(t)
		w.run(time.Second)
		w.kinds(0)
		w.lose = func(_, length int) bool { return length > limit+overlay.HeaderLen }
		w.run(3 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.OnHold}, w.kinds(0))
		w.run(time.Minute)
		require.Equal(t, limit, w.lives[0].(*probeLife).search.low-overlay.HeaderLen)
		require.ErrorContains(t, w.lives[0].common().err, "bytes, and 1376 are needed")
		w.lose = func(int, int) bool { return false }
		w.run(4 * time.Second)
		require.Equal(t, []overlay.EventKind{overlay.Healthy}, w.kinds(0))
	}
}

// TestProbeLifeMeasuresWhenItCan: a path that carries nothing says nothing about sizes, however long that takes.
func TestProbeLifeMeasuresWhenItCan(t *testing.T) {
	w := newPair(t)
	w.run(time.Second)
	w.lose = func(int, int) bool { return true }
	w.run(2 * time.Minute)
	require.ErrorIs(t, w.lives[0].common().err, errNoAnswer)
	require.ErrorContains(t, w.lives[0].common().err, "(UDP) for 2.5s")
	w.lose = func(_, length int) bool { return length > 1000+overlay.HeaderLen }
	w.run(time.Minute)
	require.ErrorContains(t, w.lives[0].common().err, "up to 1000 bytes, and 1376 are needed")
}

// TestProbeLifeAnswersLittle bounds what a flood of probes brings about.
func TestProbeLifeAnswersLittle(t *testing.T) {
	l := newProbeLife(7, 1376)
	l.ready(epoch)
	l.take(nil)
	for i := range 1000 {
		l.frame(epoch.Add(time.Duration(i)*time.Microsecond), probe{uid: 7, kind: kindProbe, number: uint32(i)}.appendTo(nil, 64))
	}
	require.Len(t, l.take(nil), answersPerSecond)
}

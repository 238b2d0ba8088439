package overlaytest

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Carrier tells TestOverlay how to get at the overlay that it tests.
type Carrier struct {
	// Open makes the carrier at two peers that reach each other over a medium that loses nothing. What it starts it stops
	// by t.Cleanup. It runs in the bubble, if there is one.
	Open func(t *testing.T) (a, b End)
	// Real is set for carriers with sockets or a kernel below them: their tests run in real time. All others run in bubbles
	// of testing/synctest.
	Real bool
	// ClearOnly is set for carriers that cannot take a key.
	ClearOnly bool
	// Wait is how long to wait for a thing that has to happen. 0 means 2 min.
	Wait time.Duration
	// Quiet is how long to wait for a thing that must not happen. 0 means 5 s, or 200 ms if Real.
	Quiet time.Duration
	// MaxFrame is the length of the longest frames to send, in bytes. 0 means 1,200.
	MaxFrame int
}

// TestOverlay tests that a carrier keeps the contract of [overlay.Overlay] and [overlay.Link], without a key and with one.
func TestOverlay(t *testing.T, c Carrier) {
	c.Wait = cmp.Or(c.Wait, 2*time.Minute)
	c.MaxFrame = cmp.Or(c.MaxFrame, 1200)
	if c.Quiet == 0 {
		c.Quiet = 5 * time.Second
		if c.Real {
			c.Quiet = 200 * time.Millisecond
		}
	}
	t.Run("clear", func(t *testing.T) { c.runAll(t, nil) })
	if !c.ClearOnly {
		t.Run("sealed", func(t *testing.T) { c.runAll(t, &[32]byte{1, 2, 3}) })
	}
}

func (c Carrier) runAll(t *testing.T, key *[32]byte) {
	for _, test := range []struct {
		name string
		run  func(*trial)
	}{
		{"silent before Confirm", (*trial).silent},
		{"established once each", (*trial).established},
		{"one side confirms late", (*trial).late},
		{"frames both ways", (*trial).frames},
		{"relayed frames keep their peers", (*trial).relayed},
		{"status", (*trial).status},
		{"garbage control messages", (*trial).garbage},
		{"close is idempotent", (*trial).closeTwice},
		{"close waits for calls", (*trial).closeWaits},
		{"close before Confirm", (*trial).closeEarly},
		{"nothing after Close", (*trial).afterClose},
		{"close under load", (*trial).closeUnderLoad},
		{"connections are kept apart", (*trial).apart},
	} {
		inside := func(t *testing.T) {
			x := &trial{T: t, c: c, key: key}
			x.a, x.b = c.Open(t)
			test.run(x)
		}
		t.Run(test.name, func(t *testing.T) {
			if c.Real {
				inside(t)
				return
			}
			synctest.Test(t, inside)
		})
	}
}

// trial is one test of the suite.
type trial struct {
	*testing.T
	c    Carrier
	key  *[32]byte
	a, b End
	uid  uint64
	id   uint64
}

// connect makes one more connection, which ends with the test; by then its links must not have broken a rule.
func (x *trial) connect() *Conn {
	x.Helper()
	x.uid++
	c := Connect(x.a, x.b, 0x1234_5678_9abc_0000+x.uid, x.key)
	x.Cleanup(func() {
		c.Close()
		x.quiet()
		require.Empty(x, c.A.Breaches(), "calls of the link at A")
		require.Empty(x, c.B.Breaches(), "calls of the link at B")
	})
	require.NoError(x, c.A.Prepare())
	require.NoError(x, c.B.Prepare())
	return c
}

// up makes a connection that is established on both sides.
func (x *trial) up() *Conn {
	x.Helper()
	c := x.connect()
	c.A.Confirm()
	c.B.Confirm()
	x.awaitEstablished(c.A)
	x.awaitEstablished(c.B)
	return c
}

func (x *trial) awaitEstablished(s *Side) {
	x.Helper()
	select {
	case e := <-s.Events:
		require.Equal(x, overlay.Event{Kind: overlay.Established}, e)
	case <-time.After(x.c.Wait):
		require.Fail(x, "no event", "%s did not report Established to %s; status: %+v", s.Params.Self, s.Params.Remote, s.Link.Status())
	}
}

// quiet lets some time pass.
func (x *trial) quiet() { <-time.After(x.c.Quiet) }

func (x *trial) requireNoEvents(s *Side) {
	x.Helper()
	select {
	case e := <-s.Events:
		require.Fail(x, "unexpected event", "%+v at %s", e, s.Params.Self)
	default:
	}
}

func (x *trial) requireNoFrames(s *Side) {
	x.Helper()
	select {
	case f := <-s.Frames:
		require.Fail(x, "unexpected frame", "of %d bytes at %s", len(f.Data), s.Params.Self)
	default:
	}
}

// frame makes a frame unlike all others, of a protocol that no carrier looks into.
func (x *trial) frame(size int, src, dst peer.Name) overlay.Frame {
	x.id++
	data := make([]byte, size)
	r := rand.NewPCG(x.id, uint64(size))
	for i := range data {
		data[i] = byte(r.Uint64())
	}
	copy(data, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	binary.BigEndian.PutUint64(data[overlay.HeaderLen:], x.id)
	return overlay.Frame{Data: data, Src: src, Dst: dst}
}

// minFrame is the shortest frame that the suite sends: header and number.
const minFrame = overlay.HeaderLen + 8

// deliver sends frames from one side until each has arrived at the other as it was sent, with nothing else.
func (x *trial) deliver(from, to *Side, frames []overlay.Frame) {
	x.Helper()
	missing := map[uint64]overlay.Frame{}
	for _, f := range frames {
		missing[number(f)] = f
	}
	deadline := time.After(x.c.Wait)
	for len(missing) > 0 {
		sendBorrowed(from.Link, missing)
		retry := time.After(time.Second)
	collect:
		for len(missing) > 0 {
			select {
			case got := <-to.Frames:
				x.tick(got, frames, missing)
			case <-retry:
				break collect
			case <-deadline:
				require.Fail(x, "frames lost", "%d of %d did not arrive; sender %+v, receiver %+v", len(missing), len(frames), from.Link.Status(), to.Link.Status())
			}
		}
	}
}

// tick checks a frame that arrived. One that came late and was sent again may come twice.
func (x *trial) tick(got overlay.Frame, sent []overlay.Frame, missing map[uint64]overlay.Frame) {
	x.Helper()
	require.GreaterOrEqual(x, len(got.Data), minFrame, "a short frame arrived that nobody sent")
	got.Flooded, got.Hops = false, 0
	require.Contains(x, sent, got, "a frame arrived that nobody sent, or with other peers")
	delete(missing, number(got))
}

func number(f overlay.Frame) uint64 {
	return binary.BigEndian.Uint64(f.Data[overlay.HeaderLen:])
}

// sendBorrowed sends copies of frames in one call and spoils them afterwards, as an owner of borrowed memory may.
func sendBorrowed(l overlay.Link, frames map[uint64]overlay.Frame) {
	var lent []overlay.Frame
	for _, f := range frames {
		f.Data = append(make([]byte, 0, len(f.Data)), f.Data...)
		lent = append(lent, f)
	}
	l.Send(lent)
	for _, f := range lent {
		clear(f.Data)
	}
	clear(lent)
}

// load sends frames from a side until stop is closed.
func (x *trial) load(wg *sync.WaitGroup, s *Side, stop <-chan struct{}) {
	f := []overlay.Frame{x.frame(200, s.Params.Self, s.Params.Remote), x.frame(x.c.MaxFrame, s.Params.Self, s.Params.Remote)}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				s.Link.Send(f)
			}
		}
	})
}

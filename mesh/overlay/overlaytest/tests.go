package overlaytest

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

func (x *trial) silent() {
	before := [2]int{x.datagrams(x.a), x.datagrams(x.b)}
	c := x.connect()
	sendTo := func(s *Side) { s.Link.Send([]overlay.Frame{x.frame(100, s.Params.Self, s.Params.Remote)}) }
	sendTo(c.A)
	sendTo(c.B)
	x.quiet()
	require.Equal(x, before, [2]int{x.datagrams(x.a), x.datagrams(x.b)}, "datagrams before Confirm")

	c.A.Confirm()
	sendTo(c.B)
	x.quiet()
	require.Equal(x, before[1], x.datagrams(x.b), "datagrams of B, before it was confirmed")
	for _, s := range []*Side{c.A, c.B} {
		x.requireNoEvents(s)
		require.False(x, s.Link.Status().Established)
	}
	x.requireNoFrames(c.A)
}

func (x *trial) datagrams(e End) int {
	if e.Datagrams == nil {
		return 0
	}
	return e.Datagrams()
}

func (x *trial) established() {
	c := x.up()
	x.deliver(c.A, c.B, []overlay.Frame{x.frame(100, x.a.Self, x.b.Self)})
	x.quiet()
	x.requireNoEvents(c.A)
	x.requireNoEvents(c.B)
}

func (x *trial) late() {
	c := x.connect()
	c.B.Confirm()
	x.quiet()
	x.requireNoEvents(c.A)
	x.requireNoEvents(c.B)
	c.A.Confirm()
	x.awaitEstablished(c.A)
	x.awaitEstablished(c.B)
}

func (x *trial) frames() {
	c := x.up()
	sizes := []int{minFrame, 60, 61, 128, 511, x.c.MaxFrame - 1, x.c.MaxFrame}
	for _, way := range [][2]*Side{{c.A, c.B}, {c.B, c.A}} {
		from, to := way[0], way[1]
		var batch []overlay.Frame
		for _, size := range sizes {
			one := []overlay.Frame{x.frame(size, from.Params.Self, to.Params.Self)}
			x.deliver(from, to, one)
			batch = append(batch, one...)
		}
		for range 3 {
			for _, size := range sizes {
				batch = append(batch, x.frame(size, from.Params.Self, to.Params.Self))
			}
		}
		x.deliver(from, to, batch)
		from.Link.Send(nil)
		x.drain(to, batch)
	}
	x.requireNoFrames(c.A)
	x.requireNoFrames(c.B)
}

// drain takes what came twice.
func (x *trial) drain(s *Side, sent []overlay.Frame) {
	x.quiet()
	for {
		select {
		case got := <-s.Frames:
			x.tick(got, sent, nil)
		default:
			return
		}
	}
}

func (x *trial) relayed() {
	c := x.up()
	far, farther := peer.MustParse("02:ff:00:00:00:01"), peer.MustParse("fe:ff:ff:ff:ff:fe")
	x.deliver(c.A, c.B, []overlay.Frame{
		x.frame(100, far, farther),
		x.frame(100, farther, x.b.Self),
		x.frame(100, x.a.Self, far),
		x.frame(100, far, farther),
	})
}

func (x *trial) status() {
	c := x.connect()
	require.False(x, c.A.Link.Status().Established)
	c.A.Confirm()
	c.B.Confirm()
	x.awaitEstablished(c.A)
	x.awaitEstablished(c.B)
	var frames []overlay.Frame
	for range 10 {
		frames = append(frames, x.frame(100, x.a.Self, x.b.Self))
	}
	x.deliver(c.A, c.B, frames)
	st := c.A.Link.Status()
	require.Equal(x, x.a.Overlay.Name(), st.Overlay)
	require.Equal(x, x.key != nil, st.Encrypted)
	require.True(x, st.Established)
	require.Empty(x, st.Reason)
	require.GreaterOrEqual(x, st.Sent.Frames, uint64(10))
	require.GreaterOrEqual(x, st.Sent.Bytes, 100*st.Sent.Frames)
	st = c.B.Link.Status()
	require.GreaterOrEqual(x, st.Received.Frames, uint64(10))
	require.GreaterOrEqual(x, st.Received.Bytes, 100*st.Received.Frames)
}

func (x *trial) garbage() {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<17)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	send := func(s *Side, lowest int) {
		for tag := lowest; tag < 256; tag++ {
			for _, size := range []int{0, 1, 2, 3, 40, 1 << 16} {
				from := r.IntN(len(noise) - size)
				payload := bytes.Clone(noise[from : from+size])
				s.Link.Control(byte(tag), payload)
				clear(payload)
			}
		}
	}
	c := x.connect()
	send(c.A, 8) // none of the tags that have a meaning on the old wire
	c.B.Confirm()
	send(c.B, 8)
	x.quiet()
	x.requireNoEvents(c.B)
	c.A.Confirm()
	x.awaitEstablished(c.A)
	x.awaitEstablished(c.B)
	send(c.A, 0)
	send(c.B, 0)
	x.deliver(c.A, c.B, []overlay.Frame{x.frame(100, x.a.Self, x.b.Self)})
	x.deliver(c.B, c.A, []overlay.Frame{x.frame(100, x.b.Self, x.a.Self)})
	x.requireNoEvents(c.A)
	x.requireNoEvents(c.B)
}

func (x *trial) closeTwice() {
	c := x.up()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(c.A.Link.Close)
	}
	wg.Wait()
	c.A.Link.Close()
	_ = c.A.Link.Status()
}

// closeWaits closes a link while it is inside Receive.
func (x *trial) closeWaits() {
	c := x.connect()
	inside, left := make(chan struct{}, 1), make(chan struct{})
	var once sync.Once
	c.A.pause = func() {
		once.Do(func() {
			inside <- struct{}{}
			x.quiet()
			close(left)
		})
	}
	c.A.Confirm()
	c.B.Confirm()
	x.awaitEstablished(c.A)
	x.awaitEstablished(c.B)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	x.load(&wg, c.B, stop)
	select {
	case <-inside:
	case <-time.After(x.c.Wait):
		require.Fail(x, "no frame under load")
	}
	c.A.Link.Close()
	select {
	case <-left:
	default:
		require.Fail(x, "Close returned while Receive was being called")
	}
	close(stop)
	wg.Wait()
}

func (x *trial) closeEarly() {
	c := x.connect()
	c.A.Close()
	c.A.Link.Confirm()
	c.B.Confirm()
	x.quiet()
	x.requireNoEvents(c.A)
	select {
	case e := <-c.B.Events:
		require.NotEqual(x, overlay.Established, e.Kind)
	default:
	}
}

func (x *trial) afterClose() {
	c := x.up()
	c.A.Close()
	before := x.datagrams(x.a)
	c.A.Link.Send([]overlay.Frame{x.frame(100, x.a.Self, x.b.Self)})
	c.A.Link.Control(1, nil)
	for range 5 {
		c.B.Link.Send([]overlay.Frame{x.frame(100, x.b.Self, x.a.Self)})
	}
	x.quiet()
	x.requireNoFrames(c.A)
	x.requireNoFrames(c.B)
	require.Equal(x, before, x.datagrams(x.a), "datagrams after Close")
}

func (x *trial) closeUnderLoad() {
	c := x.up()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	x.load(&wg, c.A, stop)
	x.load(&wg, c.B, stop)
	select {
	case <-c.A.Frames:
	case <-time.After(x.c.Wait):
		require.Fail(x, "no frame under load")
	}
	c.A.Close()
	x.quiet()
	c.B.Close()
	close(stop)
	wg.Wait()
}

func (x *trial) apart() {
	first, second := x.connect(), x.connect()
	first.A.Close()
	first.B.Close()
	second.A.Confirm()
	second.B.Confirm()
	x.awaitEstablished(second.A)
	x.awaitEstablished(second.B)
	x.deliver(second.A, second.B, []overlay.Frame{x.frame(100, x.a.Self, x.b.Self)})
	third := x.up() // takes the place of the second, whose end must not disturb it
	second.A.Close()
	second.B.Close()
	x.deliver(third.B, third.A, []overlay.Frame{x.frame(100, x.b.Self, x.a.Self)})
	x.requireNoFrames(first.A)
	x.requireNoFrames(first.B)
	x.requireNoFrames(third.B)
	x.requireNoFrames(second.A)
}

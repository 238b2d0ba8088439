package overlaytest_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

var (
	alice = peer.MustParse("02:00:00:00:00:01")
	bob   = peer.MustParse("02:00:00:00:00:02")
)

func open() (a, b overlaytest.End) {
	n := overlaytest.NewNetwork()
	return overlaytest.End{Overlay: n.Overlay(alice, "memory"), Self: alice}, overlaytest.End{Overlay: n.Overlay(bob, "memory"), Self: bob}
}

func TestConformance(t *testing.T) {
	overlaytest.TestOverlay(t, overlaytest.Carrier{Open: func(t *testing.T) (a, b overlaytest.End) { return open() }})
}

func TestConformanceInRealTime(t *testing.T) {
	overlaytest.TestOverlay(t, overlaytest.Carrier{
		Open:  func(t *testing.T) (a, b overlaytest.End) { return open() },
		Real:  true,
		Quiet: time.Millisecond,
		Wait:  10 * time.Second,
	})
}

func up(t *testing.T) (a, b *overlaytest.Overlay, c *overlaytest.Conn) {
	x, y := open()
	c = overlaytest.Connect(x, y, 7, nil)
	require.NoError(t, c.Up())
	t.Cleanup(c.Close)
	require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
	require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
	return x.Overlay.(*overlaytest.Overlay), y.Overlay.(*overlaytest.Overlay), c
}

func frames(from, to peer.Name) []overlay.Frame {
	return []overlay.Frame{{Data: make([]byte, 60), Src: from, Dst: to}}
}

func TestCutIsOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, c := up(t)
		a.Cut(bob)
		c.A.Link.Send(frames(alice, bob))
		c.B.Link.Send(frames(bob, alice))
		synctest.Wait()
		require.Len(t, c.A.Frames, 1)
		require.Empty(t, c.B.Frames)
		require.Equal(t, uint64(1), c.A.Link.Status().Drops["lost"])
		a.Heal(bob)
		c.A.Link.Send(frames(alice, bob))
		synctest.Wait()
		require.Len(t, c.B.Frames, 1)
	})
}

func TestCutKeepsFromEstablishing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := open()
		a := x.Overlay.(*overlaytest.Overlay)
		a.Cut(bob)
		c := overlaytest.Connect(x, y, 7, nil)
		require.NoError(t, c.Up())
		defer c.Close()
		synctest.Wait()
		require.Empty(t, c.A.Events, "our frames do not reach the remote")
		require.Len(t, c.B.Events, 1)
		a.Heal(bob)
		synctest.Wait()
		require.Len(t, c.A.Events, 1)
	})
}

func TestHoldReleaseFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := up(t)
		a.Hold(bob, io.ErrNoProgress)
		require.Equal(t, overlay.Event{Kind: overlay.OnHold, Err: io.ErrNoProgress}, <-c.A.Events)
		require.Equal(t, io.ErrNoProgress.Error(), c.A.Link.Status().Reason)
		a.Release(bob)
		require.Equal(t, overlay.Event{Kind: overlay.Healthy}, <-c.A.Events)
		a.Fail(bob, io.ErrClosedPipe)
		a.Hold(bob, nil) // nothing is reported after Failed
		require.Equal(t, overlay.Event{Kind: overlay.Failed, Err: io.ErrClosedPipe}, <-c.A.Events)
		synctest.Wait()
		require.Empty(t, c.A.Events)
		c.A.Link.Send(frames(alice, bob))
		synctest.Wait()
		require.Empty(t, c.B.Frames)
		require.Equal(t, 1, a.Links())
		c.A.Close()
		require.Equal(t, 0, a.Links())
		require.Equal(t, 1, b.Links())
	})
}

func TestPrepareRefuses(t *testing.T) {
	a, b := open()
	third := overlaytest.NewNetwork().Overlay(bob, "memory")
	_, err := third.Prepare(overlay.Params{Self: alice})
	require.Error(t, err, "another peer's overlay")

	c := overlaytest.Connect(a, b, 7, nil)
	require.NoError(t, c.Up())
	defer c.Close()
	require.Error(t, overlaytest.Connect(a, b, 7, nil).Up(), "ends of that connection exist")
}

func TestPort(t *testing.T) {
	p := overlaytest.NewPort("mem0")
	require.Equal(t, "mem0", p.Name())
	require.Equal(t, 1500, p.MTU())
	p.SetMTU(1376)
	require.Equal(t, 1376, p.MTU())

	bufs, sizes := [][]byte{make([]byte, 8), make([]byte, 8)}, make([]int, 2)
	frame := []byte("one")
	require.NoError(t, p.Inject(frame, []byte("longer than that"), []byte("two"), []byte("three")))
	copy(frame, "!!!")
	n, err := p.Read(bufs, sizes)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, "one", string(bufs[0][:sizes[0]]))
	require.Equal(t, "two", string(bufs[1][:sizes[1]]))
	n, err = p.Read(bufs, sizes)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, uint64(1), p.Dropped())

	require.NoError(t, p.Write([][]byte{[]byte("out")}))
	require.Equal(t, "out", string(<-p.Written()))
	for range 5000 {
		require.NoError(t, p.Write([][]byte{nil}))
	}
	require.Equal(t, uint64(1+5000-4096), p.Dropped())

	failed := make(chan error, 1)
	go func() {
		_, err := p.Read(bufs, sizes)
		failed <- err
	}()
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	require.ErrorIs(t, <-failed, net.ErrClosed)
	require.ErrorIs(t, p.Write(nil), net.ErrClosed)
	require.True(t, errors.Is(p.Inject([]byte("x")), net.ErrClosed))
}

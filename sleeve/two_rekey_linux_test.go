package sleeve

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

// realEnd is a peer with a real socket on loopback.
func realEnd(t testing.TB, self peer.Name, listen string) overlaytest.End {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	socket, err := Listen(netip.MustParseAddrPort(listen))
	require.NoError(t, err)
	o, err := New(Config{Self: self, Socket: socket})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return overlaytest.End{Self: self, Overlay: o.Sleeve2(), Addr: socket.LocalAddr()}
}

// TestRekeyUnderLoad2 changes keys as soon as nothing of the epoch before is under way, while frames and super-frames go over
// real sockets, from two goroutines: each arrives, once.
func TestRekeyUnderLoad2(t *testing.T) {
	c := overlaytest.Connect(realEnd(t, testA, "127.0.0.1:0"), realEnd(t, testB, "127.0.0.2:0"), 5, &[32]byte{7})
	require.NoError(t, c.Up())
	t.Cleanup(c.Close)
	require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
	require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
	a, b := c.A.Link.(*link2), c.B.Link.(*link2)

	const senders, rekeys, room, header = 2, 100, 64, 14 + 20 + 8
	credit := make(chan struct{}, room) // so that the sockets' buffers do not overflow
	stop := make(chan struct{})
	var done atomic.Int64 // frames that arrived
	var sent [senders]atomic.Int64
	var counts [senders]uint32
	var sending sync.WaitGroup
	for i := range senders {
		small, super := superFrame(t, overlay.UDP4, 160, 160), superFrame(t, overlay.UDP4, 20000, 1200)
		sending.Go(func() {
			for n := uint32(0); ; n++ {
				select {
				case <-stop:
					counts[i] = n
					return
				case credit <- struct{}{}:
				}
				f := small
				if n%4 == 0 {
					f = super
				}
				for at := header; at < len(f.Data); at += 8 {
					binary.BigEndian.PutUint32(f.Data[at:], uint32(i))
					binary.BigEndian.PutUint32(f.Data[at+4:], n)
				}
				a.Send([]overlay.Frame{f})
				sent[i].Add(1)
			}
		})
	}
	var seen [senders]map[uint32]int // bytes by number; what arrives together may be in pieces
	for i := range seen {
		seen[i] = map[uint32]int{}
	}
	complete := func(n uint32) int {
		if n%4 == 0 {
			return 20000
		}
		return 160
	}
	stopReceiving, received := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(received)
		for {
			select {
			case <-stopReceiving:
				return
			case f := <-c.B.Frames:
				i, n := binary.BigEndian.Uint32(f.Data[header:]), binary.BigEndian.Uint32(f.Data[header+4:])
				if seen[i][n] += len(f.Data) - header; seen[i][n] == complete(n) {
					<-credit
					done.Add(1)
				}
			}
		}
	}()
	for epoch := range uint64(rekeys) {
		a.rekey()
		require.Eventually(t, func() bool { return b.openings.Load()[1].epoch == epoch+1 }, 10*time.Second, time.Millisecond)
		total := int64(0)
		for i := range sent { // the second that ends from now on began with the new key
			later := sent[i].Load() + 2
			require.Eventually(t, func() bool { return sent[i].Load() >= later }, 10*time.Second, time.Millisecond)
		}
		for i := range sent {
			total += sent[i].Load()
		}
		require.Eventually(t, func() bool { return done.Load() >= total }, 10*time.Second, time.Millisecond)
	}
	close(stop)
	sending.Wait()
	require.Eventually(t, func() bool { return len(credit) == 0 }, 10*time.Second, time.Millisecond, "%d frames lost", len(credit))
	close(stopReceiving)
	<-received
	for i := range seen {
		require.Len(t, seen[i], int(counts[i]))
		for n, bytes := range seen[i] {
			require.Equal(t, complete(n), bytes)
		}
	}
	for _, l := range []*link2{a, b} {
		drops := l.Status().Drops
		delete(drops, "before_hello") // the first pings do not wait for it
		require.Empty(t, drops)
	}
	t.Logf("%d and %d frames", counts[0], counts[1])
}

// TestVolumeEndsEpoch2 has a link send as much as one epoch may have: it moves on, and frames go on arriving.
func TestVolumeEndsEpoch2(t *testing.T) {
	c := overlaytest.Connect(realEnd(t, testA, "127.0.0.1:0"), realEnd(t, testB, "127.0.0.2:0"), 5, &[32]byte{7})
	require.NoError(t, c.Up())
	t.Cleanup(c.Close)
	require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
	require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
	a := c.A.Link.(*link2)
	f := superFrame(t, overlay.UDP4, 160, 160)
	f.Segments = overlay.Segments{}
	for epoch := range uint64(2) {
		require.Equal(t, epoch, a.sealing.Load().epoch)
		c.A.Link.Send([]overlay.Frame{f})
		require.Equal(t, f.Data, (<-c.B.Frames).Data)
		a.sealing.Load().next.Add(rekey2Volume)
		c.A.Link.Send([]overlay.Frame{f})
		require.Equal(t, f.Data, (<-c.B.Frames).Data)
		require.Eventually(t, func() bool {
			a.step(func(m *machine2, now time.Time) { m.ping = now })
			return a.sealing.Load().epoch == epoch+1
		}, 10*time.Second, 10*time.Millisecond)
	}
	c.A.Link.Send([]overlay.Frame{f})
	require.Equal(t, f.Data, (<-c.B.Frames).Data)
	require.Zero(t, c.B.Link.Status().Drops["not_authentic"])
}

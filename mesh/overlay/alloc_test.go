package overlay_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// pump is a port that hands out the same frames each time it is asked to.
type pump struct {
	frames  [][]byte
	again   chan struct{}
	closed  chan struct{}
	written atomic.Int64
}

func newPump(frames ...[]byte) *pump {
	return &pump{frames: frames, again: make(chan struct{}), closed: make(chan struct{})}
}

func (p *pump) Name() string { return "pump" }
func (p *pump) MTU() int     { return 1500 }
func (p *pump) Close() error { close(p.closed); return nil }

func (p *pump) Read(bufs [][]byte, sizes []int) (int, error) {
	select {
	case <-p.again:
	case <-p.closed:
		return 0, net.ErrClosed
	}
	for i, f := range p.frames {
		sizes[i] = copy(bufs[i], f)
	}
	return len(p.frames), nil
}

func (p *pump) Write(frames [][]byte) error {
	p.written.Add(int64(len(frames)))
	return nil
}

// rig is a switch between a pump and neighbours B and C whose links count frames.
type rig struct {
	sw   *overlay.Switch
	port *pump
	sent chan int
	feed func([]overlay.Frame)
}

func newRig(t testing.TB, fromHost ...[]byte) *rig {
	carrier := &stub{name: "x"}
	r := &rig{port: newPump(fromHost...), sent: make(chan int, 1024)}
	r.sw = newSwitch(t, r.port, carrier)
	for _, n := range []peer.Name{peerB, peerC} {
		link(t, r.sw, n, "x")
		carrier.last().onSend = func(frames []overlay.Frame) {
			select {
			case r.sent <- len(frames):
			default:
			}
		}
	}
	r.feed = carrier.last().Receive
	f := r.sw.Forwarder()
	f.SetRoutes(starRoutes())
	f.Captured(time.Now(), group, mac(macA))
	f.Received(time.Now(), peerB, peerA, group, mac(macB))
	return r
}

// mixed is a batch in which everything happens that happens to frames from links.
func mixed() (frames []overlay.Frame) {
	for range 16 {
		frames = append(frames,
			overlay.Frame{Data: ethernet(macA, macB), Src: peerB, Dst: peerA}, // for a station here
			overlay.Frame{Data: ethernet(all, macB), Src: peerB, Dst: peerA},  // here and onwards
			overlay.Frame{Data: ethernet(macC, macB), Src: peerB, Dst: peerD}, // through
			overlay.Frame{Data: ethernet(macC, macB), Src: peerB, Dst: 0x77},  // nowhere
		)
	}
	return frames
}

func TestNoAllocationPerFrame(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops what it is given")
	}
	var captured [][]byte
	for i := range 32 {
		captured = append(captured, ethernet(macB, macA), ethernet([]string{all, macA}[i%2], macA))
	}
	r := newRig(t, captured...)
	frames := mixed()
	r.feed(frames)
	<-r.sent
	require.Zero(t, testing.AllocsPerRun(500, func() {
		r.feed(frames)
		<-r.sent
	}), "from links")
	for len(r.sent) > 0 {
		<-r.sent
	}

	run(t, r.sw)
	batch := func() {
		r.port.again <- struct{}{}
		<-r.sent
		<-r.sent // the flood goes to B with the rest, and to C
	}
	batch()
	require.Zero(t, testing.AllocsPerRun(500, batch), "from the port")

	f := r.sw.Forwarder()
	require.Zero(t, testing.AllocsPerRun(500, func() {
		f.Captured(time.Now(), mac6(macB), mac6(macA))
		f.Received(time.Now(), peerB, peerA, group, station)
	}), "deciding")
}

// TestNoAllocationForGroups: neither to find the neighbours that lead to members, nor to see that a frame is no report.
func TestNoAllocationForGroups(t *testing.T) {
	f, frame := groupForwarder(t)
	require.Equal(t, []peer.Name{peerC}, f.CapturedFrame(now, frame).Flood)
	require.Zero(t, testing.AllocsPerRun(500, func() {
		f.CapturedFrame(now, frame)
		f.ReceivedFrame(now, peerB, peerA, frame)
	}))
}

// groupForwarder is a forwarder that snoops, with C and D as members of a group, and a frame to that.
func groupForwarder(t testing.TB) (*overlay.Forwarder, []byte) {
	snoops := make(chan overlay.Memberships, 8)
	sw, err := overlay.NewSwitch(overlay.SwitchConfig{
		Self: peerA, Overlays: []overlay.Overlay{&stub{name: "x"}}, Announce: func(m overlay.Memberships) { snoops <- m },
	})
	require.NoError(t, err)
	run(t, sw)
	<-snoops
	f := sw.Forwarder()
	routes := starRoutes()
	routes.Trees = map[peer.Name]map[peer.Name]peer.Name{peerA: {peerB: peerB, peerC: peerC, peerD: peerC}, peerB: {peerC: peerC, peerD: peerC}}
	f.SetRoutes(routes)
	members := overlay.Announcement{Groups: []overlay.MAC{mac("01:00:5e:01:02:03")}}
	f.SetMemberships(overlay.Memberships{peerB: {}, peerC: members, peerD: members})
	return f, ethernet("01:00:5e:01:02:03", macA)
}

func BenchmarkGroupDecision(b *testing.B) {
	f, frame := groupForwarder(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if d := f.CapturedFrame(now, frame); len(d.Flood) != 1 {
				b.Error("wrong decision")
			}
		}
	})
}

var parsed = map[string]overlay.MAC{}

// mac6 is mac, computed once.
func mac6(s string) overlay.MAC {
	m, ok := parsed[s]
	if !ok {
		m = mac(s)
		parsed[s] = m
	}
	return m
}

func BenchmarkForwarder(b *testing.B) {
	for _, stations := range []int{10, 10_000} {
		f := overlay.NewForwarder(peerA)
		f.SetRoutes(starRoutes())
		macs := make([]overlay.MAC, stations)
		for i := range macs {
			macs[i] = mac(fmt.Sprintf("56:54:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255))
			f.Received(now, peerD, peerA, group, macs[i])
		}
		f.Captured(now, group, mac(macA))
		src := mac(macA)
		b.Run(fmt.Sprintf("captured/%d", stations), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if d := f.Captured(now, macs[i%stations], src); d.Hop != peerC {
						b.Error("wrong decision")
					}
				}
			})
		})
		b.Run(fmt.Sprintf("received/%d", stations), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if d := f.Received(now, peerD, peerA, src, macs[i%stations]); !d.Local {
						b.Error("wrong decision")
					}
				}
			})
		})
	}
}

// BenchmarkSwitch moves batches of 64 frames; the figures are for each frame.
func BenchmarkSwitch(b *testing.B) {
	const batch = 64
	for name, f := range map[string]overlay.Frame{
		"to host": {Data: ethernet(macA, macB), Src: peerB, Dst: peerA},
		"relay":   {Data: ethernet(macC, macB), Src: peerB, Dst: peerD},
		"flood":   {Data: ethernet(all, macB), Src: peerB, Dst: peerA},
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b)
			var frames []overlay.Frame
			for range batch {
				frames = append(frames, f)
			}
			b.ReportAllocs()
			for range b.N/batch + 1 {
				r.feed(frames)
			}
		})
	}
}

package sleeve

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// sink is a Conn that takes everything.
type sink struct{ discard }

func (*sink) WriteBatch(msgs []Message) (int, error) { return len(msgs), nil }

// newSendingLink makes a link whose datagrams go nowhere, for a path MTU of 1500.
func newSendingLink(t testing.TB, key *[32]byte) *link {
	l, _, _ := newTestLink(t, testA, key)
	l.conn = new(sink)
	l.machine.established = true
	l.step(func(m *machine, _ time.Time) { m.setMTU(1500-m.ipOverhead(), overlay.MTUProbed) })
	return l
}

// batchOf makes the frames of one Send call: IPv4 packets of 1400 bytes that must not be cut, or small ones.
func batchOf(t testing.TB, n, size int) []overlay.Frame {
	frames := make([]overlay.Frame, n)
	for i := range frames {
		frames[i] = overlay.Frame{Data: ipFrame(t, size, false, true), Src: testA, Dst: testB}
	}
	return frames
}

var cases = []struct {
	name string
	key  *[32]byte
	size int
}{
	{"clear/1414", nil, 1414}, {"clear/106", nil, 106}, {"sealed/1414", &[32]byte{1}, 1414}, {"sealed/106", &[32]byte{1}, 106},
}

func TestSendAllocatesNothing(t *testing.T) {
	if RaceDetector {
		t.Skip("pools lose things on purpose under the race detector")
	}
	for _, c := range cases {
		l, frames := newSendingLink(t, c.key), batchOf(t, 64, c.size)
		require.Less(t, testing.AllocsPerRun(500, func() { l.Send(frames) }), 0.1, c.name)
		require.Empty(t, l.Status().Drops)
	}
}

// datagrams packs many batches of frames.
func datagrams(t testing.TB, key *[32]byte, size, batches int) [][]byte {
	l, conn, _ := newTestLink(t, testA, key)
	l.step(func(m *machine, _ time.Time) { m.setMTU(1500-m.ipOverhead(), overlay.MTUProbed) })
	frames := batchOf(t, 64, size)
	for range batches {
		l.Send(frames)
	}
	out := make([][]byte, len(conn.written))
	for i, m := range conn.written {
		out[i] = m.Data
	}
	return out
}

func TestReceiveAllocatesNothing(t *testing.T) {
	for _, c := range cases {
		all := datagrams(t, c.key, c.size, 50)
		l, _, _ := newTestLink(t, testB, c.key)
		frames := 0
		l.params.Receive = func(f []overlay.Frame) { frames += len(f) }
		r, i := newReader(l.overlay), 0
		read := func() {
			for range len(all) / 50 {
				r.datagram(remoteA, all[i])
				i++
			}
			r.flush()
		}
		read() // the window gets its first page
		require.Less(t, testing.AllocsPerRun(48, read), 0.1, c.name)
		require.Equal(t, 50*64, frames)
		require.Empty(t, l.Status().Drops)
	}
}

func BenchmarkSend(b *testing.B) {
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			l, frames := newSendingLink(b, c.key), batchOf(b, 64, c.size)
			b.ReportAllocs()
			for b.Loop() {
				l.Send(frames)
			}
			report(b, c.size)
		})
	}
}

func BenchmarkSendParallel(b *testing.B) {
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			l, frames := newSendingLink(b, c.key), batchOf(b, 64, c.size)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.Send(frames)
				}
			})
			report(b, c.size)
		})
	}
}

func BenchmarkReceive(b *testing.B) {
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			const batches = 200
			all := datagrams(b, c.key, c.size, batches)
			var r *reader
			i := len(all)
			b.ReportAllocs()
			for b.Loop() {
				if i+len(all)/batches > len(all) {
					l, _, _ := newTestLink(b, testB, c.key) // whose window has seen nothing
					l.params.Receive = func([]overlay.Frame) {}
					if r == nil {
						r = newReader(l.overlay)
					}
					r.overlay, i = l.overlay, 0
				}
				for range len(all) / batches {
					r.datagram(remoteA, all[i])
					i++
				}
				r.flush()
			}
			report(b, c.size)
		})
	}
}

// report tells frames and inner bits per second.
func report(b *testing.B, size int) {
	perSecond := float64(b.N) * 64 / b.Elapsed().Seconds()
	b.ReportMetric(perSecond, "frames/s")
	b.ReportMetric(perSecond*float64(size)*8/1e9, "Gbit/s")
}

package sleeve

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

// BenchmarkUDP2 sends super-frames as they come from a TAP device over real sockets on the loopback device, cut as for an
// underlay with an MTU of 1500, and waits for what is under way when that is much. CPU time is that of both ends, kernel
// included, which other work on the machine does not change as it does the rate.
func BenchmarkUDP2(b *testing.B) {
	for name, key := range map[string]*[32]byte{"clear": nil, "sealed": {7}} {
		b.Run(name, func(b *testing.B) {
			const room = 1 << 20
			c := overlaytest.Connect(realEnd(b, testA, "127.0.0.1:0"), realEnd(b, testB, "127.0.0.2:0"), 5, key)
			var received atomic.Int64
			more := make(chan struct{}, 1)
			c.B.Params.Receive = func(frames []overlay.Frame) {
				for i := range frames {
					received.Add(int64(len(frames[i].Data)))
				}
				select {
				case more <- struct{}{}:
				default:
				}
			}
			require.NoError(b, c.Up())
			defer c.Close()
			require.Equal(b, overlay.Established, (<-c.A.Events).Kind)
			require.Equal(b, overlay.Established, (<-c.B.Events).Kind)
			const segment, segments = 1500 - 84 - 40, 46
			frames, size := make([]overlay.Frame, 3), 0
			for i := range frames {
				frames[i] = superFrame(b, overlay.TCP4, segments*segment, segment)
				size += segments * segment
			}
			before, sent := cpuTime(b), int64(0)
			for b.Loop() {
				c.A.Link.Send(frames)
				sent += int64(size)
				for received.Load() < sent-room {
					<-more
				}
			}
			bytes := float64(b.N) * float64(size)
			b.ReportMetric(float64(cpuTime(b)-before)*1e3/bytes, "cpu-ps/B")
			b.ReportMetric(bytes*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

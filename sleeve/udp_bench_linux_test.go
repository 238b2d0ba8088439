package sleeve_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

// BenchmarkUDP sends full frames over real sockets on the loopback device in datagrams as
// large as the loopback device takes, from one goroutine to one reader. Frames that the receiver is too slow for are lost; it reports what arrived.
func BenchmarkUDP(b *testing.B) {
	for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
		b.Run(name, func(b *testing.B) {
			endA, endB := udpEnd(b, nameA, "127.0.0.1"), udpEnd(b, nameB, "127.0.0.2")
			c := overlaytest.Connect(endA, endB, 5, key)
			var received atomic.Int64
			c.B.Params.Receive = func(frames []overlay.Frame) { received.Add(int64(len(frames))) }
			require.NoError(b, c.Up())
			defer c.Close()
			require.Equal(b, overlay.Established, (<-c.A.Events).Kind)
			frames := make([]overlay.Frame, 64)
			for i := range frames {
				frames[i] = frame(b, 1414, true)
			}
			for b.Loop() {
				c.A.Link.Send(frames)
			}
			perSecond := float64(received.Load()) / b.Elapsed().Seconds()
			b.ReportMetric(perSecond, "frames/s")
			b.ReportMetric(perSecond*1414*8/1e9, "Gbit/s")
			b.ReportMetric(100*(1-float64(received.Load())/float64(b.N*len(frames))), "%lost")
		})
	}
}

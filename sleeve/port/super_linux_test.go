package port_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve/port"
)

// queues gives a host a TAP device with several queues.
func queues(t *testing.T, h *lab.Host, index int) overlay.Port {
	t.Helper()
	var p *port.TAP
	err := h.Do(func() (err error) {
		p, err = port.OpenTAP(port.TAPConfig{Name: "tap0", MTU: mtu, Queues: 4})
		if err != nil {
			return err
		}
		return address("tap0", index)
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip("no TAP devices here: ", err)
	}
	require.NoError(t, err)
	if p.Queues() == 1 {
		require.Contains(t, p.Status().Offloads["queues"], "the kernel has no more")
		t.Cleanup(func() { _ = p.Close() })
		t.Skip("the kernel has TAP devices of one queue alone")
	}
	require.Equal(t, 4, p.Queues())
	require.Equal(t, "4", p.Status().Offloads["queues"])
	return p
}

// TestSuperTraffic joins ports by way of super-frames: streams arrive, and were not cut on their way.
func TestSuperTraffic(t *testing.T) {
	type open func(*testing.T, *lab.Host, int) overlay.Port
	for name, kinds := range map[string][2]open{
		"tap to tap": {tap, tap}, "packet to packet": {packet, packet}, "tap to packet": {tap, packet}, "queues to tap": {queues, tap},
	} {
		t.Run(name, func(t *testing.T) {
			l := labtest.New(t)
			a, err := l.Host("a")
			require.NoError(t, err)
			b, err := l.Host("b")
			require.NoError(t, err)
			ports := [2]overlay.SegmentedPort{kinds[0](t, a, 1).(overlay.SegmentedPort), kinds[1](t, b, 2).(overlay.SegmentedPort)}
			var wg sync.WaitGroup
			var longest [2]atomic.Int64
			for i := range ports {
				superCables(&wg, ports[i], ports[1-i], &longest[i])
			}
			var flows sync.WaitGroup
			for range 4 {
				for _, addr := range []string{"10.9.0.%d", "[fd09::%d]"} {
					flows.Go(func() {
						assert.NoError(t, tryTransfer(a, b, fmt.Sprintf(addr, 2)))
						assert.NoError(t, tryTransfer(b, a, fmt.Sprintf(addr, 1)))
					})
				}
			}
			flows.Wait()
			for _, p := range ports {
				st := p.(interface{ Status() port.Status }).Status()
				require.Zero(t, st.Malformed)
				require.Zero(t, st.TooLong)
				require.Equal(t, "in use", st.Offloads["TCP segmentation"])
				require.NoError(t, p.Close())
			}
			wg.Wait()
			for i := range longest {
				require.Greater(t, longest[i].Load(), int64(4*mtu))
			}
			_, err = ports[0].ReadFrames(make([]overlay.Frame, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorIs(t, ports[0].WriteFrames(make([]overlay.Frame, 1)), net.ErrClosed)
		})
	}
}

// superCables carries frames from all queues of one port to the other until it is closed.
func superCables(wg *sync.WaitGroup, from, to overlay.SegmentedPort, longest *atomic.Int64) {
	tap, ok := from.(*port.TAP)
	if !ok {
		wg.Go(func() { superCable(from.ReadFrames, to, longest) })
		return
	}
	for q := range tap.Queues() {
		wg.Go(func() { superCable(func(f []overlay.Frame) (int, error) { return tap.ReadQueue(q, f) }, to, longest) })
	}
}

// superCable carries frames until there are no more, and notes the longest.
func superCable(read func([]overlay.Frame) (int, error), to overlay.SegmentedPort, longest *atomic.Int64) {
	frames, bufs := make([]overlay.Frame, 8), make([][]byte, 8)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16+14)
	}
	for {
		for i := range frames {
			frames[i] = overlay.Frame{Data: bufs[i]}
		}
		n, err := read(frames)
		if err != nil {
			return
		}
		for i := range frames[:n] {
			for size := int64(len(frames[i].Data)); ; {
				if old := longest.Load(); old >= size || longest.CompareAndSwap(old, size) {
					break
				}
			}
		}
		if to.WriteFrames(frames[:n]) != nil {
			return
		}
	}
}

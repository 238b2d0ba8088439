package fastdp_test

import (
	"crypto/rand"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestIntegrationStorm has a container send more frames with invented addresses than can be handled. The link's probes do not suffer,
// and another container of the host can still begin to speak.
func TestIntegrationStorm(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	a, b, c := s.connectBeside(fastdp.Name2)
	bad, far := s.station(a, 1), s.station(b, 1)
	good := s.station(a, 2)
	s.acquaint(good, a, 2, far, b, 1)
	stop := storm(t, bad)
	start := time.Now()
	require.Eventually(t, func() bool {
		require.Equal(t, fastdp.Name2, c.ends[0].Status().Overlay, "%+v", c.ends[0].Statuses())
		st := a.node.dp.Status()
		return time.Since(start) > 4*time.Second && st.Kernel.Lost > 1000 && st.Counts["stations_refused"] > 0
	}, 30*time.Second, 10*time.Millisecond, "%+v", a.node.dp.Status())
	speaks(t, good, stationAddr(b, 1))
	t.Logf("%+v", a.node.dp.Status())
	stop()
}

// speaks sends datagrams to a station until one comes back.
func speaks(t *testing.T, from *lab.Namespace, to netip.Addr) {
	t.Helper()
	conn, err := from.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, echoPort).String())
	require.NoError(t, err)
	defer conn.Close()
	require.Eventually(t, func() bool {
		_, err := conn.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		_, err = conn.Read(make([]byte, 16))
		return err == nil
	}, patience, time.Millisecond)
}

// storm sends frames from invented stations to invented ones, as fast as possible.
func storm(t *testing.T, from *lab.Namespace) (stop func()) {
	var fd, device int
	require.NoError(t, from.Do(func() (err error) {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		device = dev.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		pace := time.NewTicker(time.Millisecond) // others need the processor too
		defer pace.Stop()
		frame := make([]byte, 60)
		for {
			for range 2000 {
				_, _ = rand.Read(frame[:12])
				frame[0], frame[6], frame[12], frame[13] = 2, 2, 0x88, 0xb5
				_ = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device, Halen: 6})
			}
			select {
			case <-ended:
				return
			case <-pace.C:
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(ended)
		wg.Wait()
		_ = unix.Close(fd)
	})
	t.Cleanup(stop)
	return stop
}

package fastdp_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
)

// stream is a TCP stream between two stations that never ends by itself.
type stream struct {
	t        *testing.T
	received atomic.Int64
	stall    atomic.Int64 // longest time without anything received, in nanoseconds
	last     atomic.Int64
	out, in  net.Conn
	done     chan struct{}
}

// newStream starts a stream and waits until it flows.
func newStream(t *testing.T, from, to *lab.Namespace, at netip.Addr) *stream {
	t.Helper()
	ln, err := to.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	defer ln.Close()
	s := &stream{t: t, done: make(chan struct{}, 2)}
	s.out, err = from.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	s.in, err = ln.Accept()
	require.NoError(t, err)
	go s.write()
	go s.read()
	t.Cleanup(func() {
		_ = s.out.Close()
		_ = s.in.Close()
		<-s.done
		<-s.done
	})
	require.Eventually(t, func() bool { return s.received.Load() > 1<<18 }, patience, time.Millisecond)
	s.reset()
	return s
}

// write sends a little every few milliseconds, so that a stall is not hidden by what is under way.
func (s *stream) write() {
	defer func() { s.done <- struct{}{} }()
	b := make([]byte, 4<<10)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := s.out.Write(b); err != nil {
			return
		}
	}
}

func (s *stream) read() {
	defer func() { s.done <- struct{}{} }()
	b := make([]byte, 1<<16)
	for {
		n, err := s.in.Read(b)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				s.t.Log("stream:", err)
			}
			return
		}
		now := time.Now().UnixNano()
		if gap := now - s.last.Swap(now); gap > s.stall.Load() {
			s.stall.Store(gap)
		}
		s.received.Add(int64(n))
	}
}

// reset forgets stalls.
func (s *stream) reset() {
	s.last.Store(time.Now().UnixNano())
	s.stall.Store(0)
}

// longest returns the longest stall since the last reset, the present one included.
func (s *stream) longest() time.Duration {
	return time.Duration(max(s.stall.Load(), time.Now().UnixNano()-s.last.Load()))
}

// goOn waits until some more has been received.
func (s *stream) goOn() {
	s.t.Helper()
	want := s.received.Load() + 64<<10
	require.Eventually(s.t, func() bool { return s.received.Load() >= want }, patience, time.Millisecond, "longest stall %v", s.longest())
}

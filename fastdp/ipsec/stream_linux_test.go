package ipsec_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
)

// stream sends numbered datagrams through the tunnel at a pace, until end.
type stream struct {
	t       *testing.T
	out, in net.PacketConn
	sent    atomic.Uint64 // the number of the last one that has begun to be sent
	end     func()        // of sending
	stop    func()        // of all

	received atomic.Uint64
	drained  chan struct{} // a mark was read
	mu       sync.Mutex
	numbers  map[uint64]bool // of those that arrived
	silences [][2]uint64     // those after the first number, up to the second, are not to arrive
}

const (
	streamPace  = 3 * time.Millisecond
	streamSize  = 100
	markSize    = 1
	patience    = 30 * time.Second // how long it takes may not matter: the machine may be busy
	testBuffers = 64 << 20         // a reader that does not come to its turn loses nothing
)

func startStream(t *testing.T, from, to *machine) *stream {
	if from.station != nil {
		return streamBetween(t, from.station, to.station, from.inner, to.inner)
	}
	return streamBetween(t, from.at.Namespace, to.at.Namespace, from.inner, to.inner)
}

func streamBetween(t *testing.T, from, to *lab.Namespace, src, dst netip.Addr) *stream {
	s := &stream{t: t, drained: make(chan struct{}, 1), numbers: map[uint64]bool{}}
	var err error
	s.out, err = from.ListenPacket("udp", netip.AddrPortFrom(src, 0).String())
	require.NoError(t, err)
	s.in, err = to.ListenPacket("udp", netip.AddrPortFrom(dst, 0).String())
	require.NoError(t, err)
	raw, err := s.in.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, testBuffers)
	}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var sender, receiver sync.WaitGroup
	sender.Go(func() { s.send(ctx, s.in.LocalAddr()) })
	receiver.Go(s.receive)
	s.end = sync.OnceFunc(func() {
		cancel()
		sender.Wait()
		_ = s.out.Close()
	})
	s.stop = sync.OnceFunc(func() {
		s.end()
		_ = s.in.Close()
		receiver.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

func (s *stream) send(ctx context.Context, to net.Addr) {
	pace := time.NewTicker(streamPace)
	defer pace.Stop()
	b := make([]byte, streamSize)
	for {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		binary.BigEndian.PutUint64(b, s.sent.Add(1))
		_, _ = s.out.WriteTo(b, to) // one that fails is lost
	}
}

func (s *stream) receive() {
	b := make([]byte, 2*streamSize)
	for {
		n, _, err := s.in.ReadFrom(b)
		if err != nil {
			return
		}
		if n == markSize {
			s.drained <- struct{}{}
			continue
		}
		s.mu.Lock()
		s.numbers[binary.BigEndian.Uint64(b)] = true
		s.mu.Unlock()
		s.received.Add(1)
	}
}

// drain waits until all is read that has arrived: a mark, which takes no tunnel, comes after it.
func (s *stream) drain() {
	s.t.Helper()
	_, err := s.in.WriteTo(make([]byte, markSize), s.in.LocalAddr())
	require.NoError(s.t, err)
	select {
	case <-s.drained:
	case <-time.After(patience):
		require.FailNow(s.t, "what has arrived is not read")
	}
}

// flows waits until n datagrams have arrived of those that are sent from now on.
func (s *stream) flows(n int) {
	s.t.Helper()
	from := s.sent.Load()
	require.Eventually(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		arrived := 0
		for number := range s.numbers {
			if number > from {
				arrived++
			}
		}
		return arrived >= n
	}, patience, 10*time.Millisecond)
}

// sends waits until n more datagrams have been sent.
func (s *stream) sends(n uint64) {
	s.t.Helper()
	want := s.sent.Load() + n
	require.Eventually(s.t, func() bool { return s.sent.Load() > want }, patience, 5*time.Millisecond)
}

// silent sends n datagrams, none of which is to arrive; requireSilence looks.
func (s *stream) silent(n uint64) {
	s.t.Helper()
	from := s.sent.Load()
	s.sends(n)
	s.silences = append(s.silences, [2]uint64{from, s.sent.Load() - 1})
}

// requireSilence requires that nothing arrived of what was not to.
func (s *stream) requireSilence() {
	s.t.Helper()
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	for number := range s.numbers {
		for _, silence := range s.silences {
			require.False(s.t, silence[0] < number && number <= silence[1], "number %d of %v arrived", number, silence)
		}
	}
}

// noLoss ends the stream and requires that all has arrived.
func (s *stream) noLoss() {
	s.t.Helper()
	s.end()
	if !assert.Eventually(s.t, func() bool { return s.received.Load() == s.sent.Load() }, patience, 10*time.Millisecond) {
		require.FailNow(s.t, "loss", "%d sent, %d received", s.sent.Load(), s.received.Load())
	}
}

// traffic is a stream each way.
type traffic [2]*stream

func startTraffic(t *testing.T, a, b *machine) traffic {
	return traffic{startStream(t, a, b), startStream(t, b, a)}
}

func (x traffic) flows() {
	for _, s := range x {
		s.t.Helper()
		s.flows(20)
	}
}

func (x traffic) sends() {
	for _, s := range x {
		s.t.Helper()
		s.sends(20)
	}
}

// silent sends both ways what is not to arrive, nor to be seen at all.
func (x traffic) silent(seen *capture) {
	seen.t.Helper()
	for _, s := range x {
		s.sends(1) // one was on its way
	}
	seen.settle()
	before := seen.esp.Load()
	for _, s := range x {
		s.silent(20)
	}
	seen.settle()
	require.Equal(seen.t, before, seen.esp.Load())
}

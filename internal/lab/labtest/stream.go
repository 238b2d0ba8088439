package labtest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

const (
	streamPatience = 20 * time.Second // until a stream goes on
	streamPace     = 2 * time.Millisecond
	streamPiece    = 4 << 10               // bytes that are sent at once
	streamSome     = 64 << 10              // bytes that show that it goes on
	streamStands   = 50 * time.Millisecond // without a byte
)

// Stream is a TCP stream between two namespaces that sends a little all the time, to see for how long it stalls. Since all stall on
// a busy machine there is another beside it, which does not leave its namespace. Streams end with the test. Methods are for the
// test's goroutine.
type Stream struct {
	t         testing.TB
	far, near *flow
}

// NewStream starts a stream to an address of the second namespace, and waits until it flows.
func NewStream(t testing.TB, from, to *lab.Namespace, at netip.Addr) *Stream {
	t.Helper()
	s := &Stream{t: t, far: startFlow(t, from, to, at), near: startFlow(t, to, to, at)}
	s.GoOn()
	s.Reset()
	return s
}

// Reset forgets stalls.
func (s *Stream) Reset() {
	s.far.reset()
	s.near.reset()
}

// Longest returns for how long the stream stalled since the last Reset, and how much of it is not explained by stalls of the
// stream beside it.
func (s *Stream) Longest() (stall, unexplained time.Duration) {
	stall = s.far.longest()
	return stall, max(0, stall-s.near.longest())
}

// Standstill returns for how long, since the last Reset, the machine let nothing go on.
func (s *Stream) Standstill() time.Duration { return time.Duration(s.near.stood.Load()) }

// GoOn waits until some more has been received.
func (s *Stream) GoOn() {
	s.t.Helper()
	for _, f := range []*flow{s.far, s.near} {
		want, end := f.received.Load()+streamSome, time.Now().Add(streamPatience)
		for f.received.Load() < want {
			if time.Now().After(end) {
				s.t.Fatalf("%v: the stream does not go on", f.in.LocalAddr())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// flow is one TCP stream.
type flow struct {
	out, in  net.Conn
	received atomic.Int64
	stall    atomic.Int64 // longest time without anything received, in nanoseconds
	stood    atomic.Int64 // sum of those that were not short
	last     atomic.Int64 // when something was received last
}

func startFlow(t testing.TB, from, to *lab.Namespace, at netip.Addr) *flow {
	t.Helper()
	f := &flow{}
	if err := f.connect(t.Context(), from, to, at); err != nil {
		t.Fatal(err)
	}
	var ends sync.WaitGroup
	ends.Go(f.write)
	ends.Go(f.read)
	t.Cleanup(func() {
		_ = f.out.Close()
		_ = f.in.Close()
		ends.Wait()
	})
	return f
}

func (f *flow) connect(ctx context.Context, from, to *lab.Namespace, at netip.Addr) error {
	ln, err := to.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return err
	}
	defer ln.Close()
	if f.out, err = from.DialContext(ctx, "tcp", ln.Addr().String()); err != nil {
		return err
	}
	f.in, err = ln.Accept()
	return err
}

// write sends a little at a time, so that a stall is not hidden by what is under way.
func (f *flow) write() {
	b := make([]byte, streamPiece)
	pace := time.NewTicker(streamPace)
	defer pace.Stop()
	for range pace.C {
		if _, err := f.out.Write(b); err != nil {
			return // it was closed, or GoOn waits in vain
		}
	}
}

func (f *flow) read() {
	b := make([]byte, streamSome)
	for {
		n, err := f.in.Read(b)
		if err != nil {
			return
		}
		now := time.Now().UnixNano()
		gap := now - f.last.Swap(now)
		if gap > f.stall.Load() {
			f.stall.Store(gap)
		}
		if gap > int64(streamStands) {
			f.stood.Add(gap)
		}
		f.received.Add(int64(n))
	}
}

func (f *flow) reset() {
	f.last.Store(time.Now().UnixNano())
	f.stall.Store(0)
	f.stood.Store(0)
}

// longest includes the present stall.
func (f *flow) longest() time.Duration {
	return time.Duration(max(f.stall.Load(), time.Now().UnixNano()-f.last.Load()))
}

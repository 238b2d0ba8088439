package odp_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// hooked is a socket that calls functions, if there are any, before it sends and after it has received.
type hooked struct {
	odp.Socket
	send    func(messages []byte)
	receive func(bufs [][]byte)
}

func (s *hooked) Send(b []byte) error {
	if s.send != nil {
		s.send(b)
	}
	return s.Socket.Send(b)
}

func (s *hooked) Receive(bufs [][]byte, lengths []int) (int, error) {
	n, err := s.Socket.Receive(bufs, lengths)
	if s.receive != nil {
		s.receive(bufs[:n])
	}
	return n, err
}

// openHooked opens a Conn whose requests go by a hooked socket.
func openHooked(t *testing.T, k *odptest.Kernel, cfg odp.Config) (*odp.Conn, odp.Index, *hooked) {
	t.Helper()
	h := new(hooked)
	cfg.Dial = func(o odp.SocketOptions) (_ odp.Socket, err error) {
		h.Socket, err = k.Dial(o)
		return h, err
	}
	c, err := odp.Open(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	dp, err := c.CreateDatapath(context.Background(), odp.DatapathSpec{Name: "dp0"})
	require.NoError(t, err)
	return c, dp.Index, h
}

// A listing that was given up is still being sent. The next one waits for its end, and is whole.
func TestAbandonedListing(t *testing.T) {
	c, dp, h := openHooked(t, odptest.New(), odp.Config{ReceiveBuffer: 8192})
	for i := range uint32(2000) {
		require.NoError(t, c.PutFlow(t.Context(), dp, flowOn(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.receive = func([][]byte) { cancel() }
	for _, err := range c.Flows(ctx, dp, odp.DumpOptions{}) {
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, odp.ErrUnknownOutcome)
	}
	h.receive = nil
	require.Equal(t, 2000, count(t, c, dp))
	require.Equal(t, 2000, count(t, c, dp))
}

// An answer without what was asked for is not taken for an object of zeros.
func TestAcknowledgementAlone(t *testing.T) {
	c, dp, h := openHooked(t, odptest.New(), odp.Config{})
	h.receive = func(bufs [][]byte) {
		for _, b := range bufs {
			if binary.NativeEndian.Uint16(b[4:]) != 2 {
				binary.NativeEndian.PutUint16(b[4:], 1) // a message that says nothing
			}
		}
	}
	_, err := c.CreateVport(t.Context(), dp, odp.VportSpec{Name: "v", Type: odp.Internal})
	require.ErrorIs(t, err, odp.ErrMalformed)
}

// A batch whose answers stay away says how far it got, and what was refused by then.
func TestBrokenBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := odptest.New()
		c, dp, h := openHooked(t, k, odp.Config{})
		var b odp.Batch
		for i := range uint32(3000) {
			b.PutFlow(dp, flowOn(i))
		}
		k.Refuse(0, 0, syscall.EBUSY)
		sent := 0
		h.send = func([]byte) {
			if sent++; sent == 2 {
				k.LoseReplies(3000)
			}
		}
		err := c.Run(context.Background(), &b)
		require.ErrorIs(t, err, odp.ErrUnknownOutcome)
		require.False(t, errors.As(err, new(*odp.BatchError)), "it would say that all others have been done")
		var broken *odp.BrokenBatchError
		require.ErrorAs(t, err, &broken)
		require.Equal(t, 1024, broken.From)
		require.Len(t, broken.Failed, 1)
		require.Equal(t, 2, broken.Failed[0].Request)
		require.ErrorIs(t, broken.Failed[0].Err, syscall.EBUSY)
	})
}

// Timeout is for each request, also of one that waits for others.
func TestTimeoutOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := odptest.New()
		c, dp, _ := openHooked(t, k, odp.Config{Timeout: time.Second})
		k.LoseReplies(1000)
		errs := make(chan error)
		start := time.Now()
		for range 8 {
			go func() { errs <- c.FlushFlows(context.Background(), dp) }()
		}
		sent := 0
		for range 8 {
			err := <-errs
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			if errors.Is(err, odp.ErrUnknownOutcome) {
				sent++
			}
		}
		require.Equal(t, time.Second, time.Since(start))
		require.Positive(t, sent)
		require.Less(t, sent, 8, "what was not sent has not been done")
	})
}

// A context's deadline is the context's error, whichever timer is first.
func TestContextDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := odptest.New()
		c, dp, _ := openHooked(t, k, odp.Config{})
		k.LoseReplies(1000)
		for range 200 {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
			err := c.FlushFlows(ctx, dp)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, odp.ErrUnknownOutcome)
			cancel()
		}
	})
}

// Requests about devices go by a socket of their own, which ends with the Conn.
func TestCloseEndsDeviceRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := odptest.New()
		c, err := odp.Open(context.Background(), odp.Config{Dial: k.Dial})
		require.NoError(t, err)
		k.LoseReplies(1)
		start := time.Now()
		done := make(chan error)
		go func() { done <- c.DeleteDevice(context.Background(), "d") }()
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		require.Zero(t, time.Since(start))
	})
}

// A reader without room for upcalls says so.
func TestReadNothing(t *testing.T) {
	c, _ := open(t, odptest.New())
	r, err := c.OpenUpcalls(odp.UpcallConfig{Batch: 1})
	require.NoError(t, err)
	_, err = r.Read(t.Context(), nil)
	require.ErrorIs(t, err, io.ErrShortBuffer)
	require.NoError(t, r.Close())
}

// watched is a context that counts the functions that are to run when it ends.
type watched struct {
	context.Context
	waiting atomic.Int32
}

func (w *watched) AfterFunc(f func()) (stop func() bool) {
	w.waiting.Add(1)
	inner := context.AfterFunc(w.Context, f)
	return func() bool {
		w.waiting.Add(-1)
		return inner()
	}
}

// Value hides that there is a context of the library below, which would be asked instead.
func (w *watched) Value(any) any { return nil }

// A context that outlives a reader keeps nothing of it, whether it is closed within Read or after it.
func TestClosedReaderIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := odptest.New()
		c, dp, _ := openHooked(t, k, odp.Config{})
		inner, cancel := context.WithCancel(context.Background())
		defer cancel()
		ctx := &watched{Context: inner}
		ups := make([]odp.Upcall, 1)
		for range 2 {
			r, err := c.OpenUpcalls(odp.UpcallConfig{Batch: 1})
			require.NoError(t, err)
			_, err = c.SetUpcallPIDs(context.Background(), dp, odp.LocalPort, r.PID())
			require.NoError(t, err)
			require.True(t, k.Miss(dp, odp.LocalPort, make([]byte, 60), odptest.Key(odp.InPort(0))))
			_, err = r.Read(ctx, ups)
			require.NoError(t, err)
			require.EqualValues(t, 1, ctx.waiting.Load())
			go func() { _ = r.Close() }()
			_, err = r.Read(ctx, ups)
			require.ErrorIs(t, err, net.ErrClosed)
			synctest.Wait()
			require.Zero(t, ctx.waiting.Load())
		}
	})
}

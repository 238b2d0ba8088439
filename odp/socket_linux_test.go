package odp

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/odp/internal/nla"
)

// openControl opens a Conn to the running kernel whose only family is the one that every kernel has.
func openControl(t *testing.T, buffer int) (*Conn, *kernelSocket) {
	t.Helper()
	s, err := DialKernel(SocketOptions{Protocol: ProtocolGeneric, ReceiveBuffer: buffer})
	require.NoError(t, err)
	c := newConn(Config{}.withDefaults(), s, receiveCount)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, s.(*kernelSocket)
}

func (c *Conn) sendControl(t *testing.T) {
	t.Helper()
	r := request{family: family{id: controlID, version: controlVersion}, cmd: controlGet, body: func(e *nla.Encoder) {
		e.B = e.B[:len(e.B)-4]
		e.String(ctrlName, "nlctrl")
	}}
	require.NoError(t, c.sock.SetDeadline(time.Now().Add(time.Minute)))
	require.NoError(t, c.send(t.Context(), r))
}

// What has come is received, however late it is; a deadline says that there is nothing.
func TestReceiveLate(t *testing.T) {
	c, s := openControl(t, 1<<16)
	require.NoError(t, s.SetDeadline(time.Unix(1, 0)))
	_, err := s.Receive(c.bufs, c.lens)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	c.sendControl(t)
	require.NoError(t, s.SetDeadline(time.Unix(1, 0)))
	n, err := s.Receive(c.bufs, c.lens)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = s.Receive(c.bufs, c.lens)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// interrupted is a socket on which a context ends whenever a deadline has been set.
type interrupted struct{ Socket }

func (s interrupted) SetDeadline(t time.Time) error {
	return errors.Join(s.Socket.SetDeadline(t), s.Socket.SetDeadline(time.Unix(1, 0)))
}

// After a loss the kernel queues nothing more until all has been read. An end of the context at the same time does not pass for that.
func TestDrainInterrupted(t *testing.T) {
	c, s := openControl(t, 4096)
	var err error
	for !errors.Is(err, unix.ENOBUFS) { // the first reads are of what there was before the loss
		for range 100 {
			c.sendControl(t)
		}
		_, err = s.Receive(c.bufs[:1], c.lens[:1])
	}
	for range 100 {
		c.sendControl(t)
	}
	require.True(t, drain(interrupted{s}, c.bufs[:1], c.lens[:1]))
	c.sendControl(t)
	n, err := s.Receive(c.bufs, c.lens)
	require.NoError(t, err)
	m, _, err := nextMessage(c.bufs[0][:c.lens[0]])
	require.NoError(t, err)
	require.Equal(t, []any{1, c.seq}, []any{n, m.seq})
}

// A socket that is closed while a request begins is closed, not broken.
func TestClosedMeanwhile(t *testing.T) {
	c, s := openControl(t, 1<<16)
	require.NoError(t, s.Close())
	require.ErrorIs(t, c.do(context.Background(), "ask", request{}, nil), net.ErrClosed)
	require.ErrorIs(t, s.Join(1), net.ErrClosed)
}

// endless is a queue that is never empty, however much is read.
type endless struct{ Socket }

func (endless) SetDeadline(time.Time) error                       { return nil }
func (endless) Receive(bufs [][]byte, lengths []int) (int, error) { return len(bufs), nil }

func TestDrainEndless(t *testing.T) {
	start := time.Now()
	require.False(t, drain(endless{}, make([][]byte, 8), make([]int, 8)))
	require.GreaterOrEqual(t, time.Since(start), drainFor)
}

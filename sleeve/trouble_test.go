package sleeve_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

// unreadable is a socket that fails a number of times when it is read, for ever if that is negative.
type unreadable struct {
	sleeve.Conn
	err   error
	times int
}

func (u *unreadable) ReadBatch(queue int, msgs []sleeve.Message) (int, error) {
	if u.times == 0 {
		return u.Conn.ReadBatch(queue, msgs)
	}
	u.times--
	return 0, u.err
}

// TestRunEnds sees that Run reports a socket that fails for good, and may be called once.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, err := sleevetest.New(1).Listen(addrA)
		require.NoError(t, err)
		broken := errors.New("broken")
		o, err := sleeve.New(sleeve.Config{Self: nameA, Socket: &unreadable{conn, broken, -1}})
		require.NoError(t, err)
		require.ErrorIs(t, o.Run(t.Context()), broken)
		require.Error(t, o.Run(t.Context()))
	})
}

// TestNoMemory has the system short of memory for half a minute: the overlay goes on when that is over.
func TestNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := sleevetest.New(1)
		conn, err := network.Listen(addrA)
		require.NoError(t, err)
		begin := time.Now()
		o := start(t, nameA, &unreadable{conn, syscall.ENOMEM, 80})
		other, err := network.Listen(addrB)
		require.NoError(t, err)
		defer func() { _ = other.Close() }()
		_, err = other.WriteBatch([]sleeve.Message{{Data: []byte("x"), Remote: addrA}})
		require.NoError(t, err)
		for o.Status().Short == 0 {
			time.Sleep(time.Second)
		}
		require.Greater(t, time.Since(begin), 30*time.Second)
		require.EqualValues(t, 80, o.Status().ReadErrors)
	})
}

// TestControlLost has no room for the first control message of either end: it is sent again, and the link comes up.
func TestControlLost(t *testing.T) {
	for _, two := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			network := sleevetest.New(7)
			a, b := memoryEnd(t, network, nameA, addrA), memoryEnd(t, network, nameB, addrB)
			if two {
				a, b = second(a), second(b)
			}
			var links [2]overlay.Link
			events := make(chan overlay.Event, 8)
			for i, p := range []overlay.Params{
				{Self: a.Self, Remote: b.Self, RemoteAddr: b.Addr, Outbound: true}, {Self: b.Self, Remote: a.Self, RemoteAddr: a.Addr},
			} {
				p.ConnUID, p.Key = 9, testKey
				p.Receive, p.Report = func([]overlay.Frame) {}, func(e overlay.Event) { events <- e }
				full := true
				p.SendControl = func(tag byte, payload []byte) error {
					if full {
						full = false
						return errors.New("queue full")
					}
					payload = bytes.Clone(payload)
					go links[1-i].Control(tag, payload)
					return nil
				}
				var err error
				links[i], err = [2]overlay.Overlay{a.Overlay, b.Overlay}[i].Prepare(p)
				require.NoError(t, err)
			}
			for _, l := range links {
				l.Confirm()
				defer l.Close()
			}
			begin := time.Now()
			require.Equal(t, overlay.Established, (<-events).Kind)
			require.Equal(t, overlay.Established, (<-events).Kind)
			require.LessOrEqual(t, time.Since(begin), 2*time.Second)
		})
	}
}

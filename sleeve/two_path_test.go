package sleeve_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

// crowded is a socket before a queue that has no room for many of the large datagrams.
type crowded struct {
	sleeve.Conn
	rand  *rand.Rand
	share atomic.Int64 // of the large ones that are lost, in percent
}

func (c *crowded) WriteBatch(msgs []sleeve.Message) (int, error) {
	for i := range msgs {
		if len(msgs[i].Data) > 800 && c.rand.Int64N(100) < c.share.Load() {
			continue
		}
		if _, err := c.Conn.WriteBatch(msgs[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(msgs), nil
}

// TestCongestion2 loses many of the large datagrams for ten minutes, as a full queue does: what comes of it is no small MTU, or one
// for less than a minute.
func TestCongestion2(t *testing.T) {
	for _, c := range []struct {
		share    int64
		small    time.Duration // for how long the MTU may be smaller than the path's, in all
		recovers time.Duration
	}{{20, 0, 0}, {35, 30 * time.Second, 30 * time.Second}, {50, time.Minute, 30 * time.Second}} {
		for seed := range uint64(5) {
			synctest.Test(t, func(t *testing.T) {
				network := sleevetest.New(seed)
				network.SetShape(sleevetest.Shape{Delay: time.Millisecond})
				conn, err := network.Listen(addrA)
				require.NoError(t, err)
				queue := &crowded{Conn: conn, rand: rand.New(rand.NewPCG(seed, 0))}
				a, b := second(newEnd(t, nameA, addrA, queue)), second(memoryEnd(t, network, nameB, addrB))
				p := &pair{network: network, a: a, b: b, Conn: overlaytest.Connect(a, b, 9, testKey)}
				t.Cleanup(p.Close)
				require.NoError(t, p.A.Prepare())
				require.NoError(t, p.B.Prepare())
				p.up(t)
				full := func() bool { return p.A.Link.Status().MTU == mtu2(p.A, 1500) }
				require.True(t, full())
				queue.share.Store(c.share)
				var small time.Duration
				for range 600 {
					if time.Sleep(time.Second); !full() {
						small += time.Second
					}
				}
				require.LessOrEqual(t, small, c.small, "%d%%", c.share)
				queue.share.Store(0)
				for begin := time.Now(); !full(); time.Sleep(time.Second) {
					require.LessOrEqual(t, time.Since(begin), c.recovers, "%d%%", c.share)
				}
				require.Empty(t, p.A.Events)
			})
		}
	}
}

// TestBlackHole2 sees that a hole that swallows what is large is noticed soon: on a short path within nine seconds.
func TestBlackHole2(t *testing.T) {
	simulate2(t, sleevetest.Shape{MTU: 1500, Delay: time.Millisecond}, func(t *testing.T, p *pair) {
		for _, real := range []int{1400, 600, 1300} {
			p.network.SetShape(sleevetest.Shape{MTU: 1500, Delay: time.Millisecond})
			for p.A.Link.Status().MTU != mtu2(p.A, 1500) {
				time.Sleep(time.Second)
			}
			p.network.SetShape(sleevetest.Shape{MTU: 1500, RealMTU: real, Delay: time.Millisecond})
			begin := time.Now()
			for p.A.Link.Status().MTU > mtu2(p.A, real) {
				time.Sleep(100 * time.Millisecond)
			}
			require.LessOrEqual(t, time.Since(begin), 9*time.Second)
		}
	})
}

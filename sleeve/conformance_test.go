package sleeve_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

func TestMain(m *testing.M) {
	labtest.Enter()
	goleak.VerifyTestMain(m)
}

var (
	nameA = peer.Name(0x0a0000000001)
	nameB = peer.Name(0x0a0000000002)
	addrA = netip.MustParseAddrPort("10.0.0.1:6783")
	addrB = netip.MustParseAddrPort("10.0.0.2:6783")
)

// start makes an overlay that runs until the test ends.
func start(t testing.TB, self peer.Name, conn sleeve.Conn) *sleeve.Overlay {
	t.Helper()
	o, err := sleeve.New(sleeve.Config{Self: self, Socket: conn})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return o
}

func TestConformance(t *testing.T) {
	overlaytest.TestOverlay(t, overlaytest.Carrier{Open: func(t *testing.T) (a, b overlaytest.End) {
		network := sleevetest.New(1)
		return memoryEnd(t, network, nameA, addrA), memoryEnd(t, network, nameB, addrB)
	}})
}

func memoryEnd(t testing.TB, network *sleevetest.Network, self peer.Name, addr netip.AddrPort) overlaytest.End {
	t.Helper()
	conn, err := network.Listen(addr)
	require.NoError(t, err)
	return newEnd(t, self, addr, conn)
}

// counting counts the datagrams that leave a socket.
type counting struct {
	sleeve.Conn
	n atomic.Int64
}

func (c *counting) WriteBatch(msgs []sleeve.Message) (int, error) {
	n, err := c.Conn.WriteBatch(msgs)
	c.n.Add(int64(n))
	return n, err
}

func newEnd(t testing.TB, self peer.Name, addr netip.AddrPort, conn sleeve.Conn) overlaytest.End {
	t.Helper()
	c := &counting{Conn: conn}
	return overlaytest.End{
		Self: self, Overlay: start(t, self, c), Addr: addr, Datagrams: func() int { return int(c.n.Load()) },
	}
}

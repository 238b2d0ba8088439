package sleeve_test

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
)

func TestConformanceOverUDP(t *testing.T) {
	t.Parallel()
	for name, addrs := range map[string][2]string{
		"specific addresses":  {"127.0.0.1", "127.0.0.2"},
		"unspecified address": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			overlaytest.TestOverlay(t, overlaytest.Carrier{Real: true, Quiet: 50 * time.Millisecond, Open: func(t *testing.T) (a, b overlaytest.End) {
				return udpEnd(t, nameA, addrs[0]), udpEnd(t, nameB, addrs[1])
			}})
		})
	}
}

// udpEnd opens a real socket; with no address given it listens on all, and the peer is at one of the loopback ones.
func udpEnd(t testing.TB, self peer.Name, listen string) overlaytest.End {
	t.Helper()
	loopback(t)
	at := "127.0.0.1"
	if self == nameB {
		at = "127.0.0.2"
	}
	var addr netip.AddrPort
	if listen != "" {
		addr = netip.AddrPortFrom(netip.MustParseAddr(listen), 0)
	}
	socket, err := sleeve.Listen(addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = socket.Close() })
	return newEnd(t, self, netip.AddrPortFrom(netip.MustParseAddr(at), socket.LocalAddr().Port()), socket)
}

// loopback sees that the loopback device is up, which it is not in a new namespace.
func loopback(t testing.TB) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	if lo.Attrs().Flags&net.FlagUp == 0 {
		require.NoError(t, netlink.LinkSetUp(lo))
	}
}

func TestListenPortTaken(t *testing.T) {
	loopback(t)
	for _, addr := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		first, err := sleeve.Listen(netip.AddrPortFrom(netip.MustParseAddr(addr), 0))
		require.NoError(t, err)
		_, err = sleeve.Listen(first.LocalAddr())
		require.ErrorIs(t, err, syscall.EADDRINUSE, addr)
		require.NoError(t, first.Close())

		again, err := sleeve.Listen(first.LocalAddr())
		require.NoError(t, err, "the port is free again")
		require.NoError(t, again.Close())
	}
}

func TestSocketClose(t *testing.T) {
	loopback(t)
	s, err := sleeve.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	errs := make(chan error, s.Queues())
	for q := range s.Queues() {
		go func() {
			_, err := s.ReadBatch(q, []sleeve.Message{{Data: make([]byte, sleeve.MaxDatagram)}})
			errs <- err
		}()
	}
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	for range s.Queues() {
		require.ErrorIs(t, <-errs, net.ErrClosed)
	}
	_, err = s.WriteBatch([]sleeve.Message{{Data: []byte("x"), Remote: s.LocalAddr()}})
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = s.PathMTU(netip.MustParseAddr("127.0.0.1"))
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestSocketChannels sends over both channels from every kind of socket to every kind, and looks at what arrives.
func TestSocketChannels(t *testing.T) {
	loopback(t)
	for _, c := range []channelTest{
		{"127.0.0.1", "127.0.0.1", "", "127.0.0.1"},
		{"0.0.0.0", "0.0.0.0", "127.0.0.5", "127.0.0.6"},
		{"::", "::", "127.0.0.7", "127.0.0.8"},
		{"::", "0.0.0.0", "", "127.0.0.1"},
		{"::", "::", "::1", "::1"},
		{"::1", "::1", "", "::1"},
	} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) { testChannels(t, c) })
	}
}

// channelTest is where two sockets listen, and the source and destination of what is sent.
type channelTest struct{ from, to, source, dest string }

func testChannels(t *testing.T, c channelTest) {
	sender, err := sleeve.Listen(netip.AddrPortFrom(netip.MustParseAddr(c.from), 0))
	if err != nil && netip.MustParseAddr(c.from).Is6() {
		t.Skip("no IPv6 here: ", err)
	}
	require.NoError(t, err)
	defer func() { _ = sender.Close() }()
	receiver, err := sleeve.Listen(netip.AddrPortFrom(netip.MustParseAddr(c.to), 0))
	require.NoError(t, err)
	defer func() { _ = receiver.Close() }()

	m := sleeve.Message{Remote: netip.AddrPortFrom(netip.MustParseAddr(c.dest), receiver.LocalAddr().Port())}
	want := netip.MustParseAddr(c.dest)
	if c.source != "" {
		want = netip.MustParseAddr(c.source)
		m.Local = want
	}
	messages := make([]sleeve.Message, 6)
	for i := range messages {
		messages[i] = m
		messages[i].Data = make([]byte, 1000+i)
		messages[i].DontFragment = i >= 2
		messages[i].Class = uint8(0xb8 + i%4)
	}
	received := make(chan sleeve.Message, len(messages))
	for q := range receiver.Queues() {
		go func() {
			for {
				in := []sleeve.Message{{Data: make([]byte, sleeve.MaxDatagram)}, {Data: make([]byte, sleeve.MaxDatagram)}}
				n, err := receiver.ReadBatch(q, in)
				if err != nil {
					return
				}
				for _, m := range in[:n] {
					received <- m
				}
			}
		}()
	}
	n, err := sender.WriteBatch(messages)
	require.NoError(t, err)
	require.Equal(t, 2, n, "one channel at a time")
	n, err = sender.WriteBatch(messages[n:])
	require.NoError(t, err)
	require.Equal(t, 4, n)
	sizes := map[int]bool{}
	for range messages {
		m := <-received
		sizes[len(m.Data)] = true
		require.EqualValues(t, 0xb8+(len(m.Data)-1000)%4, m.Class)
		require.Equal(t, sender.LocalAddr().Port(), m.Remote.Port(), "both channels leave from one port")
		if c.source != "" || want.IsLoopback() && c.from == c.to {
			require.Equal(t, want, m.Remote.Addr())
		}
	}
	require.Len(t, sizes, len(messages))
	mtu, err := sender.PathMTU(want)
	require.NoError(t, err)
	require.GreaterOrEqual(t, mtu, 1280)
}

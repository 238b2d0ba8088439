package dnsserver

import (
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// TestForwardLoop has two servers that name each other: the question ends where it comes back.
func TestForwardLoop(t *testing.T) {
	a, b := listenLoopback(t), listenLoopback(t)
	sa := start(t, Config{Sockets: a, Upstreams: upstreams(b.Addr()), ForwardTimeout: 100 * time.Millisecond})
	sb := start(t, Config{Sockets: b, Upstreams: upstreams(a.Addr()), ForwardTimeout: 100 * time.Millisecond})
	for _, network := range []string{"udp", "tcp"} {
		before := sa.Status().Forwarded
		require.Equal(t, dns.RcodeServerFailure, resolve(t, network, a.Addr(), "loop.example.com.", dns.TypeA).Rcode)
		require.Equal(t, before+2, sa.Status().Forwarded, "the client's, and the same again")
	}
	require.Equal(t, uint64(2), sb.Status().Forwarded)
	require.Eventually(t, func() bool { return sa.waiting.taken()+sb.waiting.taken() == 0 }, patience, time.Millisecond)
	require.Empty(t, sa.forward.flights)
}

// TestForwardJoins has many clients ask the same: the upstream is asked once, and each gets the answer under its id.
func TestForwardJoins(t *testing.T) {
	const clients = 20
	release := make(chan bool)
	up := newUpstream(t, "127.0.0.1:0", after(release, known))
	s := newServer(t, Config{Upstreams: upstreams(up.addr)})
	s.forward.headStart = time.Hour
	run(t, s)
	answers := make(chan *dns.Msg, clients)
	for range clients {
		go func() { answers <- resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA) }()
	}
	require.Eventually(t, func() bool { return s.forward.aboard() == clients }, patience, time.Millisecond)
	require.Equal(t, clients, s.waiting.taken())
	close(release)
	for range clients {
		require.Len(t, (<-answers).Answer, 1)
	}
	<-up.seen
	require.Empty(t, up.seen)
	require.Len(t, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Answer, 1)
	require.Len(t, up.seen, 1, "asked anew")
}

// aboard counts those who wait for queries that are on their way. To hold a place is not enough: who does may still be about to ask.
func (f *forwarder) aboard() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.flights {
		n += l.aboard
	}
	return n
}

// TestForwardAsksAgain loses the first datagram.
func TestForwardAsksAgain(t *testing.T) {
	var count atomic.Int32
	up := newUpstream(t, "127.0.0.1:0", func(raw []byte) [][]byte {
		if count.Add(1) == 1 {
			return nil
		}
		return known(raw)
	})
	s := newServer(t, Config{Upstreams: upstreams(up.addr), ForwardTimeout: time.Hour})
	s.forward.headStart = 10 * time.Millisecond
	run(t, s)
	require.Len(t, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Answer, 1)
	require.Equal(t, <-up.seen, <-up.seen)
}

// TestForwardShare has one client take its share of the places; another is served.
func TestForwardShare(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux all of 127.0.0.0/8 is this host")
	}
	up := newUpstream(t, "127.0.0.1:0", func(raw []byte) [][]byte {
		if query := new(dns.Msg); query.Unpack(raw) != nil || query.Question[0].Name != "www.example.com." {
			return nil
		}
		return known(raw)
	})
	s := start(t, Config{Upstreams: upstreams(up.addr), MaxForwards: 8, MaxConns: 8, ForwardTimeout: time.Hour})
	greedy := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := greedy.Dial("udp", s.sockets.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	raw, err := question("dead.example.net.", dns.TypeA).Pack()
	require.NoError(t, err)
	for range 20 {
		_, err = conn.Write(raw)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return s.Status().Dropped == 18 }, patience, time.Millisecond)
	require.Equal(t, 2, s.waiting.taken())
	require.Len(t, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Answer, 1)

	greedy.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	for range 3 {
		conn, err := greedy.Dial("tcp", s.sockets.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
	}
	require.Eventually(t, func() bool { return s.Status().Refused == 1 }, patience, time.Millisecond)
	require.Len(t, resolve(t, "tcp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Answer, 1)
}

func TestQuota(t *testing.T) {
	q := newQuota(8)
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }
	for i := range 4 {
		require.True(t, q.take(client(i)))
		require.True(t, q.take(client(i)))
		require.False(t, q.take(client(i)), "its share")
	}
	require.False(t, q.take(client(9)), "all")
	q.give(client(1))
	require.True(t, q.take(client(9)))
	for _, i := range []int{0, 0, 1, 2, 2, 3, 3, 9} {
		q.give(client(i))
	}
	require.Zero(t, q.taken())
	require.Empty(t, q.by)
	require.True(t, newQuota(1).take(client(1)), "one at least")
}

// TestAllow: names of the zone are for all, the world is for some.
func TestAllow(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", known)
	for _, c := range []struct {
		allow []netip.Prefix
		ok    bool
	}{
		{nil, true},
		{[]netip.Prefix{}, false},
		{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")}, false},
		{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8")}, true},
	} {
		s := start(t, Config{Upstreams: upstreams(up.addr), Allow: c.allow})
		for _, network := range []string{"udp", "tcp"} {
			require.Len(t, resolve(t, network, s.sockets.Addr(), "one.weave.local.", dns.TypeA).Answer, 1)
			msg := send(t, network, s.sockets.Addr(), question("www.example.com.", dns.TypeA).SetEdns0(4096, true))
			if c.ok {
				require.Len(t, msg.Answer, 1)
				continue
			}
			require.Equal(t, dns.RcodeRefused, msg.Rcode)
			require.True(t, msg.IsEdns0().Do())
		}
		if !c.ok {
			require.Equal(t, uint64(2), s.Status().Denied)
			require.Zero(t, s.Status().Forwarded)
		}
	}
}

// TestClientOf: a client is the same by IPv4 and by the socket for both families, and whichever interface it is behind.
func TestClientOf(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "::ffff:10.0.0.1": "10.0.0.1", "fe80::1%lo": "fe80::1", "fd00::1": "fd00::1",
	} {
		require.Equal(t, want, clientOf(netip.AddrPortFrom(netip.MustParseAddr(text), 7)).String())
	}
}

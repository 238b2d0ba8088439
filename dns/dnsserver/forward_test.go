package dnsserver

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func TestForwardUnchanged(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", known)
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	query := question("WWW.example.com.", dns.TypeA).SetEdns0(1400, true)
	query.CheckingDisabled = true
	raw, err := query.Pack()
	require.NoError(t, err)
	for _, network := range []string{"udp", "tcp"} {
		require.NotNil(t, ask(t, network, s.sockets.Addr(), raw, patience))
		require.Equal(t, raw[2:], (<-up.seen)[2:], "but for the id")
	}
}

func TestForwardOverIPv6(t *testing.T) {
	sockets, err := Listen("[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback here: %v", err)
	}
	require.NoError(t, sockets.Close())
	up := newUpstream(t, "[::1]:0", known)
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	for _, network := range []string{"udp", "tcp"} {
		require.Len(t, resolve(t, network, s.sockets.Addr(), "www.example.com.", dns.TypeA).Answer, 1)
	}
}

// TestForwardTakesNextUpstream has a first upstream that is dead in some way; the second answers, and after a few times is
// asked first.
func TestForwardTakesNextUpstream(t *testing.T) {
	garbled := func(raw []byte) [][]byte {
		return [][]byte{append(append([]byte(nil), raw[:2]...), 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'w')}
	}
	for name, first := range map[string]func() netip.AddrPort{
		"closed":  func() netip.AddrPort { return closedPort },
		"silent":  func() netip.AddrPort { return newUpstream(t, "127.0.0.1:0", silent).addr },
		"garbled": func() netip.AddrPort { return newUpstream(t, "127.0.0.1:0", garbled).addr },
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				dead, up := first(), newUpstream(t, "127.0.0.1:0", known)
				s := newServer(t, Config{Upstreams: upstreams(dead, up.addr)})
				s.forward.headStart = time.Hour // a failure ends it
				if name == "silent" {
					s.forward.headStart = 10 * time.Millisecond
				}
				run(t, s)
				for range maxMisses {
					require.Equal(t, []netip.AddrPort{dead, up.addr}, s.Status().Upstreams)
					require.Len(t, resolve(t, network, s.sockets.Addr(), "www.example.com.", dns.TypeA).Answer, 1)
				}
				require.Equal(t, []netip.AddrPort{up.addr, dead}, s.Status().Upstreams)
				require.Equal(t, uint64(0), s.Status().Failed)
			})
		}
	}
}

// TestForwardIgnoresForgery has datagrams arrive before the answer that do not belong to the query.
func TestForwardIgnoresForgery(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", func(raw []byte) [][]byte {
		answers := known(raw)
		wrongID := append([]byte(nil), answers[0]...)
		wrongID[0], wrongID[3] = wrongID[0]+1, wrongID[3]|dns.RcodeNameError
		query := append([]byte(nil), raw...)
		other := new(dns.Msg).SetReply(question("www.example.org.", dns.TypeA))
		other.Id = idOf(raw)
		wrongName, err := other.Pack()
		if err != nil {
			return nil
		}
		return [][]byte{wrongID, query, wrongName, {1, 2, 3}, answers[0]}
	})
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	msg := resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA)
	require.Equal(t, dns.RcodeSuccess, msg.Rcode)
	require.Len(t, msg.Answer, 1)
}

// TestForwardTotalLimit has nothing but silent upstreams.
func TestForwardTotalLimit(t *testing.T) {
	var addrs []netip.AddrPort
	for range 3 {
		addrs = append(addrs, newUpstream(t, "127.0.0.1:0", silent).addr)
	}
	s := start(t, Config{Upstreams: upstreams(addrs...), ForwardTimeout: 50 * time.Millisecond})
	for _, network := range []string{"udp", "tcp"} {
		began := time.Now()
		msg := send(t, network, s.sockets.Addr(), question("www.example.com.", dns.TypeA).SetEdns0(1232, false))
		require.Equal(t, dns.RcodeServerFailure, msg.Rcode)
		require.NotNil(t, msg.IsEdns0())
		require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
	}
	require.Equal(t, uint64(2), s.Status().Failed)
}

// TestForwardCutsForClient has an upstream that sends more than the client can take.
func TestForwardCutsForClient(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", known)
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	query, err := question("large.example.com.", dns.TypeA).Pack()
	require.NoError(t, err)
	raw := ask(t, "udp", s.sockets.Addr(), query, patience)
	require.LessOrEqual(t, len(raw), dns.MinMsgSize)
	msg := new(dns.Msg)
	require.NoError(t, msg.Unpack(raw))
	require.True(t, msg.Truncated)
	require.NotEmpty(t, msg.Answer)
	require.Equal(t, idOf(query), msg.Id)
	msg = send(t, "udp", s.sockets.Addr(), question("large.example.com.", dns.TypeA).SetEdns0(4096, false))
	require.Len(t, msg.Answer, 60)
	msg = resolve(t, "tcp", s.sockets.Addr(), "large.example.com.", dns.TypeA)
	require.Len(t, msg.Answer, 60)
}

// TestForwardDropsWhenFull has one slot, which a silent upstream holds.
func TestForwardDropsWhenFull(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", silent)
	s := start(t, Config{Upstreams: upstreams(up.addr), MaxForwards: 1, ForwardTimeout: time.Hour})
	conn, err := net.Dial("udp", s.sockets.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	raw, err := question("www.example.com.", dns.TypeA).Pack()
	require.NoError(t, err)
	_, err = conn.Write(raw)
	require.NoError(t, err)
	<-up.seen
	_, err = conn.Write(raw)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.Status().Dropped == 1 }, patience, time.Millisecond)
	require.Equal(t, dns.RcodeServerFailure, resolve(t, "tcp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Rcode)
	require.Len(t, resolve(t, "udp", s.sockets.Addr(), "one.weave.local.", dns.TypeA).Answer, 1, "names of the zone go on")
	require.Empty(t, up.seen)
}

// TestForwardNotToItself names the server as its own upstream, by its address and by others of the host.
func TestForwardNotToItself(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", known)
	sockets := listenLoopback(t)
	s := start(t, Config{Sockets: sockets, Upstreams: upstreams(sockets.Addr(), up.addr, up.addr)})
	require.Equal(t, []netip.AddrPort{up.addr}, s.Status().Upstreams)

	all, err := Listen("0.0.0.0:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = all.Close() })
	loop := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), all.Addr().Port())
	s = start(t, Config{Sockets: all, Upstreams: upstreams(loop)})
	require.Empty(t, s.Status().Upstreams)

	// Other addresses of the host are found out when they are asked. Loopback stands for one here.
	for _, network := range []string{"udp", "tcp"} {
		query := question("www.example.com.", dns.TypeA)
		raw, err := query.Pack()
		require.NoError(t, err)
		r := s.forward.ask(t.Context(), &exchange{network, raw, query}, loop, 0)
		require.ErrorIs(t, r.err, errSelf)
	}
}

// TestForwardFailureWithoutQuestion has an upstream that refuses and leaves the question out, as some do.
func TestForwardFailureWithoutQuestion(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", func(raw []byte) [][]byte {
		return [][]byte{append(append([]byte(nil), raw[:2]...), 0x81, 0x80|dns.RcodeRefused, 0, 0, 0, 0, 0, 0, 0, 0)}
	})
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	require.Equal(t, dns.RcodeRefused, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Rcode)
}

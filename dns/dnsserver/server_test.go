package dnsserver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestListen(t *testing.T) {
	for _, addr := range []string{"", "127.0.0.1", "localhost:53", ":53", "127.0.0.1:x"} {
		_, err := Listen(addr)
		require.ErrorContains(t, err, "want an IP address and a port", addr)
	}
	s := listenLoopback(t)
	require.NotZero(t, s.Addr().Port())
	require.Equal(t, s.Addr().Port(), uint16(s.udp.LocalAddr().(*net.UDPAddr).Port))
	_, err := Listen(s.Addr().String())
	require.Error(t, err, "taken")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	again, err := Listen(s.Addr().String())
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestNewRefuses(t *testing.T) {
	s, zone := listenLoopback(t), newZone(t)
	for _, c := range []Config{
		{}, {Sockets: s}, {Zone: zone},
		{Sockets: s, Zone: zone, Domain: "."}, {Sockets: s, Zone: zone, Domain: strings.Repeat("x", 64)},
		{Sockets: s, Zone: zone, MaxConns: -1}, {Sockets: s, Zone: zone, MaxForwards: -1},
		{Sockets: s, Zone: zone, ForwardTimeout: -1},
	} {
		_, err := New(c)
		require.Error(t, err)
	}
}

func TestRun(t *testing.T) {
	s, err := New(Config{Sockets: listenLoopback(t), Zone: newZone(t)})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	require.Equal(t, dns.RcodeSuccess, resolve(t, "udp", s.sockets.Addr(), "one.weave.local.", dns.TypeA).Rcode)
	require.NoError(t, s.sockets.Close())
	require.ErrorIs(t, <-done, net.ErrClosed, "closed under it")
	require.ErrorContains(t, s.Run(t.Context()), "once")
}

// TestRunEnds ends a server with a query at an upstream and an idle connection; it does not wait for either.
func TestRunEnds(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", silent)
	s, err := New(Config{
		Sockets: listenLoopback(t), Zone: newZone(t), Upstreams: upstreams(up.addr), ForwardTimeout: time.Hour,
	})
	require.NoError(t, err)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for _, network := range []string{"udp", "tcp"} {
		conn, err := net.Dial(network, s.sockets.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		raw, err := question("www.example.com.", dns.TypeA).Pack()
		require.NoError(t, err)
		if network == "tcp" {
			require.NoError(t, writeMessage(conn, raw))
		} else {
			_, err = conn.Write(raw)
			require.NoError(t, err)
		}
		<-up.seen
	}
	idle, err := net.Dial("tcp", s.sockets.Addr().String())
	require.NoError(t, err)
	defer idle.Close()
	raw, err := question("one.weave.local.", dns.TypeA).Pack()
	require.NoError(t, err)
	require.NoError(t, writeMessage(idle, raw))
	_, err = readMessage(idle)
	require.NoError(t, err)
	cancel(cause)
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(idleTimeout - 2*time.Second):
		t.Fatal("Run does not end")
	}
}

// slow is a zone that is still at work while its server ends.
type slow struct {
	fixed
	entered chan struct{}
	hold    func()
	ended   atomic.Bool
}

func (z *slow) Lookup(name string) ([]netip.Addr, bool) {
	close(z.entered)
	z.hold()
	z.ended.Store(true)
	return z.fixed.Lookup(name)
}

// TestRunWaits ends a server while it is in the zone: Run returns after that.
func TestRunWaits(t *testing.T) {
	sockets := listenLoopback(t)
	zone := &slow{entered: make(chan struct{}), hold: func() {
		assert.Eventually(t, func() bool { // the sockets are closed
			conn, err := net.Dial("tcp", sockets.Addr().String())
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		}, patience, 20*time.Millisecond)
	}}
	s := newServer(t, Config{Sockets: sockets, Zone: zone})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn, err := net.Dial("udp", sockets.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	raw, err := question("one.weave.local.", dns.TypeA).Pack()
	require.NoError(t, err)
	_, err = conn.Write(raw)
	require.NoError(t, err)
	<-zone.entered
	cancel()
	require.NoError(t, <-done)
	require.True(t, zone.ended.Load())
}

func TestNegativeAnswersBearSOA(t *testing.T) {
	s := start(t, Config{Domain: "Example.ORG", TTL: 30 * time.Second, Zone: fixed{"a.example.org.": {"10.0.0.1"}}})
	for name, soa := range map[string]int{"nosuch.example.org.": 1, "nosuch.": 0} {
		msg := resolve(t, "udp", s.sockets.Addr(), name, dns.TypeA)
		require.Equal(t, dns.RcodeNameError, msg.Rcode)
		require.Len(t, msg.Ns, soa, name)
	}
	msg := resolve(t, "udp", s.sockets.Addr(), "a.example.org.", dns.TypeAAAA)
	require.Equal(t, dns.RcodeSuccess, msg.Rcode)
	require.Equal(t, "example.org.", msg.Ns[0].Header().Name)
	require.EqualValues(t, 30, msg.Ns[0].(*dns.SOA).Minttl)
	msg = resolve(t, "udp", s.sockets.Addr(), "a.example.org.", dns.TypeA)
	require.EqualValues(t, 30, msg.Answer[0].Header().Ttl)
}

// fixed is a zone of a few names, also with IPv6 addresses, which a table does not hold.
type fixed map[string][]string

func (f fixed) Lookup(name string) (addrs []netip.Addr, ok bool) {
	texts, ok := f[strings.ToLower(name)]
	for _, a := range texts {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, ok
}

func (f fixed) Reverse(addr netip.Addr) (string, bool) {
	for name, texts := range f {
		for _, a := range texts {
			if a == addr.String() {
				return name, true
			}
		}
	}
	return "", false
}

func TestFamilies(t *testing.T) {
	s := start(t, Config{TTL: -1, Zone: fixed{"x.weave.local.": {"fd00::1", "10.0.0.1", "10.0.0.1", "::ffff:10.0.0.2"}}})
	msg := resolve(t, "udp", s.sockets.Addr(), "x.weave.local.", dns.TypeA)
	require.Len(t, msg.Answer, 2, "each once")
	require.Zero(t, msg.Answer[0].Header().Ttl)
	msg = resolve(t, "udp", s.sockets.Addr(), "x.weave.local.", dns.TypeAAAA)
	require.Equal(t, "fd00::1", msg.Answer[0].(*dns.AAAA).AAAA.String())
}

// TestNameWithoutPlaceInDNS has the zone give a name that cannot be sent: any peer may gossip one.
func TestNameWithoutPlaceInDNS(t *testing.T) {
	s := start(t, Config{Zone: fixed{strings.Repeat("x", 64) + ".weave.local.": {"10.0.0.1"}}})
	require.Equal(t, dns.RcodeServerFailure, resolve(t, "udp", s.sockets.Addr(), "1.0.0.10.in-addr.arpa.", dns.TypePTR).Rcode)
}

func TestEDNS(t *testing.T) {
	s := start(t, Config{})
	query := question("one.weave.local.", dns.TypeA).SetEdns0(1232, true)
	msg := send(t, "udp", s.sockets.Addr(), query)
	require.Equal(t, dns.RcodeSuccess, msg.Rcode)
	require.True(t, msg.IsEdns0().Do())

	for name, qtype := range map[string]uint16{"one.weave.local.": dns.TypeA, "1.0.32.10.in-addr.arpa.": dns.TypePTR} {
		query = question(name, qtype).SetEdns0(1232, false)
		query.IsEdns0().SetVersion(1)
		msg = send(t, "udp", s.sockets.Addr(), query)
		require.Equal(t, dns.RcodeBadVers, msg.Rcode)
		require.Zero(t, msg.IsEdns0().Version())
		require.Empty(t, msg.Answer)
	}
}

func TestOpcodes(t *testing.T) {
	s := start(t, Config{})
	for _, opcode := range []int{dns.OpcodeUpdate, dns.OpcodeNotify, dns.OpcodeStatus} {
		query := question("one.weave.local.", dns.TypeA)
		query.Opcode = opcode
		msg := send(t, "udp", s.sockets.Addr(), query)
		require.Equal(t, dns.RcodeNotImplemented, msg.Rcode)
		require.Equal(t, opcode, msg.Opcode)
	}
}

// TestIgnores sends what deserves no answer, and then a question on the same socket, which is answered.
func TestIgnores(t *testing.T) {
	s := start(t, Config{})
	answer := question("one.weave.local.", dns.TypeA)
	answer.Response = true
	raw, err := answer.Pack()
	require.NoError(t, err)
	conn, err := net.Dial("udp", s.sockets.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	query, err := question("one.weave.local.", dns.TypeA).Pack()
	require.NoError(t, err)
	for _, b := range [][]byte{raw, raw[:11], {}, query} {
		_, err = conn.Write(b)
		require.NoError(t, err)
	}
	buf := make([]byte, 512)
	_, err = conn.Read(buf)
	require.NoError(t, err)
	require.Equal(t, idOf(query), idOf(buf))
	require.Eventually(t, func() bool { return s.Status().Ignored == 3 }, patience, time.Millisecond)

	require.Nil(t, ask(t, "tcp", s.sockets.Addr(), raw, patience), "the connection ends")
	require.Nil(t, ask(t, "tcp", s.sockets.Addr(), nil, patience))
}

// TestRandomOrder asks many times: each address comes first at some time.
func TestRandomOrder(t *testing.T) {
	s := start(t, Config{})
	first := map[string]bool{}
	for range 1000 {
		msg := resolve(t, "udp", s.sockets.Addr(), "two.weave.local.", dns.TypeA)
		if first[msg.Answer[0].(*dns.A).A.String()] = true; len(first) == 2 {
			return
		}
	}
	t.Fatal("always the same order")
}

// TestHugeName has more addresses than a message of TCP holds.
func TestHugeName(t *testing.T) {
	var addrs []string
	for i := range 5000 {
		addrs = append(addrs, fmt.Sprintf("10.1.%d.%d", i>>8, i&255))
	}
	s := start(t, Config{Zone: fixed{"huge.weave.local.": addrs}})
	msg := resolve(t, "tcp", s.sockets.Addr(), "huge.weave.local.", dns.TypeA)
	require.True(t, msg.Truncated)
	require.Greater(t, len(msg.Answer), 4000)
}

func TestTCPConnections(t *testing.T) {
	s := start(t, Config{MaxConns: 1})
	conn, err := net.Dial("tcp", s.sockets.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	raw, err := question("one.weave.local.", dns.TypeA).Pack()
	require.NoError(t, err)
	for range maxConnQueries {
		require.NoError(t, writeMessage(conn, raw))
		_, err = readMessage(conn)
		require.NoError(t, err)
	}
	_, err = readMessage(conn)
	require.Error(t, err, "that was the last one")

	require.Eventually(t, func() bool { return s.conns.taken() == 0 }, patience, time.Millisecond)
	held, err := net.Dial("tcp", s.sockets.Addr().String())
	require.NoError(t, err)
	defer held.Close()
	require.Eventually(t, func() bool { return s.conns.taken() == 1 }, patience, time.Millisecond)
	require.Nil(t, ask(t, "tcp", s.sockets.Addr(), raw, patience), "one too many")
	require.Equal(t, uint64(1), s.Status().Refused)
}

// TestAnswersFromAddressAsked asks a server on all addresses at one that the system would not choose as the source.
func TestAnswersFromAddressAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux all of 127.0.0.0/8 is this host")
	}
	sockets, err := Listen("0.0.0.0:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = sockets.Close() })
	start(t, Config{Sockets: sockets})
	at := netip.AddrPortFrom(netip.MustParseAddr("127.1.2.3"), sockets.Addr().Port())
	require.Len(t, resolve(t, "udp", at, "one.weave.local.", dns.TypeA).Answer, 1) // the client takes answers from there only
}

func TestStatus(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", known)
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	resolve(t, "udp", s.sockets.Addr(), "one.weave.local.", dns.TypeA)
	resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA)
	require.NotNil(t, ask(t, "udp", s.sockets.Addr(), []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'o'}, patience))
	require.Equal(t, Status{
		Address: s.sockets.Addr(), Domain: "weave.local.", TTL: time.Second, Upstreams: []netip.AddrPort{up.addr},
		Queries: 3, Malformed: 1, Forwarded: 1,
	}, s.Status())
}

func FuzzReply(f *testing.F) {
	for _, v := range loadVectors(f) {
		raw, err := hex.DecodeString(v.QueryHex)
		require.NoError(f, err)
		f.Add(raw, false)
		f.Add(raw, true)
	}
	sockets, err := Listen("127.0.0.1:0")
	require.NoError(f, err)
	f.Cleanup(func() { _ = sockets.Close() })
	s, err := New(Config{Sockets: sockets, Zone: newZone(f)})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte, tcp bool) {
		network, size := "udp", maxDatagram
		if tcp {
			network, size = "tcp", dns.MaxMsgSize
		}
		msg, forward := s.reply(raw, network, netip.Addr{})
		if forward != nil {
			require.Nil(t, msg)
			require.Equal(t, dns.OpcodeQuery, forward.Opcode)
			require.Len(t, forward.Question, 1)
			msg = failure(forward, dns.RcodeServerFailure)
			require.NotEmpty(t, msg)
		}
		if msg == nil {
			return
		}
		require.LessOrEqual(t, len(msg), size)
		require.Equal(t, idOf(raw), idOf(msg))
		require.NotZero(t, msg[2]&0x80)
		require.NoError(t, new(dns.Msg).Unpack(msg))
	})
}

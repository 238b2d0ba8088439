package dnsserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	names "github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to happen.
const patience = 10 * time.Second

// newZone makes the table of names of the vectors.
func newZone(t testing.TB) *names.Table {
	node := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: peer.Name(1)})
	table, err := names.New(names.Config{Bus: node})
	require.NoError(t, err)
	add := func(name, addr string) {
		require.NoError(t, table.Register(name+".weave.local", "c", netip.MustParseAddr(addr)))
	}
	add("one", "10.32.0.1")
	add("alias", "10.32.0.1")
	add("Mixed", "10.32.0.2")
	add("sub.zone", "10.32.0.3")
	add("two", "10.41.0.1")
	add("two", "10.41.0.2")
	for i := range 100 {
		add("many", fmt.Sprintf("10.40.0.%d", i))
	}
	return table
}

// start runs a server on loopback until the test ends.
func start(t testing.TB, c Config) *Server {
	s := newServer(t, c)
	run(t, s)
	return s
}

func newServer(t testing.TB, c Config) *Server {
	if c.Sockets == nil {
		c.Sockets = listenLoopback(t)
	}
	if c.Zone == nil {
		c.Zone = newZone(t)
	}
	s, err := New(c)
	require.NoError(t, err)
	return s
}

func run(t testing.TB, s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func listenLoopback(t testing.TB) *Sockets {
	s, err := Listen("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// closedPort is an address where nobody listens: port 1 is never given out, and its service long gone.
var closedPort = netip.MustParseAddrPort("127.0.0.1:1")

func upstreams(addrs ...netip.AddrPort) func() []netip.AddrPort {
	return func() []netip.AddrPort { return addrs }
}

// ask sends raw to a server and returns its answer, or nil if none came before the deadline.
func ask(t testing.TB, network string, server netip.AddrPort, raw []byte, wait time.Duration) []byte {
	conn, err := net.Dial(network, server.String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(wait)))
	if network == "tcp" {
		require.NoError(t, writeMessage(conn, raw))
		msg, err := readMessage(conn)
		if err != nil {
			return nil
		}
		return msg
	}
	_, err = conn.Write(raw)
	require.NoError(t, err)
	buf := make([]byte, dns.MaxMsgSize)
	n, err := conn.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// resolve asks one question and returns the answer.
func resolve(t testing.TB, network string, server netip.AddrPort, name string, qtype uint16) *dns.Msg {
	return send(t, network, server, question(name, qtype))
}

func send(t testing.TB, network string, server netip.AddrPort, query *dns.Msg) *dns.Msg {
	raw, err := query.Pack()
	require.NoError(t, err)
	answer := ask(t, network, server, raw, patience)
	require.NotNil(t, answer, "no answer")
	msg := new(dns.Msg)
	require.NoError(t, msg.Unpack(answer))
	require.Equal(t, query.Id, msg.Id)
	return msg
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// upstream answers over UDP and TCP with what do returns for a query, which may be nothing.
type upstream struct {
	addr netip.AddrPort
	seen chan []byte // the queries, as they came
}

func newUpstream(t testing.TB, addr string, do func(raw []byte) [][]byte) *upstream {
	s, err := Listen(addr)
	require.NoError(t, err)
	u := &upstream{addr: s.Addr(), seen: make(chan []byte, 1000)}
	t.Cleanup(func() { _ = s.Close() })
	go func() {
		buf := make([]byte, dns.MaxMsgSize)
		for {
			n, from, err := s.udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			raw := append([]byte(nil), buf[:n]...)
			u.seen <- raw
			for _, answer := range do(raw) {
				_, _ = s.udp.WriteToUDPAddrPort(answer, from)
			}
		}
	}()
	go func() {
		for {
			conn, err := s.tcp.Accept()
			if err != nil {
				return
			}
			go u.serve(conn, do)
		}
	}()
	return u
}

// serve answers one query and waits for the other end to close.
func (u *upstream) serve(conn net.Conn, do func(raw []byte) [][]byte) {
	defer conn.Close()
	raw, err := readMessage(conn)
	if err != nil {
		return
	}
	u.seen <- raw
	for _, answer := range do(raw) {
		_ = writeMessage(conn, answer)
	}
	_, _ = io.Copy(io.Discard, conn)
}

// silent is an upstream's way to answer nothing.
func silent([]byte) [][]byte { return nil }

// known is the upstream of the vectors.
func known(raw []byte) [][]byte {
	query := new(dns.Msg)
	if query.Unpack(raw) != nil {
		return nil
	}
	reply := new(dns.Msg).SetReply(query)
	reply.RecursionAvailable = true
	hdr := dns.RR_Header{Name: query.Question[0].Name, Rrtype: query.Question[0].Qtype, Class: dns.ClassINET, Ttl: 300}
	switch query.Question[0].Name {
	case "www.example.com.":
		reply.Answer = []dns.RR{&dns.A{Hdr: hdr, A: net.IPv4(192, 0, 2, 1)}}
	case "9.2.0.192.in-addr.arpa.":
		reply.Answer = []dns.RR{&dns.PTR{Hdr: hdr, Ptr: "up.example.com."}}
	case "fail.example.com.":
		reply.Rcode = dns.RcodeServerFailure
	case "trunc.example.com.":
		reply.Truncated = true
	case "large.example.com.":
		for i := range 60 {
			reply.Answer = append(reply.Answer, &dns.A{Hdr: hdr, A: net.IPv4(192, 0, 2, byte(i))})
		}
	default:
		reply.Rcode = dns.RcodeNameError
	}
	answer, err := reply.Pack()
	if err != nil {
		return nil
	}
	return [][]byte{answer}
}

func idOf(raw []byte) uint16 { return binary.BigEndian.Uint16(raw) }

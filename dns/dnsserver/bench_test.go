package dnsserver

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// BenchmarkReply makes the answer to a query, without the network.
func BenchmarkReply(b *testing.B) {
	s, err := New(Config{Sockets: listenLoopback(b), Zone: newZone(b)})
	require.NoError(b, err)
	raw, err := question("one.weave.local.", dns.TypeA).Pack()
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if msg, _ := s.reply(raw, "udp", netip.Addr{}); msg == nil {
			b.Fatal("no answer")
		}
	}
}

// BenchmarkQuery is a whole query over loopback, one after the other.
func BenchmarkQuery(b *testing.B) {
	s := start(b, Config{})
	for _, c := range []struct{ name, question string }{{"one", "one.weave.local."}, {"many", "many.weave.local."}} {
		b.Run(c.name, func(b *testing.B) {
			conn, err := net.Dial("udp", s.sockets.Addr().String())
			require.NoError(b, err)
			defer conn.Close()
			raw, err := question(c.question, dns.TypeA).SetEdns0(maxDatagram, false).Pack()
			require.NoError(b, err)
			buf := make([]byte, maxDatagram)
			require.NoError(b, conn.SetDeadline(time.Now().Add(time.Minute)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(raw); err != nil {
					b.Fatal(err)
				}
				if _, err := conn.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

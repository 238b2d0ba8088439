package dnsserver

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	firstQueryTimeout = 2 * time.Second // from the opening of a connection
	idleTimeout       = 8 * time.Second // from one answer to the whole of the next query
	writeTimeout      = 2 * time.Second
	maxConnQueries    = 128
)

// serveTCP takes connections until the socket is closed, and leaves them to goroutines in wg.
func (s *Server) serveTCP(ctx context.Context, wg *sync.WaitGroup) error {
	for {
		conn, err := s.sockets.tcp.Accept()
		if err != nil {
			if err := s.pause(ctx, err); err != nil {
				return err
			}
			continue
		}
		client := clientOf(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
		if !s.conns.take(client) {
			s.counts.refused.Add(1)
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer s.conns.give(client)
			s.serveConn(ctx, conn, client)
		})
	}
}

// serveConn answers the queries of a connection, in turn, and closes it.
func (s *Server) serveConn(ctx context.Context, conn net.Conn, client netip.Addr) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	timeout := firstQueryTimeout
	for range maxConnQueries {
		_ = conn.SetReadDeadline(time.Now().Add(timeout)) // fails only if closed, and then so does the read
		raw, err := readMessage(conn)
		if err != nil {
			return
		}
		msg := s.replyTCP(ctx, raw, client)
		if msg == nil {
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if writeMessage(conn, msg) != nil {
			return
		}
		timeout = idleTimeout
	}
}

// replyTCP answers a query, or returns nil if the connection deserves to end.
func (s *Server) replyTCP(ctx context.Context, raw []byte, client netip.Addr) []byte {
	msg, forward := s.reply(raw, "tcp", client)
	if forward == nil {
		return msg
	}
	if !s.waiting.take(client) {
		s.counts.dropped.Add(1)
		return failure(forward, dns.RcodeServerFailure)
	}
	defer s.waiting.give(client)
	return s.pass(ctx, &exchange{"tcp", raw, forward})
}

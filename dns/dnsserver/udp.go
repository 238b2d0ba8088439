package dnsserver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// readPause is how long a socket that cannot be read, or accepted from, is left alone.
const readPause = 50 * time.Millisecond

// serveUDP reads queries until the socket is closed. Several goroutines run it side by side. What is passed on is left
// to goroutines in wg.
func (s *Server) serveUDP(ctx context.Context, wg *sync.WaitGroup) error {
	buf := make([]byte, maxDatagram)
	for {
		n, session, err := dns.ReadFromSessionUDP(s.sockets.udp, buf)
		if err != nil {
			if err := s.pause(ctx, err); err != nil {
				return err
			}
			continue
		}
		client := clientOf(session.RemoteAddr().(*net.UDPAddr).AddrPort())
		msg, forward := s.reply(buf[:n], "udp", client)
		if msg != nil {
			_, _ = dns.WriteToSessionUDP(s.sockets.udp, msg, session) // lost like any datagram: the client asks again
		}
		if forward == nil {
			continue
		}
		if !s.waiting.take(client) {
			s.counts.dropped.Add(1)
			continue
		}
		e := &exchange{"udp", bytes.Clone(buf[:n]), forward}
		wg.Go(func() {
			defer s.waiting.give(client)
			_, _ = dns.WriteToSessionUDP(s.sockets.udp, s.pass(ctx, e), session)
		})
	}
}

// pause waits a moment after a failure that may pass, and returns the error if it will not.
func (s *Server) pause(ctx context.Context, err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	s.log.Debug("socket failed", "err", err)
	select {
	case <-time.After(readPause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package dnsserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// exchange is a query for the upstreams.
type exchange struct {
	network string // "udp" or "tcp", that of the client
	raw     []byte // as the client sent it
	query   *dns.Msg
}

// result is what became of asking one upstream.
type result struct {
	place int // of the upstream among those of the race
	worth worth
	raw   []byte
	msg   *dns.Msg
	err   error
}

// ask sends the query to one upstream, under an id that only it learns, and waits for the answer until ctx ends.
func (f *forwarder) ask(ctx context.Context, e *exchange, server netip.AddrPort, place int) result {
	raw, msg, err := f.exchange(ctx, e, server)
	if err != nil {
		return result{place: place, err: err}
	}
	return result{place, worthOf(msg), raw, msg, nil}
}

func (f *forwarder) exchange(ctx context.Context, e *exchange, server netip.AddrPort) ([]byte, *dns.Msg, error) {
	conn, err := new(net.Dialer).DialContext(ctx, e.network, server.String())
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if f.self.Addr().IsUnspecified() && server.Port() == f.self.Port() && sameHost(conn) {
		return nil, nil, errSelf
	}
	query := slices.Clone(e.raw)
	_, _ = rand.Read(query[:2]) // never fails: crypto/rand ends the process first
	if e.network == "tcp" {
		return e.overStream(conn, query)
	}
	return e.overDatagrams(ctx, conn, query, f.headStart)
}

// sameHost reports whether both ends of a connection have one address: the system picks that towards an address of its own.
func sameHost(conn net.Conn) bool {
	local, err1 := netip.ParseAddrPort(conn.LocalAddr().String())
	remote, err2 := netip.ParseAddrPort(conn.RemoteAddr().String())
	return err1 == nil && err2 == nil && local.Addr() == remote.Addr()
}

// overStream asks over TCP, where one answer is all there can be.
func (e *exchange) overStream(conn net.Conn, query []byte) ([]byte, *dns.Msg, error) {
	if err := writeMessage(conn, query); err != nil {
		return nil, nil, err
	}
	raw, err := readMessage(conn)
	if err != nil {
		return nil, nil, err
	}
	msg, err := e.parse(raw, query)
	return raw, msg, err
}

// overDatagrams asks over UDP, and again after each interval: datagrams get lost, and the client's own repetitions end at
// the query that is on its way. Datagrams that are no answer to it are passed over.
func (e *exchange) overDatagrams(ctx context.Context, conn net.Conn, query []byte, interval time.Duration) ([]byte, *dns.Msg, error) {
	size := maxDatagram
	if opt := e.query.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	buf := make([]byte, size)
	for {
		if _, err := conn.Write(query); err != nil {
			return nil, nil, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(interval)) // fails only if closed, and then so does the read
		if ctx.Err() != nil {                              // else its end sets the deadline after us
			return nil, nil, ctx.Err()
		}
		raw, msg, err := e.readDatagrams(conn, query, buf)
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return raw, msg, err
		}
	}
}

func (e *exchange) readDatagrams(conn net.Conn, query, buf []byte) ([]byte, *dns.Msg, error) {
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, nil, err
		}
		msg, err := e.parse(buf[:n], query)
		if !errors.Is(err, errMismatch) {
			return buf[:n], msg, err
		}
	}
}

// parse reads an answer and checks that it belongs to the query as it was sent. A failure need not repeat the question.
func (e *exchange) parse(raw, query []byte) (*dns.Msg, error) {
	if len(raw) < headerSize || [2]byte(raw) != [2]byte(query) || raw[2]&0x80 == 0 {
		return nil, errMismatch
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(raw); err != nil {
		return nil, err
	}
	q := e.query.Question[0]
	switch {
	case len(msg.Question) == 0 && msg.Rcode != dns.RcodeSuccess:
		return msg, nil
	case len(msg.Question) != 1, msg.Question[0].Qtype != q.Qtype, msg.Question[0].Qclass != q.Qclass,
		!strings.EqualFold(msg.Question[0].Name, q.Name):
		return nil, errMismatch
	}
	return msg, nil
}

// relay returns an answer as the client can take it: as it came if it is small enough, else compressed, and at last cut, so
// that the client asks again over TCP. Its id is anybody's.
func (e *exchange) relay(r result) ([]byte, error) {
	limit := sizeLimit(e.query, e.network)
	if len(r.raw) <= limit || r.msg.IsTsig() != nil {
		return r.raw, nil
	}
	r.msg.Truncate(limit)
	return r.msg.Pack()
}

// readMessage reads a message from a connection, where its length stands before it.
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// writeMessage writes a message to a connection, its length before it.
func writeMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg))
	return err
}

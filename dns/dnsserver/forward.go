package dnsserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// headStart is how long an upstream is alone with a query before the next one is asked too.
	headStart = 300 * time.Millisecond
	// maxUpstreams is how many are ever asked for one query.
	maxUpstreams = 8
)

var (
	errNoUpstream = errors.New("no upstream")
	errMismatch   = errors.New("answer to another question")
	errSelf       = errors.New("upstream is this server")
)

// forwarder passes queries on to upstreams. It is safe for concurrent use.
type forwarder struct {
	upstreams func() []netip.AddrPort
	self      netip.AddrPort // never asked
	timeout   time.Duration
	headStart time.Duration
	slots     chan struct{} // a token for each query that waits

	good atomic.Pointer[netip.AddrPort] // the upstream that answered last
}

// exchange is a query on its way.
type exchange struct {
	network string // "udp" or "tcp", that of the client
	raw     []byte // as the client sent it
	query   *dns.Msg
	limit   int // the largest answer, in bytes, that the client takes
}

// newExchange takes over a query that is for the upstreams.
func newExchange(network string, raw []byte, query *dns.Msg) *exchange {
	e := &exchange{network: network, raw: raw, query: query, limit: dns.MaxMsgSize}
	if network == "udp" {
		e.limit = dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			e.limit = max(e.limit, int(opt.UDPSize()))
		}
	}
	return e
}

// acquire takes a slot for a query, if there is one; do gives it back.
func (f *forwarder) acquire() bool {
	select {
	case f.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// servers returns the upstreams in the order in which they are asked: first the one that answered last.
func (f *forwarder) servers() []netip.AddrPort {
	var servers []netip.AddrPort
	for _, s := range f.upstreams() {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if s.IsValid() && !f.isSelf(s) && !slices.Contains(servers, s) && len(servers) < maxUpstreams {
			servers = append(servers, s)
		}
	}
	if good := f.good.Load(); good != nil {
		if i := slices.Index(servers, *good); i > 0 {
			servers = slices.Insert(slices.Delete(servers, i, i+1), 0, *good)
		}
	}
	return servers
}

// isSelf reports whether an upstream is this server, as far as the address shows. What it does not show, ask finds out:
// queries that come back would take all slots.
func (f *forwarder) isSelf(s netip.AddrPort) bool {
	return s == f.self || f.self.Addr().IsUnspecified() && s.Port() == f.self.Port() && s.Addr().IsLoopback()
}

// do asks one upstream after the other, each as soon as the one before has failed or its head start is over, and returns
// the first answer, whatever it says, fit for the client. It takes at most the timeout, and needs a slot.
func (f *forwarder) do(ctx context.Context, e *exchange) ([]byte, error) {
	defer func() { <-f.slots }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	servers := f.servers()
	results := make(chan result, len(servers))
	next := time.NewTimer(0)
	defer next.Stop()
	err := errNoUpstream
	for asked, failed := 0, 0; failed < len(servers); {
		select {
		case <-next.C:
			if asked < len(servers) {
				server := servers[asked]
				wg.Go(func() { results <- f.ask(ctx, e, server) })
				asked++
				next.Reset(f.headStart)
			}
		case r := <-results:
			if r.err == nil {
				f.good.Store(&r.server)
				return e.relay(r)
			}
			err = fmt.Errorf("%v: %w", r.server, r.err)
			failed++
			next.Reset(0)
		}
	}
	return nil, err
}

// result is what became of asking one upstream.
type result struct {
	server netip.AddrPort
	raw    []byte
	msg    *dns.Msg
	err    error
}

// ask sends the query to one upstream, under an id that only it learns, and waits for the answer until ctx ends.
func (f *forwarder) ask(ctx context.Context, e *exchange, server netip.AddrPort) result {
	conn, err := new(net.Dialer).DialContext(ctx, e.network, server.String())
	if err != nil {
		return result{server: server, err: err}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if f.self.Addr().IsUnspecified() && server.Port() == f.self.Port() && sameHost(conn) {
		return result{server: server, err: errSelf}
	}

	var prefix []byte
	if e.network == "tcp" {
		prefix = binary.BigEndian.AppendUint16(nil, uint16(len(e.raw)))
	}
	out := slices.Concat(prefix, e.raw)
	id := out[len(prefix) : len(prefix)+2]
	_, _ = rand.Read(id) // never fails: crypto/rand ends the process first
	if _, err := conn.Write(out); err != nil {
		return result{server: server, err: err}
	}
	raw, msg, err := e.await(conn, binary.BigEndian.Uint16(id))
	return result{server, raw, msg, err}
}

// sameHost reports whether both ends of a connection have one address: the system picks that towards an address of its own.
func sameHost(conn net.Conn) bool {
	local, err1 := netip.ParseAddrPort(conn.LocalAddr().String())
	remote, err2 := netip.ParseAddrPort(conn.RemoteAddr().String())
	return err1 == nil && err2 == nil && local.Addr() == remote.Addr()
}

// await reads the answer with an id. Datagrams that are none are passed over; on a connection that cannot happen by
// chance and ends it.
func (e *exchange) await(conn net.Conn, id uint16) ([]byte, *dns.Msg, error) {
	if e.network == "tcp" {
		raw, err := readMessage(conn)
		if err != nil {
			return nil, nil, err
		}
		msg, err := e.parse(raw, id)
		return raw, msg, err
	}
	buf := make([]byte, max(ednsSize, e.limit))
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, nil, err
		}
		msg, err := e.parse(buf[:n], id)
		if !errors.Is(err, errMismatch) {
			return buf[:n], msg, err
		}
	}
}

// parse reads an answer and checks that it belongs to the query. A failure need not repeat the question.
func (e *exchange) parse(raw []byte, id uint16) (*dns.Msg, error) {
	if len(raw) < headerSize || binary.BigEndian.Uint16(raw) != id || raw[2]&0x80 == 0 {
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

// relay returns the answer under the client's id: as it came if the client can take that, else compressed, and at last
// cut, so that the client asks again over TCP.
func (e *exchange) relay(r result) ([]byte, error) {
	copy(r.raw[:2], e.raw[:2])
	if len(r.raw) <= e.limit || r.msg.IsTsig() != nil {
		return r.raw, nil
	}
	r.msg.Id = e.query.Id
	r.msg.Truncate(e.limit)
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

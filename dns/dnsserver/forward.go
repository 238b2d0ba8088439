package dnsserver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// headStart is how long an upstream is alone with a query before the next one is asked too, and after how long it is
	// asked again over UDP.
	headStart = time.Second
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
	standing  standing

	mu      sync.Mutex
	flights map[string]*flight // by what is asked
}

// flight is a query on its way, with all who ask the same.
type flight struct {
	aboard int           // how many these are; under the forwarder's mu
	landed chan struct{} // closed when the rest is there
	answer []byte        // fit for all of them but for the id
	err    error
}

// servers returns the upstreams in the order in which they are asked: that of the file, but for those that do not answer.
func (f *forwarder) servers() []netip.AddrPort {
	var servers, resting []netip.AddrPort
	for _, s := range f.upstreams() {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		switch {
		case !s.IsValid() || f.isSelf(s) || slices.Contains(servers, s) || slices.Contains(resting, s):
		case f.standing.rests(s, time.Now()):
			resting = append(resting, s)
		default:
			servers = append(servers, s)
		}
	}
	servers = append(servers, resting...)
	return servers[:min(len(servers), maxUpstreams)]
}

// isSelf reports whether an upstream is this server, as far as the address shows. What it does not show, ask finds out.
func (f *forwarder) isSelf(s netip.AddrPort) bool {
	return s == f.self || f.self.Addr().IsUnspecified() && s.Port() == f.self.Port() && s.Addr().IsLoopback()
}

// do returns the answer to a query, fit for the client. It takes at most the timeout. A query that is on its way already
// waits for that answer: so those that come back, since some upstream asks us, end there, and a crowd is one query.
func (f *forwarder) do(ctx context.Context, e *exchange) ([]byte, error) {
	key := e.network + string(e.raw[2:])
	f.mu.Lock()
	l, joined := f.flights[key]
	if !joined {
		l = &flight{landed: make(chan struct{})}
		f.flights[key] = l
	}
	l.aboard++
	f.mu.Unlock()
	if !joined {
		l.answer, l.err = f.fly(ctx, e)
		f.mu.Lock()
		delete(f.flights, key)
		f.mu.Unlock()
		close(l.landed)
	}
	select {
	case <-l.landed:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.err != nil {
		return nil, l.err
	}
	return slices.Concat(e.raw[:2], l.answer[2:]), nil
}

// fly asks the upstreams.
func (f *forwarder) fly(ctx context.Context, e *exchange) ([]byte, error) {
	r := &race{f: f, e: e, servers: f.servers(), err: errNoUpstream}
	if r.run(ctx); r.best.worth == failed {
		return nil, r.err
	}
	return e.relay(r.best)
}

package dnsserver

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Status is what there is to say about a server. Counters grow from New on.
type Status struct {
	Address   netip.AddrPort
	Domain    string // lower case, with final dot
	TTL       time.Duration
	Upstreams []netip.AddrPort

	Queries   uint64 // messages that came in
	Ignored   uint64 // of those, answers and scraps that got no reply
	Malformed uint64 // of those, what could not be read
	Forwarded uint64 // of those, passed on to upstreams
	Failed    uint64 // of the forwarded, not answered by any upstream
	Denied    uint64 // queries that were not passed on because of where they came from
	Dropped   uint64 // queries that were not passed on because too many waited, of all or of the client
	Refused   uint64 // TCP connections closed because too many were open, of all or of the client
}

type counts struct {
	queries, ignored, malformed, forwarded, failed, denied, dropped, refused atomic.Uint64
}

// Status returns the state of the server.
func (s *Server) Status() Status {
	return Status{
		Address:   s.sockets.Addr(),
		Domain:    s.answerer.domain,
		TTL:       time.Duration(s.answerer.ttl) * time.Second,
		Upstreams: s.forward.servers(),
		Queries:   s.counts.queries.Load(),
		Ignored:   s.counts.ignored.Load(),
		Malformed: s.counts.malformed.Load(),
		Forwarded: s.counts.forwarded.Load(),
		Failed:    s.counts.failed.Load(),
		Denied:    s.counts.denied.Load(),
		Dropped:   s.counts.dropped.Load(),
		Refused:   s.counts.refused.Load(),
	}
}

package dnsserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	defaultDomain         = "weave.local."
	defaultTTL            = time.Second
	defaultForwardTimeout = 5 * time.Second
	defaultMaxForwards    = 1024
	defaultMaxConns       = 256
)

// Zone is where names are looked up. Its methods are called from several goroutines at the same time, for every query,
// and must not block.
type Zone interface {
	// Lookup returns the addresses of a full name with final dot. Its letters of ASCII are small, and nothing in it is
	// escaped: labels are bytes, whatever they be, without a dot within. ok says that the name exists, perhaps without
	// addresses. The slice is the server's to change.
	Lookup(name string) (addrs []netip.Addr, ok bool)
	// Reverse returns a full name that has the address, with letters of any case, and like those of Lookup not escaped.
	Reverse(addr netip.Addr) (name string, ok bool)
}

// Config configures a Server.
type Config struct {
	// Sockets are where questions come in. Required. They are the server's from New on: Run closes them.
	Sockets *Sockets
	// Zone answers. Required.
	Zone Zone
	// Domain is what the zone is asked for, with or without the final dot. Empty means "weave.local.".
	Domain string
	// TTL is how long an answer may be cached, in whole seconds. 0 means 1 second, negative means not at all.
	TTL time.Duration
	// Upstreams returns the servers for what is not the zone's, preferred first. It is called for each such query, and
	// must not block. Nil means those of ResolvConf.
	Upstreams func() []netip.AddrPort
	// ResolvConf is the path of a resolver file with the upstreams. It is looked at every 5 seconds at most, and read
	// again when it has changed. Empty means none: what is not the zone's fails.
	ResolvConf string
	// ForwardTimeout is how long the upstreams have for an answer, all together. 0 means 5 seconds.
	ForwardTimeout time.Duration
	// Allow is from where questions for the upstreams are taken; others are refused. Names of the zone are told to anybody.
	// Nil means from anywhere, which is for listeners that strangers do not reach; empty means from nowhere.
	Allow []netip.Prefix
	// MaxForwards is how many queries may wait for upstreams at a time; those of one address, a quarter of that. 0 means
	// 1024.
	MaxForwards int
	// MaxConns is how many TCP connections may be open at a time; those of one address, a quarter of that. 0 means 256.
	MaxConns int
	// Shuffle puts addresses in a random order, as rand.Shuffle does, from several goroutines at the same time. Nil means
	// rand.Shuffle of math/rand/v2.
	Shuffle func(n int, swap func(i, j int))
	// Log gets what is worth a line. Nil means silence.
	Log *slog.Logger
}

// Server answers DNS questions. It is safe for concurrent use.
type Server struct {
	sockets  *Sockets
	answerer answerer
	forward  *forwarder
	log      *slog.Logger
	allow    []netip.Prefix // nil: everybody
	waiting  *quota         // of queries that are for the upstreams
	conns    *quota         // of TCP connections
	ran      atomic.Bool
	counts   counts
}

// New makes a server; it starts nothing.
func New(c Config) (*Server, error) {
	if c.Sockets == nil || c.Zone == nil {
		return nil, errors.New("dnsserver: sockets and zone are required")
	}
	domain := canonical(cmp.Or(c.Domain, defaultDomain))
	if domain == "" || domain == "." {
		return nil, fmt.Errorf("dnsserver: %q is no domain", c.Domain)
	}
	if c.ForwardTimeout < 0 || c.MaxForwards < 0 || c.MaxConns < 0 {
		return nil, errors.New("dnsserver: negative limit")
	}
	s := &Server{
		sockets: c.Sockets,
		answerer: answerer{
			zone: c.Zone, domain: domain, ttl: seconds(cmp.Or(c.TTL, defaultTTL)), shuffle: c.Shuffle,
		},
		log:     c.Log,
		allow:   slices.Clone(c.Allow),
		waiting: newQuota(cmp.Or(c.MaxForwards, defaultMaxForwards)),
		conns:   newQuota(cmp.Or(c.MaxConns, defaultMaxConns)),
	}
	if s.answerer.shuffle == nil {
		s.answerer.shuffle = rand.Shuffle
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	upstreams := c.Upstreams
	if upstreams == nil {
		file := &resolvConf{path: c.ResolvConf, log: s.log}
		upstreams = func() []netip.AddrPort { return file.servers(time.Now()) }
	}
	s.forward = &forwarder{
		upstreams: upstreams,
		self:      c.Sockets.Addr(),
		timeout:   cmp.Or(c.ForwardTimeout, defaultForwardTimeout),
		headStart: headStart,
		flights:   map[string]*flight{},
	}
	return s, nil
}

// seconds is d in the unit of a record's TTL.
func seconds(d time.Duration) uint32 {
	return uint32(min(max(0, d/time.Second), 1<<31-1)) // RFC 2181, section 8
}

// Run serves until its context ends, and closes the sockets. It returns nil then, or an error if the sockets were closed before.
// A server runs once.
func (s *Server) Run(parent context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("dnsserver: server runs once")
	}
	ctx, cancel := context.WithCancelCause(parent)
	var wg sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		wg.Go(func() { cancel(s.serveUDP(ctx, &wg)) })
	}
	wg.Go(func() { cancel(s.serveTCP(ctx, &wg)) })
	<-ctx.Done()
	_ = s.sockets.Close()
	wg.Wait()
	if parent.Err() == nil {
		return fmt.Errorf("dnsserver: %w", context.Cause(ctx))
	}
	return nil
}

// reply says what is to be done about a query that came over a network, "udp" or "tcp": msg is the answer, if it can be
// given at once; forward tells that it is for the upstreams. Neither means that it deserves no answer.
func (s *Server) reply(raw []byte, network string, client netip.Addr) (msg []byte, forward *dns.Msg) {
	s.counts.queries.Add(1)
	if len(raw) < headerSize || raw[2]&0x80 != 0 {
		s.counts.ignored.Add(1)
		return nil, nil
	}
	query := new(dns.Msg)
	if err := query.Unpack(raw); err != nil {
		s.counts.malformed.Add(1)
		return malformed(raw), nil
	}
	answer := s.answerer.answer(query, sizeLimit(query, network))
	if answer == nil {
		if !s.allows(client) {
			s.counts.denied.Add(1)
			return failure(query, dns.RcodeRefused), nil
		}
		return nil, query
	}
	msg, err := answer.Pack()
	if err != nil { // a name of the zone that has no place in DNS
		answer.Answer, answer.Ns, answer.Rcode, answer.Authoritative = nil, nil, dns.RcodeServerFailure, false
		msg, _ = answer.Pack()
	}
	return msg, nil
}

func (s *Server) allows(client netip.Addr) bool {
	return s.allow == nil || slices.ContainsFunc(s.allow, func(p netip.Prefix) bool { return p.Contains(client) })
}

// clientOf returns whom a packet or a connection is from: the same address whichever socket it came by.
func clientOf(remote netip.AddrPort) netip.Addr { return remote.Addr().Unmap().WithZone("") }

// pass asks the upstreams and returns what to tell the client.
func (s *Server) pass(ctx context.Context, f *exchange) []byte {
	s.counts.forwarded.Add(1)
	answer, err := s.forward.do(ctx, f)
	if err != nil {
		s.counts.failed.Add(1)
		s.log.Debug("question not answered upstream", "name", f.query.Question[0].Name, "err", err)
		return failure(f.query, dns.RcodeServerFailure)
	}
	return answer
}

package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	retryFirst = 2 * time.Second
	retryMax   = 6 * time.Minute
	longLived  = time.Minute
	// retryDirectMax is the longest for targets of the operator that do not answer: over these a mesh that was cut in two
	// finds together again, within two gossip intervals.
	retryDirectMax = 20 * time.Second
	// maxAttempts bounds how many learned addresses are dialled at a time.
	maxAttempts = 32
	// maxLimitedAttempts is the same if there is a limit on connections: those that others make meanwhile count too.
	maxLimitedAttempts = 4
)

// targetState is what becomes of an address (section 7.1 of the mesh specification).
type targetState uint8

const (
	targetWaiting targetState = iota
	targetAttempting
	targetConnected
	targetSuspended
)

var targetStates = [...]string{"waiting", "attempting", "connected", "suspended"}

// String returns the name of the state in status reports.
func (s targetState) String() string { return targetStates[s] }

// endpoint is an address as the operator gives it: an IP address or a host name, with or without a port.
type endpoint struct {
	text string
	host string
	addr netip.Addr // invalid for a host name
	port uint16     // 0: not given
}

// CheckTarget returns an error if text cannot be a target of [Config] or [Router.Connect]: "host" or "host:port", where host is
// a name, an IPv4 address, or an IPv6 address, in brackets if a port follows. Names are not resolved.
func CheckTarget(text string) error {
	_, err := parseTarget(text)
	return err
}

// parseTarget reads "host", "host:port", an IPv6 address, or one in brackets with a port.
func parseTarget(text string) (endpoint, error) {
	bad := fmt.Errorf("invalid peer address %q: want host or host:port", text)
	if a, err := netip.ParseAddr(text); err == nil {
		return endpoint{text: text, host: text, addr: a.Unmap()}, nil
	}
	host, port := text, ""
	if strings.ContainsAny(text, ":[") {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			return endpoint{}, bad
		}
	}
	e := endpoint{text: text, host: host}
	if port != "" {
		p, err := net.LookupPort("tcp", port)
		if err != nil || p < 0 || p > 1<<16-1 {
			return endpoint{}, bad
		}
		e.port = uint16(p)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		e.addr = a.Unmap()
		return e, nil
	}
	if host == "" || len(host) > 253 || strings.ContainsFunc(host, notHostname) || looksNumeric(host) {
		return endpoint{}, bad
	}
	return e, nil
}

func notHostname(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
}

// looksNumeric reports whether a name can only be a mistyped address.
func looksNumeric(host string) bool {
	return strings.Trim(host, "0123456789.") == ""
}

// target is an address that we dial, or would.
type target struct {
	key      string // "ip:port" or "host:port"
	endpoint endpoint
	state    targetState
	err      error
	next     time.Time // when it is due
	never    bool      // not to be dialled again
	interval time.Duration
	direct   bool
}

// dialer keeps the addresses to connect to. It is plain data: it says what to dial and is told what came of it.
type dialer struct {
	port     uint16 // for addresses without one
	direct   map[string]endpoint
	targets  map[string]*target
	answered map[string]peer.Name    // who was found at a target
	resolved map[string][]netip.Addr // what a direct host name stood for at the last attempt
	random   func(n int64) int64
}

func newDialer(port uint16, random func(n int64) int64) *dialer {
	return &dialer{
		port: port, random: random, direct: map[string]endpoint{}, targets: map[string]*target{},
		answered: map[string]peer.Name{}, resolved: map[string][]netip.Addr{},
	}
}

// key returns the name of the target of an endpoint.
func (d *dialer) key(e endpoint) string {
	port := cmp.Or(e.port, d.port)
	if e.addr.IsValid() {
		return netip.AddrPortFrom(e.addr, port).String()
	}
	return net.JoinHostPort(e.host, strconv.Itoa(int(port)))
}

// connect adds direct targets, or replaces them; those that wait become due.
func (d *dialer) connect(replace bool, texts []string, now time.Time) error {
	if replace {
		clear(d.direct)
	}
	var errs []error
	for _, text := range texts {
		e, err := parseTarget(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.direct[text] = e
		if t := d.targets[d.key(e)]; t != nil && t.state != targetAttempting && t.state != targetConnected {
			t.next, t.interval, t.never = now, retryFirst, false
		}
	}
	return joined(errs)
}

func (d *dialer) forget(texts []string) {
	for _, text := range texts {
		delete(d.direct, text)
	}
}

// candidate is an address learned from the topology.
type candidate struct {
	name peer.Name
	addr netip.AddrPort
	wait time.Duration // before a first attempt
}

// situation is what a pass looks at.
type situation struct {
	links     []linkInfo
	learned   []candidate // better ones first
	sample    bool        // there are more than these
	want      int         // how many learned addresses may be dialled now
	content   bool        // there are as many links as we want
	reachable func(peer.Name) bool
}

// linkInfo is what the dialer needs to know of a link.
type linkInfo struct {
	name     peer.Name
	addr     netip.AddrPort
	outbound bool
}

// pass decides what to dial now, marks it as attempted, and returns it (section 7.2).
func (d *dialer) pass(s situation, now time.Time) (dial []*target) {
	valid := map[string]endpoint{}
	for _, e := range d.direct {
		if key := d.key(e); d.validDirect(e, key, s) {
			valid[key] = e
		}
	}
	directKeys := map[string]bool{}
	for _, e := range d.direct {
		directKeys[d.key(e)] = true
	}
	learned := map[string]bool{}
	for _, c := range s.learned {
		key := c.addr.String()
		if _, have := valid[key]; have || learned[key] || directKeys[key] || connectedTo(s.links, c.addr) {
			continue
		}
		learned[key] = true
		if t := d.consider(key, c, &s, now); t != nil {
			dial = append(dial, t)
		}
	}
	for key, e := range valid {
		t := d.targets[key]
		if t == nil {
			t = &target{key: key, endpoint: e, next: now, interval: retryFirst}
			d.targets[key] = t
		}
		t.direct = true
		if d.start(t, now) {
			dial = append(dial, t)
		}
	}
	for key, t := range d.targets {
		if _, ok := valid[key]; ok || learned[key] || t.state == targetAttempting || t.state == targetConnected {
			continue
		}
		d.tidy(t, directKeys[key], s.sample && (s.want <= 0 || t.next.After(now)))
	}
	return dial
}

// validDirect reports whether there is a reason to dial a direct target.
func (d *dialer) validDirect(e endpoint, key string, s situation) bool {
	addrs := d.resolved[key]
	if e.addr.IsValid() {
		addrs = []netip.Addr{e.addr}
	}
	port := cmp.Or(e.port, d.port)
	answered := d.answered[key]
	for _, l := range s.links {
		if answered != 0 && l.name == answered {
			return false
		}
		for _, a := range addrs {
			if l.addr == netip.AddrPortFrom(a, port) || e.port == 0 && !l.outbound && l.addr.Addr() == a {
				return false
			}
		}
	}
	t := d.targets[key]
	content := s.content || t != nil && errors.Is(t.err, ErrLimit) // it has no room for us, and others have
	return !(content && answered != 0 && s.reachable(answered))
}

func connectedTo(links []linkInfo, addr netip.AddrPort) bool {
	return slices.ContainsFunc(links, func(l linkInfo) bool { return l.addr == addr })
}

// consider starts a learned target if there is room for it.
func (d *dialer) consider(key string, c candidate, s *situation, now time.Time) *target {
	t := d.targets[key]
	if t == nil {
		if s.want <= 0 {
			return nil
		}
		e := endpoint{text: key, host: c.addr.Addr().String(), addr: c.addr.Addr(), port: c.addr.Port()}
		t = &target{key: key, endpoint: e, next: now.Add(c.wait), interval: retryFirst}
		d.targets[key] = t
	}
	t.direct = false
	if s.want <= 0 && (t.state == targetWaiting || t.state == targetSuspended) {
		t.state = targetSuspended
		return nil
	}
	if d.start(t, now) {
		s.want--
		return t
	}
	return nil
}

// start marks a target as attempted if it is due.
func (d *dialer) start(t *target, now time.Time) bool {
	if t.state == targetAttempting || t.state == targetConnected {
		return false
	}
	t.state = targetWaiting
	if t.never || t.next.After(now) {
		return false
	}
	t.state = targetAttempting
	return true
}

// tidy suspends a target that there is no reason to dial if it is a direct one, or to be kept as there may be a reason
// later, and forgets others.
func (d *dialer) tidy(t *target, direct, keep bool) {
	if direct || keep {
		t.state = targetSuspended
		return
	}
	d.remove(t.key)
}

func (d *dialer) remove(key string) {
	delete(d.targets, key)
	delete(d.answered, key)
	delete(d.resolved, key)
}

// connected notes that the link to a target is up.
func (d *dialer) connected(key string) {
	if t := d.targets[key]; t != nil {
		t.state, t.err = targetConnected, nil
	}
}

// ended notes that an attempt, or the link that came of it, is over.
func (d *dialer) ended(key string, err error, now time.Time) {
	t := d.targets[key]
	if t == nil {
		return
	}
	lived := t.state == targetConnected && now.Sub(t.next) > longLived
	t.state, t.err = targetWaiting, err
	switch {
	case errors.Is(err, errSelf) || errors.Is(err, errOurName):
		t.never, t.interval = true, retryMax
	case errors.Is(err, ErrNameTaken): // two others have one name, until somebody sees to it
		t.interval = retryMax
		d.later(t, now)
	case lived && !errors.Is(err, ErrLimit):
		t.next, t.interval = now, retryFirst
	default:
		if errors.Is(err, ErrLimit) { // there will be room
			t.interval = min(t.interval, 2*retryFirst)
		}
		d.later(t, now)
	}
}

// later sets the next attempt (section 7.3).
func (d *dialer) later(t *target, now time.Time) {
	longest := retryMax
	if t.direct && !refused(t.err) {
		longest = retryDirectMax
	}
	t.interval = min(t.interval, longest)
	t.next = now.Add(t.interval/2 + time.Duration(d.random(int64(t.interval))))
	t.interval = min(t.interval*3/2, longest)
}

// refused reports whether an attempt has found somebody who will not have us.
func refused(err error) bool {
	return errors.Is(err, ErrPassword) || errors.Is(err, ErrIncompatible) || errors.Is(err, ErrNameTaken)
}

// due returns when the next target is to be dialled; zero if none waits.
func (d *dialer) due() (next time.Time) {
	for _, t := range d.targets {
		if t.state == targetWaiting && !t.never && (next.IsZero() || t.next.Before(next)) {
			next = t.next
		}
	}
	return next
}

func (d *dialer) attempting() (n int) {
	for _, t := range d.targets {
		if t.state == targetAttempting {
			n++
		}
	}
	return n
}

// counts returns how many direct targets there are, and how many of them may lead to another peer.
func (d *dialer) counts() (given, live int) {
	for _, e := range d.direct {
		if t := d.targets[d.key(e)]; t == nil || !t.never {
			live++
		}
	}
	return len(d.direct), live
}

package dnsserver

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// saying is an upstream that answers all questions with an rcode and, if it is success, one address.
func saying(rcode int, addr string) func(raw []byte) [][]byte {
	return func(raw []byte) [][]byte {
		query := new(dns.Msg)
		if query.Unpack(raw) != nil {
			return nil
		}
		reply := new(dns.Msg).SetRcode(query, rcode)
		if addr != "" {
			hdr := dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}
			reply.Answer = []dns.RR{&dns.A{Hdr: hdr, A: netip.MustParseAddr(addr).AsSlice()}}
		}
		answer, err := reply.Pack()
		if err != nil {
			return nil
		}
		return [][]byte{answer}
	}
}

// after makes an upstream wait for something before it answers.
func after[T any](c <-chan T, do func([]byte) [][]byte) func([]byte) [][]byte {
	return func(raw []byte) [][]byte {
		<-c
		return do(raw)
	}
}

func addrIn(t *testing.T, msg *dns.Msg) string {
	require.Equal(t, dns.RcodeSuccess, msg.Rcode)
	require.Len(t, msg.Answer, 1)
	return msg.Answer[0].(*dns.A).A.String()
}

// TestRaceKeepsOrder has a first upstream that knows names which the second does not, and that is slow at first. Whatever
// the second says against them, the first is waited for, and stays the first.
func TestRaceKeepsOrder(t *testing.T) {
	for _, rcode := range []int{dns.RcodeNameError, dns.RcodeSuccess, dns.RcodeRefused, dns.RcodeServerFailure} {
		t.Run(dns.RcodeToString[rcode], func(t *testing.T) {
			public := newUpstream(t, "127.0.0.1:0", saying(rcode, ""))
			release := make(chan bool)
			corp := newUpstream(t, "127.0.0.1:0", after(release, saying(dns.RcodeSuccess, "10.9.9.9")))
			s := newServer(t, Config{Upstreams: upstreams(corp.addr, public.addr), ForwardTimeout: time.Hour})
			s.forward.headStart = 20 * time.Millisecond
			run(t, s)
			go func() {
				<-public.seen // for two of its head starts it has not said anything
				<-public.seen
				close(release)
			}()
			// The second question makes the upstreams be asked again, so that the first answer of public is in by then.
			first, second := make(chan *dns.Msg, 1), make(chan *dns.Msg, 1)
			go func() { first <- resolve(t, "udp", s.sockets.Addr(), "wiki.corp.example.", dns.TypeA) }()
			go func() { second <- resolve(t, "udp", s.sockets.Addr(), "mail.corp.example.", dns.TypeA) }()
			require.Equal(t, "10.9.9.9", addrIn(t, <-first))
			require.Equal(t, "10.9.9.9", addrIn(t, <-second))
			for range 5 {
				require.Equal(t, "10.9.9.9", addrIn(t, resolve(t, "udp", s.sockets.Addr(), "wiki.corp.example.", dns.TypeA)))
			}
			require.Equal(t, []netip.AddrPort{corp.addr, public.addr}, s.Status().Upstreams)
		})
	}
}

// TestRaceIsWonOnce: an upstream that loses with a name that both know is asked first again.
func TestRaceIsWonOnce(t *testing.T) {
	public := newUpstream(t, "127.0.0.1:0", saying(dns.RcodeSuccess, "192.0.2.1"))
	release := make(chan bool)
	corp := newUpstream(t, "127.0.0.1:0", after(release, saying(dns.RcodeSuccess, "10.9.9.9")))
	s := newServer(t, Config{Upstreams: upstreams(corp.addr, public.addr)})
	s.forward.headStart = 200 * time.Millisecond
	run(t, s)
	require.Equal(t, "192.0.2.1", addrIn(t, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA)))
	close(release)
	require.Eventually(t, func() bool {
		return addrIn(t, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA)) == "10.9.9.9"
	}, patience, time.Millisecond)
	require.Equal(t, []netip.AddrPort{corp.addr, public.addr}, s.Status().Upstreams)
}

// TestRaceBelievesAtLast: a first upstream that never answers does not keep what the second says for ever.
func TestRaceBelievesAtLast(t *testing.T) {
	dead, up := newUpstream(t, "127.0.0.1:0", silent), newUpstream(t, "127.0.0.1:0", known)
	s := newServer(t, Config{Upstreams: upstreams(dead.addr, up.addr), ForwardTimeout: 2 * time.Second})
	s.forward.headStart = time.Millisecond
	run(t, s)
	began := time.Now()
	require.Equal(t, dns.RcodeNameError, resolve(t, "udp", s.sockets.Addr(), "nosuch.example.com.", dns.TypeA).Rcode)
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	require.Less(t, time.Since(began), 2*time.Second)
	require.Zero(t, s.Status().Failed)
}

// TestRaceBlamesTheSlow: who was asked a moment before the race was won has done nothing wrong.
func TestRaceBlamesTheSlow(t *testing.T) {
	second, third := newUpstream(t, "127.0.0.1:0", silent), newUpstream(t, "127.0.0.1:0", silent)
	first := newUpstream(t, "127.0.0.1:0", after(second.seen, saying(dns.RcodeSuccess, "10.9.9.9")))
	s := newServer(t, Config{Upstreams: upstreams(first.addr, second.addr, third.addr)})
	s.forward.headStart = 200 * time.Millisecond
	run(t, s)
	for range maxMisses {
		resolve(t, "tcp", s.sockets.Addr(), "www.example.com.", dns.TypeA)
	}
	require.Equal(t, []netip.AddrPort{first.addr, second.addr, third.addr}, s.Status().Upstreams)
}

// TestRaceFirstIsFinal: what the first upstream says of a name is not asked of another, also if it says that there is none.
func TestRaceFirstIsFinal(t *testing.T) {
	first, second := newUpstream(t, "127.0.0.1:0", known), newUpstream(t, "127.0.0.1:0", known)
	s := newServer(t, Config{Upstreams: upstreams(first.addr, second.addr), ForwardTimeout: time.Hour})
	s.forward.headStart = time.Hour
	run(t, s)
	for _, name := range []string{"www.example.com.", "nosuch.example.com.", "trunc.example.com."} {
		resolve(t, "udp", s.sockets.Addr(), name, dns.TypeA)
	}
	require.Empty(t, second.seen)
}

// TestRaceLastResort: errors of an upstream make the next one be asked at once, and are relayed if all have them: those of
// the first then.
func TestRaceLastResort(t *testing.T) {
	for _, rcode := range []int{dns.RcodeRefused, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeFormatError} {
		first := newUpstream(t, "127.0.0.1:0", saying(rcode, ""))
		for second, want := range map[*upstream]int{
			newUpstream(t, "127.0.0.1:0", saying(dns.RcodeSuccess, "192.0.2.1")): dns.RcodeSuccess,
			newUpstream(t, "127.0.0.1:0", saying(dns.RcodeNameError, "")):        dns.RcodeNameError,
			newUpstream(t, "127.0.0.1:0", saying(dns.RcodeYXDomain, "")):         rcode,
		} {
			s := newServer(t, Config{Upstreams: upstreams(first.addr, second.addr), ForwardTimeout: time.Hour})
			s.forward.headStart = time.Hour
			run(t, s)
			for range maxMisses + 1 {
				require.Equal(t, want, resolve(t, "udp", s.sockets.Addr(), "www.example.com.", dns.TypeA).Rcode)
			}
			require.Equal(t, []netip.AddrPort{first.addr, second.addr}, s.Status().Upstreams, "who answers is not dead")
		}
	}
}

func TestStanding(t *testing.T) {
	var s standing
	a, b := netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:53")
	now := time.Unix(1500000000, 0)
	miss := func(times int) {
		for range times {
			s.missed(a, now)
		}
	}
	miss(maxMisses - 1)
	require.False(t, s.rests(a, now))
	s.answered(a)
	miss(maxMisses - 1)
	require.False(t, s.rests(a, now), "not in a row")
	miss(1)
	require.True(t, s.rests(a, now))
	require.False(t, s.rests(b, now))
	now = now.Add(restFor)
	require.False(t, s.rests(a, now), "over")
	miss(1)
	require.True(t, s.rests(a, now), "one more is enough")
	s.answered(a)
	require.False(t, s.rests(a, now))
	for i := range 2 * maxStandings {
		s.missed(netip.AddrPortFrom(a.Addr(), uint16(i)), now)
		require.LessOrEqual(t, len(s.misses), maxStandings)
	}
}

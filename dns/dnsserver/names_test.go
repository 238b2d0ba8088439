package dnsserver

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	names "github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// wireQuestion makes a question of labels as they are, which text cannot express.
func wireQuestion(qtype uint16, labels ...string) []byte {
	raw := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		raw = append(append(raw, byte(len(l))), l...)
	}
	return append(raw, 0, byte(qtype>>8), byte(qtype), 0, dns.ClassINET)
}

// TestEveryNameResolves registers names that DNS can carry, however odd, and asks for them both ways.
func TestEveryNameResolves(t *testing.T) {
	for _, domain := range []string{"weave.local", "My B\xc3\xbcro.local"} {
		node := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: peer.Name(1)})
		table, err := names.New(names.Config{Bus: node, Domain: domain})
		require.NoError(t, err)
		s := start(t, Config{Zone: table, Domain: domain})
		suffix := strings.Split(domain, ".")
		for i, label := range []string{
			"plain", "UPPER", "my app", "a@b", "it's", "(x)", "a;b", `a"b`, "$x", "b\xc3\xbccher", "\xff\xfe", "\u212a", "under_score", "a/b", "\x01",
		} {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
			require.NoError(t, table.Register(label+"."+domain, "c", addr), "%q", label)
			for _, asked := range [][]string{append([]string{label}, suffix...), append([]string{strings.ToUpper(label[:1]) + label[1:]}, suffix...), {label}} {
				answer := new(dns.Msg)
				require.NoError(t, answer.Unpack(ask(t, "udp", s.sockets.Addr(), wireQuestion(dns.TypeA, asked...), patience)))
				if label == "\u212a" && asked[0] != label || label == "\xff\xfe" && asked[0] != label {
					continue // strings.ToUpper made another name of it
				}
				require.Len(t, answer.Answer, 1, "%q", asked)
				require.Equal(t, addr.String(), answer.Answer[0].(*dns.A).A.String())
			}
			raw := wireQuestion(dns.TypePTR, strings.Split(reverseName(addr), ".")...)
			answer := ask(t, "udp", s.sockets.Addr(), raw, patience)
			require.Contains(t, string(answer), string(byte(len(label)))+label, "in the answer as it was registered")
		}
	}
}

func reverseName(a netip.Addr) string {
	b := a.As4()
	return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).String() + ".in-addr.arpa"
}

// TestDotWithinLabel: such a name is none of the zone, which has its labels apart by dots.
func TestDotWithinLabel(t *testing.T) {
	s := start(t, Config{Zone: fixed{"a.b.weave.local.": {"10.0.0.1"}, `c\.d.weave.local.`: {"10.0.0.2"}}})
	for want, labels := range map[int][]string{
		dns.RcodeNameError: {"a.b", "weave", "local"}, dns.RcodeSuccess: {"a", "b", "weave", "local"},
	} {
		answer := new(dns.Msg)
		require.NoError(t, answer.Unpack(ask(t, "udp", s.sockets.Addr(), wireQuestion(dns.TypeA, labels...), patience)))
		require.Equal(t, want, answer.Rcode, "%q", labels)
	}
	answer := new(dns.Msg)
	require.NoError(t, answer.Unpack(ask(t, "udp", s.sockets.Addr(), wireQuestion(dns.TypeA, `c\`, "d", "weave", "local"), patience)))
	require.Equal(t, dns.RcodeSuccess, answer.Rcode)
	require.Equal(t, `c\\.d.weave.local.`, resolve(t, "udp", s.sockets.Addr(), "2.0.0.10.in-addr.arpa.", dns.TypePTR).Answer[0].(*dns.PTR).Ptr)
}

func TestPlainAndCanonical(t *testing.T) {
	long := strings.Repeat("x", 64) + "."
	for canon, want := range map[string]string{
		"a.b.": "a.b.", `a\ b.`: "a b.", `\195\188.`: "\u00fc.", `a\\b.`: `a\b.`, ".": "",
	} {
		require.Equal(t, want, plain(canon))
		if want != "" {
			require.Equal(t, canon, canonical(want))
			require.Equal(t, canon, canonical(strings.TrimSuffix(want, ".")))
		}
	}
	require.Equal(t, "a-z.", plain("A-Z."))
	require.Equal(t, "a-z.", canonical("A-Z"))
	for _, bad := range []string{long, strings.Repeat("x.", 128), "a..b."} {
		require.Empty(t, plain(bad))
		require.Empty(t, canonical(bad))
	}
	require.Empty(t, plain(`a\.b.`))
}

// TestOneLabel: of names of one label only addresses, and what the zone has, are its own.
func TestOneLabel(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", saying(dns.RcodeRefused, ""))
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	for _, c := range []struct {
		name  string
		qtype uint16
		want  int
	}{
		{"com.", dns.TypeDS, dns.RcodeRefused}, {"com.", dns.TypeDNSKEY, dns.RcodeRefused}, {"com.", dns.TypeNS, dns.RcodeRefused},
		{"com.", dns.TypeSOA, dns.RcodeRefused}, {"one.", dns.TypeDS, dns.RcodeRefused}, {"com.", dns.TypeA, dns.RcodeNameError},
		{"com.", dns.TypeAAAA, dns.RcodeNameError}, {"one.", dns.TypeA, dns.RcodeSuccess}, {"one.", dns.TypeNS, dns.RcodeSuccess},
		{"weave.local.", dns.TypeDS, dns.RcodeRefused}, {"nosuch.weave.local.", dns.TypeNS, dns.RcodeNameError},
	} {
		require.Equal(t, c.want, resolve(t, "udp", s.sockets.Addr(), c.name, c.qtype).Rcode, "%s %s", c.name, dns.TypeToString[c.qtype])
	}
}

// TestAdvertisedSize: clients are told a size that the network does not cut, and given what they ask for.
func TestAdvertisedSize(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", func(raw []byte) [][]byte {
		query := new(dns.Msg)
		if query.Unpack(raw) != nil {
			return nil
		}
		reply := new(dns.Msg).SetReply(query)
		for range 25 {
			hdr := dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}
			reply.Answer = append(reply.Answer, &dns.TXT{Hdr: hdr, Txt: []string{strings.Repeat("x", 250)}})
		}
		answer, err := reply.Pack()
		if err != nil {
			return nil
		}
		return [][]byte{answer}
	})
	s := start(t, Config{Upstreams: upstreams(up.addr)})
	msg := send(t, "udp", s.sockets.Addr(), question("one.weave.local.", dns.TypeA).SetEdns0(4096, false))
	require.Equal(t, uint16(1232), msg.IsEdns0().UDPSize())
	raw, err := question("big.example.com.", dns.TypeTXT).SetEdns0(65535, false).Pack()
	require.NoError(t, err)
	require.LessOrEqual(t, len(ask(t, "udp", s.sockets.Addr(), raw, patience)), maxDatagram, "relayed ones too")
}

// FuzzPlain reads a name as it may come in: in the form of a zone and back it is the same, but for capitals.
func FuzzPlain(f *testing.F) {
	f.Add([]byte("\x03One\x05weave\x05local\x00"))
	f.Add([]byte("\x04a\\. \x02\xff\x00\x00"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		name, _, err := dns.UnpackDomainName(wire, 0)
		if err != nil {
			return
		}
		if p := plain(name); p != "" {
			require.Equal(t, dns.CanonicalName(name), canonical(p))
			require.Equal(t, p, plain(canonical(p)))
		}
	})
}

package dnsserver

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

type vector struct {
	Name, Net          string
	QueryHex, ReplyHex string
	Rcode              string
	AA, RA, RD, TC     bool
	Question           string
	AnswerCount        int
	Random             bool
}

func loadVectors(t testing.TB) []vector {
	b, err := os.ReadFile("testdata/server.json")
	require.NoError(t, err)
	var v struct{ Server []vector }
	require.NoError(t, json.Unmarshal(b, &v))
	return v.Server
}

// deviation is what a vector has to be changed to before it is compared. All come from section 3.7 of the specification,
// or, where it says so, from the package comment.
type deviation struct {
	why    string
	change func(*vector)
}

// The reasons.
const (
	apexExists   = "the domain itself exists, as names lie below it: not NXDOMAIN"
	soaOfDomain  = "the domain has an SOA record, which negative answers show"
	compressed   = "compression is used, so more addresses fit"
	clamped      = "EDNS sizes below 512 count as 512 (RFC 6891, section 6.2.3)"
	twoQuestions = "two questions are FORMERR (RFC 9619)"
	toUpstream   = "the zone does not know it, so the upstreams are asked; the one here says NXDOMAIN"
	noData       = "the zone knows the address, but no such record of it: no data"
)

func success(v *vector) { v.Rcode, v.AA, v.ReplyHex, v.AnswerCount = "NOERROR", true, "", 0 }

var deviations = map[string]deviation{
	"a-empty-non-terminal": {"a name that only has others below it exists: not NXDOMAIN", success},
	"a-domain-itself":      {apexExists, success},
	"soa-domain-itself":    {soaOfDomain, func(v *vector) { success(v); v.AnswerCount = 1 }},
	"many-udp":             {compressed, func(v *vector) { v.AnswerCount = 29 }},
	"many-udp-edns-1232":   {compressed, func(v *vector) { v.AnswerCount = 74 }},
	"many-udp-edns-100":    {clamped + "; " + compressed, func(v *vector) { v.AnswerCount = 29 }},
	"two-udp-edns-0":       {clamped, func(v *vector) { v.AnswerCount, v.TC = 2, false }},
	"two-questions":        {twoQuestions, func(v *vector) { v.Rcode, v.ReplyHex = "FORMERR", "" }},
	"root-ns":              {toUpstream, func(v *vector) {}},
	"ptr-short":            {toUpstream, func(v *vector) {}},
	"reverse-soa":          {toUpstream, func(v *vector) {}},
	"reverse-a":            {noData, success},
}

// TestVectors sends the queries of the vectors over real sockets and compares the answers as decoded: where the vectors
// have no deviation, in everything but the two records that 3.7 asks for, OPT and the SOA of negative answers.
func TestVectors(t *testing.T) {
	up := newUpstream(t, "127.0.0.1:0", known)
	zone := newZone(t)
	servers := map[string]*Server{
		"":                         start(t, Config{Zone: zone, Upstreams: upstreams(up.addr)}),
		"upstream-all-dead":        start(t, Config{Zone: zone, Upstreams: upstreams(closedPort)}),
		"upstream-none-configured": start(t, Config{Zone: zone}),
	}
	unused := len(deviations)
	for _, v := range loadVectors(t) {
		d, deviates := deviations[v.Name]
		if deviates {
			unused--
			d.change(&v)
		}
		t.Run(v.Name, func(t *testing.T) {
			server := servers[v.Name]
			if server == nil {
				server = servers[""]
			}
			raw, err := hex.DecodeString(v.QueryHex)
			require.NoError(t, err)
			answer := ask(t, v.Net, server.sockets.Addr(), raw, patience)
			require.NotNil(t, answer)
			compareVector(t, v, raw, answer)
		})
	}
	require.Zero(t, unused, "deviations without vector")
}

func compareVector(t *testing.T, v vector, query, answer []byte) {
	var q, got dns.Msg
	malformed := q.Unpack(query) != nil
	require.NoError(t, got.Unpack(answer))
	require.Equal(t, idOf(query), got.Id)
	require.Equal(t, v.Rcode, dns.RcodeToString[got.Rcode])
	require.Equal(t, [4]bool{v.AA, v.RA, v.RD, v.TC},
		[4]bool{got.Authoritative, got.RecursionAvailable, got.RecursionDesired, got.Truncated}, "AA RA RD TC")
	require.Len(t, got.Answer, v.AnswerCount)
	if v.Question == "" {
		require.Empty(t, got.Question)
	} else {
		require.Equal(t, v.Question, got.Question[0].Name)
	}
	distinct := map[string]bool{}
	for _, rr := range got.Answer {
		distinct[rr.String()] = true
	}
	require.Len(t, distinct, v.AnswerCount)
	compareExtras(t, v, &q, &got)
	if v.ReplyHex == "" {
		return
	}
	want, err := hex.DecodeString(v.ReplyHex)
	require.NoError(t, err)
	if !malformed && (q.IsEdns0() != nil || len(got.Ns) > 0) {
		got.Extra, got.Ns = nil, nil // looked at above
		answer, err = got.Pack()
		require.NoError(t, err)
	}
	require.Equal(t, want, answer)
}

// compareExtras checks the two records that 2.8 does not send. Answers of the upstream have neither.
func compareExtras(t *testing.T, v vector, query, got *dns.Msg) {
	if opt := query.IsEdns0(); opt == nil {
		require.Nil(t, got.IsEdns0())
	} else {
		require.Equal(t, uint16(ednsSize), got.IsEdns0().UDPSize())
	}
	negative := v.AnswerCount == 0 && !v.TC && (v.Rcode == "NXDOMAIN" || v.Rcode == "NOERROR")
	if ours := dns.IsSubDomain("weave.local.", v.Question) && v.Name != "ds-known"; !negative || !ours {
		require.Empty(t, got.Ns)
		return
	}
	require.Len(t, got.Ns, 1)
	soa := got.Ns[0].(*dns.SOA)
	require.Equal(t, "weave.local.", soa.Hdr.Name)
	require.EqualValues(t, 1, soa.Minttl)
	require.EqualValues(t, 1, soa.Hdr.Ttl)
}

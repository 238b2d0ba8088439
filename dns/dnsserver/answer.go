package dnsserver

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerSize  = 12
	ednsSize    = 1232 // what we say that we read from a datagram: more may be cut by the network
	maxDatagram = 4096 // what we read, and the most we send to those who say that they read it
	maxName     = 255  // bytes of a name in wire form
	reverseTree = "in-addr.arpa."
	// recordSize is the least an address takes in a compressed answer: a pointer, type, class, TTL, length and address.
	recordSize = 16
)

// answerer answers from a zone. It is pure: a query goes in, a message comes out.
type answerer struct {
	zone    Zone
	domain  string // lower case, with final dot, as names of messages are written
	ttl     uint32 // seconds
	shuffle func(n int, swap func(i, j int))
}

// sizeLimit returns the largest answer to a query that came over a network, "udp" or "tcp", in bytes.
func sizeLimit(query *dns.Msg, network string) int {
	if network == "tcp" {
		return dns.MaxMsgSize // sizes of EDNS are for datagrams
	}
	if opt := query.IsEdns0(); opt != nil {
		return min(maxDatagram, max(dns.MinMsgSize, int(opt.UDPSize())))
	}
	return dns.MinMsgSize
}

// canonical brings a name, in the form of a Zone, into that of messages, which escapes some bytes. It is empty if DNS has no
// place for the name.
func canonical(name string) string {
	var wire [maxName]byte
	if _, err := dns.PackDomainName(dns.Fqdn(escape(name)), wire[:], 0, nil, false); err != nil {
		return ""
	}
	lower(wire[:])
	name, _, _ = dns.UnpackDomainName(wire[:], 0) // what was packed unpacks
	return name
}

// escape keeps a backslash of a Zone's name from being taken for the beginning of an escape.
func escape(name string) string { return strings.ReplaceAll(name, `\`, `\\`) }

// plain brings a name of a message into the form of a Zone: bytes as they are, small letters. It is empty if a label has a
// dot within, which no name of a Zone has.
func plain(name string) string {
	var wire [maxName]byte
	if _, err := dns.PackDomainName(name, wire[:], 0, nil, false); err != nil {
		return ""
	}
	lower(wire[:])
	out := make([]byte, 0, len(name))
	for rest := wire[:]; rest[0] > 0; rest = rest[1+rest[0]:] {
		label := rest[1 : 1+rest[0]]
		if bytes.IndexByte(label, '.') >= 0 {
			return ""
		}
		out = append(append(out, label...), '.')
	}
	return string(out)
}

// lower makes the letters of a name in wire form small: those of ASCII (RFC 4343), which no length of a label is.
func lower(wire []byte) {
	for i, c := range wire {
		if 'A' <= c && c <= 'Z' {
			wire[i] = c + 'a' - 'A'
		}
	}
}

// answer returns the answer to a query, at most limit bytes long, or nil if the query is for the upstreams.
func (a *answerer) answer(query *dns.Msg, limit int) *dns.Msg {
	if len(query.Question) == 0 {
		return newReply(query, dns.RcodeServerFailure)
	}
	var reply *dns.Msg
	name := query.Question[0].Name
	isDS := query.Question[0].Qtype == dns.TypeDS
	switch {
	case query.Opcode != dns.OpcodeQuery:
		reply = newReply(query, dns.RcodeNotImplemented)
	case len(query.Question) > 1: // RFC 9619
		reply = newReply(query, dns.RcodeFormatError)
	case !isDS && dns.IsSubDomain(a.domain, name):
		reply = a.local(query, name)
	case !isDS && dns.IsSubDomain(reverseTree, name):
		reply = a.reverse(query)
	case !isDS && dns.CountLabel(name) == 1:
		reply = a.local(query, name+a.domain)
	}
	if reply != nil {
		finish(query, reply, limit)
	}
	return reply
}

// newReply makes an answer without records. Only success speaks with authority.
func newReply(query *dns.Msg, rcode int) *dns.Msg {
	reply := &dns.Msg{MsgHdr: dns.MsgHdr{
		Id:                 query.Id,
		Response:           true,
		Opcode:             query.Opcode,
		Authoritative:      rcode == dns.RcodeSuccess,
		RecursionDesired:   query.RecursionDesired,
		RecursionAvailable: len(query.Question) > 0,
		CheckingDisabled:   query.CheckingDisabled,
		Rcode:              rcode,
	}}
	if len(query.Question) > 0 {
		reply.Question = query.Question[:1]
	}
	return reply
}

// unknownEDNS reports whether a query wants a version of EDNS that there is not yet (RFC 6891, section 6.1.3).
func unknownEDNS(query *dns.Msg) bool {
	opt := query.IsEdns0()
	return opt != nil && opt.Version() != 0
}

// local answers about name, which is the question's or, for one of a single label, that with the domain. Such a label may
// also be a domain of the world: if the zone has no such name, only questions for addresses are its own, others are for the
// upstreams: nil.
func (a *answerer) local(query *dns.Msg, name string) *dns.Msg {
	q := query.Question[0]
	apex := len(name) == len(a.domain) // it is below or equal
	addrs, ok := a.lookup(name)
	wantsAddress := q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA
	switch {
	case !ok && !wantsAddress && name != q.Name:
		return nil
	case unknownEDNS(query):
		return newReply(query, dns.RcodeBadVers)
	case !ok && !apex:
		return a.negative(newReply(query, dns.RcodeNameError))
	}
	reply := newReply(query, dns.RcodeSuccess)
	switch {
	case wantsAddress:
		reply.Answer = a.addresses(q, addrs)
	case q.Qtype == dns.TypeSOA && apex:
		reply.Answer = []dns.RR{a.soa(q.Name)}
	}
	if len(reply.Answer) == 0 {
		return a.negative(reply)
	}
	return reply
}

func (a *answerer) lookup(name string) ([]netip.Addr, bool) {
	if name = plain(name); name == "" {
		return nil, false
	}
	return a.zone.Lookup(name)
}

// addresses makes records of those addresses that the question is for, in random order and each once. More than the
// largest message holds are not made; that is a random choice then.
func (a *answerer) addresses(q dns.Question, addrs []netip.Addr) []dns.RR {
	a.shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	seen := make(map[netip.Addr]bool, len(addrs))
	var out []dns.RR
	for _, addr := range addrs {
		addr = addr.Unmap()
		if addr.Is4() != (q.Qtype == dns.TypeA) || !addr.IsValid() || seen[addr] {
			continue
		}
		if len(out) > dns.MaxMsgSize/recordSize {
			break
		}
		seen[addr] = true
		hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: a.ttl}
		if q.Qtype == dns.TypeA {
			out = append(out, &dns.A{Hdr: hdr, A: addr.AsSlice()})
		} else {
			out = append(out, &dns.AAAA{Hdr: hdr, AAAA: addr.AsSlice()})
		}
	}
	return out
}

// negative adds what lets others remember that there is nothing (RFC 2308). The record has to be of the name's own
// zone, which a single label does not show.
func (a *answerer) negative(reply *dns.Msg) *dns.Msg {
	if dns.IsSubDomain(a.domain, reply.Question[0].Name) {
		reply.Ns = []dns.RR{a.soa(a.domain)}
	}
	return reply
}

// soa makes up the record of a zone that has no primary server: every peer is one.
func (a *answerer) soa(name string) dns.RR {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: a.ttl},
		Ns:      "ns." + a.domain,
		Mbox:    "hostmaster." + a.domain,
		Serial:  1,
		Refresh: 3600,
		Retry:   600,
		Expire:  86400,
		Minttl:  a.ttl,
	}
}

// reverse answers about an address that the zone knows. Others are for the upstreams: nil.
func (a *answerer) reverse(query *dns.Msg) *dns.Msg {
	q := query.Question[0]
	addr, ok := addrOf(q.Name)
	if !ok {
		return nil
	}
	name, ok := a.zone.Reverse(addr)
	if !ok {
		return nil
	}
	if unknownEDNS(query) {
		return newReply(query, dns.RcodeBadVers)
	}
	reply := newReply(query, dns.RcodeSuccess)
	if q.Qtype == dns.TypePTR {
		hdr := dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: a.ttl}
		reply.Answer = []dns.RR{&dns.PTR{Hdr: hdr, Ptr: escape(name)}}
	}
	return reply
}

// addrOf reads the address from a name of the reverse tree: four octets, the last first.
func addrOf(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(name)
	if len(labels) != 6 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
	return addr, err == nil && addr.Is4()
}

// finish answers EDNS with EDNS and cuts the reply to the limit.
func finish(query, reply *dns.Msg, limit int) {
	if opt := query.IsEdns0(); opt != nil {
		reply.SetEdns0(ednsSize, opt.Do())
	}
	reply.Truncate(limit)
}

// malformed returns the answer to what cannot be read: only the id of it is sure.
func malformed(raw []byte) []byte {
	return append(raw[:2:2], 0x80, dns.RcodeFormatError, 0, 0, 0, 0, 0, 0, 0, 0)
}

// failure returns the answer to a query for the upstreams that they do not give.
func failure(query *dns.Msg, rcode int) []byte {
	reply := newReply(query, rcode)
	finish(query, reply, dns.MinMsgSize)
	b, _ := reply.Pack() // a question that was unpacked packs again
	return b
}

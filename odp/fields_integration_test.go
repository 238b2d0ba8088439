//go:build linux

package odp_test

import (
	"net"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

// setting is a header field that an action sets, in whole headers or in parts of fields.
type setting struct {
	base   func() headers
	match  string
	action string
	change edit
}

func settings() []setting {
	const ip4, ip6 = "eth_type(0x0800)", "eth_type(0x86dd)"
	const tcp, udp, sctp = ip4 + ",ipv4(proto=6,frag=no)", ip4 + ",ipv4(proto=17,frag=no)", ip4 + ",ipv4(proto=132,frag=no)"
	const udpOver6, tcpOver6 = ip6 + ",ipv6(proto=17,frag=no)", ip6 + ",ipv6(proto=6,frag=no)"
	addr := net.ParseIP
	return []setting{
		{udp4, "", "eth(src=02:00:00:00:00:09)", func(h *headers) { h.eth.SrcMAC = hw(9) }},
		{udp4, "", "eth(dst=02:00:00:00:00:09)", func(h *headers) { h.eth.DstMAC = hw(9) }},
		{udp4, "", "eth(src=06:00:00:00:00:00/ff:00:00:00:00:00)", func(h *headers) { h.eth.SrcMAC = net.HardwareAddr{6, 0, 0, 0, 0, 1} }},
		{udp4, ip4, "ipv4(src=10.9.9.9)", func(h *headers) { h.ip4.SrcIP = net.IP{10, 9, 9, 9} }},
		{tcp4, ip4, "ipv4(dst=10.9.0.0/255.255.0.0)", func(h *headers) { h.ip4.DstIP = net.IP{10, 9, 0, 2} }},
		{udp4, ip4, "ipv4(tos=0xb8/0xfc)", func(h *headers) { h.ip4.TOS = 0xb8 }},
		{udp4, ip4, "ipv4(ttl=9)", func(h *headers) { h.ip4.TTL = 9 }},
		{udp6, ip6, "ipv6(src=fd00::9)", func(h *headers) { h.ip6.SrcIP = addr("fd00::9") }},
		{tcp6, tcpOver6, "ipv6(dst=fd09::/ffff::)", func(h *headers) { h.ip6.DstIP = addr("fd09::2") }},
		{udp6, ip6, "ipv6(label=0x3)", func(h *headers) { h.ip6.FlowLabel = 3 }},
		{udp6, ip6, "ipv6(tclass=0xb8/0xfc)", func(h *headers) { h.ip6.TrafficClass = 0xb8 }},
		{udp6, ip6, "ipv6(hlimit=9)", func(h *headers) { h.ip6.HopLimit = 9 }},
		{tcp4, tcp, "tcp(src=80,dst=443)", func(h *headers) { h.tcp.SrcPort, h.tcp.DstPort = 80, 443 }},
		{tcp4, tcp, "tcp(dst=0/0xff)", func(h *headers) { h.tcp.DstPort = 2000 &^ 0xff }},
		{tcp6, tcpOver6, "tcp(src=80)", func(h *headers) { h.tcp.SrcPort = 80 }},
		{udp4, udp, "udp(src=80,dst=443)", func(h *headers) { h.udp.SrcPort, h.udp.DstPort = 80, 443 }},
		{udp4, udp, "udp(src=0x1/0x1)", func(h *headers) { h.udp.SrcPort = 1001 }},
		{udp6, udpOver6, "udp(dst=53)", func(h *headers) { h.udp.DstPort = 53 }},
		{sctp4, sctp, "sctp(src=80,dst=443)", func(h *headers) { h.sctp.SrcPort, h.sctp.DstPort = 80, 443 }},
		{sctp4, sctp, "sctp(dst=7)", func(h *headers) { h.sctp.DstPort = 7 }},
	}
}

// Every field that can be set comes out set, in whole and in part, with right checksums, and all else as it was.
func TestIntegrationSetFields(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest10")
	for _, s := range settings() {
		t.Run(s.action, func(t *testing.T) {
			w.rules(t, rule(s.match, "set("+s.action+"),2")...)
			require.Equal(t, out(outPort, s.base().build(t, s.change)), w.through(t, inPort, s.base().build(t, nil)))
		})
	}
	// What the kernel can match but not set is refused with the reason, not sent.
	for _, k := range []odp.Key{odp.ICMP{}, odp.ICMPv6{}, odp.ARP{}, odp.ND{}, odp.NSH{}, odp.TCPFlags(0), odp.VLAN(0), odp.EtherType(0), odp.CTMark(0), odp.CTLabels{}} {
		err := w.conn.PutFlow(t.Context(), w.dp, odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(1))}, Actions: []odp.Action{odp.Set{Key: k}}})
		require.ErrorIs(t, err, odp.ErrInvalidFlow)
		require.ErrorContains(t, err, "set")
	}
}

// matching is a field, with a frame that matches it and a frame that differs in that field alone.
type matching struct {
	match string
	miss  edit
	base  func() headers
}

func icmp4() headers {
	h := overIPv4(layers.IPProtocolICMPv4)
	h.data = append([]byte{8, 1}, h.data...)
	return h
}

func fragment4() headers {
	h := udp4()
	h.ip4.Flags = layers.IPv4MoreFragments
	return h
}

func arp() headers {
	h := overIPv4(0)
	h.eth.EthernetType, h.ip4 = layers.EthernetTypeARP, nil
	h.data = []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 2, 0, 0, 0, 0, 3, 10, 0, 0, 2}
	h.data = append(h.data, make([]byte, 18)...)
	return h
}

// solicitation asks for fd00::5, with a source link-layer address option.
func solicitation() headers {
	h := overIPv6(layers.IPProtocolICMPv6)
	h.ip6.HopLimit = 255
	h.data = append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, net.ParseIP("fd00::5")...)
	h.data = append(h.data, 1, 1, 2, 0, 0, 0, 0, 1)
	return h
}

// withOptions has an extension header, of destination options, before UDP.
func withOptions() headers {
	h := overIPv6(layers.IPProtocolIPv6Destination)
	h.data = append([]byte{17, 0, 1, 4, 0, 0, 0, 0, 3, 0xe8, 7, 0xd0, 0, 70, 0, 0}, make([]byte, 62)...)
	return h
}

func set(at int, v byte) edit { return func(h *headers) { h.data[at] = v } }

func matchings() []matching {
	const ip4, ip6 = "eth_type(0x0800),ipv4(", "eth_type(0x86dd),ipv6("
	const tcp, udp, sctp, icmp = ip4 + "proto=6,frag=no),tcp", ip4 + "proto=17,frag=no),udp(", ip4 + "proto=132,frag=no),sctp(", ip4 + "proto=1,frag=no),icmp("
	const nd = ip6 + "proto=58,frag=no),icmpv6(type=135,code=0),nd("
	const single, double = layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ
	one := func() headers { return tagged(udp4(), single) }
	two := func() headers { return tagged(udp4(), double, single) }
	mpls := func() headers { return labelled(udp4(), 7) }
	service := func() headers {
		h := overIPv4(0)
		h.eth.EthernetType, h.ip4 = 0x894f, nil
		h.data = append([]byte{0, 0xc6, 1, 1, 0, 0, 5, 255, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4}, make([]byte, 30)...)
		return h
	}
	return []matching{
		{match: "eth(src=02:00:00:00:00:01)", base: udp4, miss: func(h *headers) { h.eth.SrcMAC = hw(9) }},
		{match: "eth(dst=02:00:00:00:00:00/ff:ff:ff:ff:ff:f0)", base: udp4, miss: func(h *headers) { h.eth.DstMAC = hw(0x12) }},
		{match: ip4 + "src=10.0.0.0/255.255.255.0)", base: udp4, miss: func(h *headers) { h.ip4.SrcIP = net.IP{10, 0, 1, 1} }},
		{match: ip4 + "dst=10.0.0.2)", base: udp4, miss: func(h *headers) { h.ip4.DstIP = net.IP{10, 0, 0, 3} }},
		{match: ip4 + "proto=17)", base: udp4, miss: func(h *headers) { h.ip4.Protocol = layers.IPProtocolUDPLite }},
		{match: ip4 + "tos=0/0xfc)", base: udp4, miss: func(h *headers) { h.ip4.TOS = 4 }},
		{match: ip4 + "ttl=64)", base: udp4, miss: func(h *headers) { h.ip4.TTL = 63 }},
		{match: ip4 + "frag=first)", base: fragment4, miss: func(h *headers) { h.ip4.Flags, h.ip4.FragOffset = 0, 100 }},
		{match: ip6 + "src=fd00::/ffff::)", base: udp6, miss: func(h *headers) { h.ip6.SrcIP = net.ParseIP("fd01::1") }},
		{match: ip6 + "dst=fd00::2)", base: udp6, miss: func(h *headers) { h.ip6.DstIP = net.ParseIP("fd00::3") }},
		{match: ip6 + "label=0)", base: udp6, miss: func(h *headers) { h.ip6.FlowLabel = 0x80000 }},
		{match: ip6 + "tclass=0/0x3)", base: udp6, miss: func(h *headers) { h.ip6.TrafficClass = 1 }},
		{match: ip6 + "hlimit=64)", base: udp6, miss: func(h *headers) { h.ip6.HopLimit = 65 }},
		{match: ip6 + "frag=no),ipv6_exthdrs(0x8)", base: withOptions, miss: func(h *headers) { h.ip6.NextHeader = layers.IPProtocolUDP }},
		{match: tcp + "(src=1000)", base: tcp4, miss: func(h *headers) { h.tcp.SrcPort++ }},
		{match: tcp + "(dst=2000/0xfff0)", base: tcp4, miss: func(h *headers) { h.tcp.DstPort += 16 }},
		{match: tcp + "(),tcp_flags(+syn-ack)", base: tcp4, miss: func(h *headers) { h.tcp.ACK = true }},
		{match: udp + "src=1000)", base: udp4, miss: func(h *headers) { h.udp.SrcPort++ }},
		{match: udp + "dst=2000)", base: udp4, miss: func(h *headers) { h.udp.DstPort++ }},
		{match: sctp + "src=1000)", base: sctp4, miss: func(h *headers) { h.sctp.SrcPort++ }},
		{match: sctp + "dst=2000)", base: sctp4, miss: func(h *headers) { h.sctp.DstPort++ }},
		{match: icmp + "type=8)", base: icmp4, miss: set(0, 0)},
		{match: icmp + "code=1)", base: icmp4, miss: set(1, 0)},
		{match: "eth_type(0x0806),arp(sip=10.0.0.1)", base: arp, miss: set(17, 9)},
		{match: "eth_type(0x0806),arp(tip=10.0.0.2)", base: arp, miss: set(27, 9)},
		{match: "eth_type(0x0806),arp(op=1)", base: arp, miss: set(7, 2)},
		{match: "eth_type(0x0806),arp(sha=02:00:00:00:00:01)", base: arp, miss: set(13, 9)},
		{match: "eth_type(0x0806),arp(tha=02:00:00:00:00:03)", base: arp, miss: set(23, 9)},
		{match: ip6 + "proto=58,frag=no),icmpv6(type=135)", base: solicitation, miss: set(0, 128)},
		{match: ip6 + "proto=58,frag=no),icmpv6(code=0)", base: solicitation, miss: set(1, 1)},
		{match: nd + "target=fd00::5)", base: solicitation, miss: set(23, 6)},
		{match: nd + "sll=02:00:00:00:00:01)", base: solicitation, miss: set(31, 2)},
		{match: "eth_type(0x8100),vlan(vid=5),encap()", base: one, miss: func(h *headers) { h.tags[0].VLANIdentifier = 6 }},
		{match: "eth_type(0x8100),vlan(pcp=3),encap()", base: one, miss: func(h *headers) { h.tags[0].Priority = 2 }},
		{match: "eth_type(0x88a8),vlan(vid=5),encap(eth_type(0x8100),vlan(vid=7),encap())", base: two, miss: func(h *headers) { h.tags[1].VLANIdentifier = 8 }},
		{match: "eth_type(0x8847),mpls(label=7)", base: mpls, miss: func(h *headers) { h.mpls[0].Label = 8 }},
		{match: "eth_type(0x8847),mpls(tc=1)", base: mpls, miss: func(h *headers) { h.mpls[0].TrafficClass = 2 }},
		{match: "eth_type(0x8847),mpls(ttl=9)", base: mpls, miss: func(h *headers) { h.mpls[0].TTL = 8 }},
		{match: "eth_type(0x894f),nsh(ttl=3)", base: service, miss: set(1, 0x86)},
		{match: "eth_type(0x894f),nsh(np=1)", base: service, miss: set(3, 2)},
		{match: "eth_type(0x894f),nsh(spi=0x5)", base: service, miss: set(6, 6)},
		{match: "eth_type(0x894f),nsh(si=255)", base: service, miss: set(7, 254)},
		{match: "eth_type(0x894f),nsh(mdtype=1,c3=0x3)", base: service, miss: set(19, 4)},
	}
}

// Every header field is matched: the frame that has its value passes, the frame that has another does not.
func TestIntegrationMatchFields(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest11")
	for _, m := range matchings() {
		t.Run(m.match, func(t *testing.T) {
			text := "in_port(1)," + m.match
			if m.match[:4] != "eth(" {
				text = "in_port(1),eth()," + m.match
			}
			w.rules(t, [2]string{text, "2"})
			hit, miss := m.base().build(t, nil), m.base().build(t, m.miss)
			require.NotEqual(t, hit, miss)
			require.Equal(t, out(outPort, hit), w.through(t, inPort, miss, hit))
			require.Equal(t, miss, read(t, w.up).Packet)
		})
	}
}

package odp

// layout describes a key attribute of fixed size: how it is decoded, and of what fields its notation consists.
type layout struct {
	name   string
	size   int
	decode func(p []byte) Key
	fields func() []fieldLayout // made when text is written or read, not for each key decoded
}

// fieldLayout is a field inside an attribute. A field without a name is the only one: priority(0x5).
type fieldLayout struct {
	name    string
	at, len int
	kind    fieldKind
}

// fieldKind says how a field is written.
type fieldKind uint8

const (
	decimal  fieldKind = iota // 6/0xff, network byte order
	hexBE                     // 0x5/0xf, network byte order
	hexHost                   // the same, host byte order
	number                    // 5, host byte order
	hex4                      // 0x0800/0xffff
	macAddr                   // 02:00:00:00:00:01/ff:ff:ff:ff:ff:ff
	ip4Addr                   // 10.0.0.1/255.0.0.0
	ip6Addr                   // fd00::1/ffff::
	fragment                  // no, first, later
	tcpFlags                  // +syn-ack, syn|ack
	ctStates                  // +trk-new, new|trk
	label128                  // 0x5/0xff
	vlanTag                   // vid=5/0xfff,pcp=3
	packetNS                  // ns=1,id=0x800
)

// layoutOf returns the layout of an attribute; not all have one.
func layoutOf(typ uint16) (layout, bool) {
	if l, ok := metadataLayout(typ); ok {
		return l, true
	}
	return headerLayout(typ)
}

func metadataLayout(typ uint16) (layout, bool) {
	switch typ {
	case keyPriority:
		return layout{"skb_priority", 4, func(p []byte) Key { return Priority(he32(p)) }, func() []fieldLayout { return single(4, hexHost) }}, true
	case keyInPort:
		return layout{"in_port", 4, func(p []byte) Key { return InPort(he32(p)) }, func() []fieldLayout { return single(4, number) }}, true
	case keySkbMark:
		return layout{"skb_mark", 4, func(p []byte) Key { return SkbMark(he32(p)) }, func() []fieldLayout { return single(4, hexHost) }}, true
	case keyDPHash:
		return layout{"dp_hash", 4, func(p []byte) Key { return DPHash(he32(p)) }, func() []fieldLayout { return single(4, hexHost) }}, true
	case keyRecircID:
		return layout{"recirc_id", 4, func(p []byte) Key { return RecircID(he32(p)) }, func() []fieldLayout { return single(4, hexHost) }}, true
	case keyCTState:
		return layout{"ct_state", 4, func(p []byte) Key { return CTState(he32(p)) }, func() []fieldLayout { return single(4, ctStates) }}, true
	case keyCTZone:
		return layout{"ct_zone", 2, func(p []byte) Key { return CTZone(he16(p)) }, func() []fieldLayout { return single(2, hexHost) }}, true
	case keyCTMark:
		return layout{"ct_mark", 4, func(p []byte) Key { return CTMark(he32(p)) }, func() []fieldLayout { return single(4, hexHost) }}, true
	case keyCTLabels:
		return layout{"ct_label", 16, func(p []byte) Key { return CTLabels(p) }, func() []fieldLayout { return single(16, label128) }}, true
	case keyCTTupleIPv4:
		return layout{"ct_tuple4", 16, func(p []byte) Key { return decodeCTTupleIPv4(p) }, func() []fieldLayout { return tuple(4, ip4Addr, "tp_src", "tp_dst") }}, true
	case keyCTTupleIPv6:
		return layout{"ct_tuple6", 40, func(p []byte) Key { return decodeCTTupleIPv6(p) }, func() []fieldLayout { return tuple(16, ip6Addr, "src_port", "dst_port") }}, true
	case keyPacketType:
		return layout{"packet_type", 4, func(p []byte) Key { return PacketType{be16(p), be16(p[2:])} }, func() []fieldLayout { return single(4, packetNS) }}, true
	case keyIPv6ExtHdrs:
		return layout{"ipv6_exthdrs", 2, func(p []byte) Key { return IPv6ExtHdrs(he16(p)) }, func() []fieldLayout { return single(2, hexHost) }}, true
	}
	return layout{}, false
}

func headerLayout(typ uint16) (layout, bool) {
	switch typ {
	case keyEthernet:
		return layout{"eth", 12, func(p []byte) Key { return decodeEthernet(p) }, func() []fieldLayout {
			return []fieldLayout{
				{"src", 0, 6, macAddr}, {"dst", 6, 6, macAddr},
			}
		}}, true
	case keyVLAN:
		return layout{"vlan", 2, func(p []byte) Key { return VLAN(be16(p)) }, func() []fieldLayout { return single(2, vlanTag) }}, true
	case keyEtherType:
		return layout{"eth_type", 2, func(p []byte) Key { return EtherType(be16(p)) }, func() []fieldLayout { return single(2, hex4) }}, true
	case keyIPv4:
		return layout{"ipv4", 12, func(p []byte) Key { return decodeIPv4(p) }, func() []fieldLayout {
			return []fieldLayout{
				{"src", 0, 4, ip4Addr}, {"dst", 4, 4, ip4Addr}, {"proto", 8, 1, decimal}, {"tos", 9, 1, hexBE},
				{"ttl", 10, 1, decimal}, {"frag", 11, 1, fragment},
			}
		}}, true
	case keyIPv6:
		return layout{"ipv6", 40, func(p []byte) Key { return decodeIPv6(p) }, func() []fieldLayout {
			return []fieldLayout{
				{"src", 0, 16, ip6Addr}, {"dst", 16, 16, ip6Addr}, {"label", 32, 4, hexBE}, {"proto", 36, 1, decimal},
				{"tclass", 37, 1, hexBE}, {"hlimit", 38, 1, decimal}, {"frag", 39, 1, fragment},
			}
		}}, true
	case keyTCP:
		return layout{"tcp", 4, func(p []byte) Key { return TCP{be16(p), be16(p[2:])} }, ports}, true
	case keyUDP:
		return layout{"udp", 4, func(p []byte) Key { return UDP{be16(p), be16(p[2:])} }, ports}, true
	case keySCTP:
		return layout{"sctp", 4, func(p []byte) Key { return SCTP{be16(p), be16(p[2:])} }, ports}, true
	case keyTCPFlags:
		return layout{"tcp_flags", 2, func(p []byte) Key { return TCPFlags(be16(p) & 0xfff) }, func() []fieldLayout { return single(2, tcpFlags) }}, true
	case keyICMP:
		return layout{"icmp", 2, func(p []byte) Key { return ICMP{p[0], p[1]} }, typeAndCode}, true
	case keyICMPv6:
		return layout{"icmpv6", 2, func(p []byte) Key { return ICMPv6{p[0], p[1]} }, typeAndCode}, true
	case keyARP:
		return layout{"arp", 24, func(p []byte) Key { return decodeARP(p) }, func() []fieldLayout {
			return []fieldLayout{
				{"sip", 0, 4, ip4Addr}, {"tip", 4, 4, ip4Addr}, {"op", 8, 2, decimal},
				{"sha", 10, 6, macAddr}, {"tha", 16, 6, macAddr},
			}
		}}, true
	case keyND:
		return layout{"nd", 28, func(p []byte) Key { return decodeND(p) }, func() []fieldLayout {
			return []fieldLayout{
				{"target", 0, 16, ip6Addr}, {"sll", 16, 6, macAddr}, {"tll", 22, 6, macAddr},
			}
		}}, true
	}
	return layout{}, false
}

func single(n int, kind fieldKind) []fieldLayout { return []fieldLayout{{"", 0, n, kind}} }

func ports() []fieldLayout {
	return []fieldLayout{{"src", 0, 2, decimal}, {"dst", 2, 2, decimal}}
}

func typeAndCode() []fieldLayout {
	return []fieldLayout{{"type", 0, 1, decimal}, {"code", 1, 1, decimal}}
}

// tuple has its ports named by ovs-dpctl in two ways.
func tuple(n int, kind fieldKind, src, dst string) []fieldLayout {
	return []fieldLayout{
		{"src", 0, n, kind}, {"dst", n, n, kind}, {"proto", 2*n + 4, 1, decimal},
		{src, 2 * n, 2, decimal}, {dst, 2*n + 2, 2, decimal},
	}
}

// nshFields are those of a header with its context, as flat has them.
func nshFields() []fieldLayout {
	return []fieldLayout{
		{"flags", 0, 1, decimal}, {"ttl", 1, 1, decimal}, {"mdtype", 2, 1, decimal}, {"np", 3, 1, decimal},
		{"spi", 4, 3, hexBE}, {"si", 7, 1, decimal},
		{"c1", 8, 4, hexBE}, {"c2", 12, 4, hexBE}, {"c3", 16, 4, hexBE}, {"c4", 20, 4, hexBE},
	}
}

package odp

// matchRule says which header shows that another one follows it.
type matchRule struct {
	child, parent uint16
	follows       func(parent Key) bool // by the parent's value, the child is in the packet
	certain       func(mask Key) bool   // the parent is matched so exactly that the child may be matched too
	missing       Key                   // what is added, wildcarded, when the child is not mentioned; nil if it need not be
	why           string
}

// matchRules returns the presence rules of the kernel, outer headers first.
func matchRules() []matchRule {
	rules := []matchRule{
		{keyVLAN, keyEtherType, isType(TypeVLAN, TypeQinQ), exactType, nil, "an exact eth_type 0x8100 or 0x88a8"},
		{keyEncap, keyVLAN, always, always, Encap{}, "a vlan"},
		{keyIPv4, keyEtherType, isType(TypeIPv4), exactType, IPv4{}, "an exact eth_type 0x0800"},
		{keyIPv6, keyEtherType, isType(TypeIPv6), exactType, IPv6{}, "an exact eth_type 0x86dd"},
		{keyARP, keyEtherType, isType(TypeARP, TypeRARP), exactType, ARP{}, "an exact eth_type 0x0806 or 0x8035"},
		{keyMPLS, keyEtherType, isType(TypeMPLS, TypeMPLSMC), exactType, MPLS{0}, "an exact eth_type 0x8847 or 0x8848"},
		{keyNSH, keyEtherType, isType(TypeNSH), exactType, NSH{MDType: 1}, "an exact eth_type 0x894f"},
		{keyIPv6ExtHdrs, keyEtherType, isType(TypeIPv6), exactType, nil, "an exact eth_type 0x86dd"},
		{keyCTTupleIPv4, keyEtherType, isType(TypeIPv4), exactType, nil, "an exact eth_type 0x0800"},
		{keyCTTupleIPv6, keyEtherType, isType(TypeIPv6), exactType, nil, "an exact eth_type 0x86dd"},
	}
	for _, l3 := range []uint16{keyIPv4, keyIPv6} {
		rules = append(rules,
			matchRule{keyTCP, l3, isProto(ProtoTCP), exactProto, TCP{}, "an exact IP protocol 6, and no later fragment"},
			matchRule{keyUDP, l3, isProto(ProtoUDP), exactProto, UDP{}, "an exact IP protocol 17, and no later fragment"},
			matchRule{keySCTP, l3, isProto(ProtoSCTP), exactProto, SCTP{}, "an exact IP protocol 132, and no later fragment"},
		)
	}
	return append(rules,
		matchRule{keyTCPFlags, keyTCP, always, always, TCPFlags(0), "a tcp"},
		matchRule{keyICMP, keyIPv4, isProto(ProtoICMP), exactProto, ICMP{}, "an exact ipv4 protocol 1, and no later fragment"},
		matchRule{keyICMPv6, keyIPv6, isProto(ProtoICMPv6), exactProto, ICMPv6{}, "an exact ipv6 protocol 58, and no later fragment"},
		matchRule{keyND, keyICMPv6, isNeighbour, exactICMPv6, ND{}, "an exact icmpv6 type 135 or 136"},
	)
}

func always(Key) bool { return true }

func isType(types ...EtherType) func(Key) bool {
	return func(value Key) bool {
		for _, t := range types {
			if value == t {
				return true
			}
		}
		return false
	}
}

func exactType(mask Key) bool { return mask == EtherType(0xffff) }

func isProto(proto uint8) func(Key) bool {
	return func(value Key) bool {
		switch v := value.(type) {
		case IPv4:
			return v.Proto == proto && v.Frag != FragLater
		case IPv6:
			return v.Proto == proto && v.Frag != FragLater
		}
		return false
	}
}

func exactProto(mask Key) bool {
	switch m := mask.(type) {
	case IPv4:
		return m.Proto == 0xff
	case IPv6:
		return m.Proto == 0xff
	}
	return false
}

func isNeighbour(value Key) bool {
	v, ok := value.(ICMPv6)
	return ok && v.Code == 0 && (v.Type == 135 || v.Type == 136)
}

func exactICMPv6(mask Key) bool {
	m, ok := mask.(ICMPv6)
	return ok && m.Type == 0xff
}

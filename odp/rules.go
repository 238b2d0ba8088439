package odp

// What the kernel wants of a match: which header shows that another one follows it. It runs for every flow, and allocates nothing.

// missing returns the headers behind k that the kernel wants to be mentioned; nil ones are not.
func missing(k Key) (header, flags Key) {
	switch k := k.(type) {
	case EtherType:
		return behindType(k), nil
	case VLAN:
		return Encap(nil), nil
	case IPv4:
		if k.Frag != FragLater {
			return behindIP(k.Proto, ProtoICMP, ICMP{})
		}
	case IPv6:
		if k.Frag != FragLater {
			return behindIP(k.Proto, ProtoICMPv6, ICMPv6{})
		}
	case ICMPv6:
		if admits(k, keyND) {
			return ND{}, nil
		}
	}
	return nil, nil
}

func behindType(t EtherType) Key {
	switch t {
	case TypeIPv4:
		return IPv4{}
	case TypeIPv6:
		return IPv6{}
	case TypeARP, TypeRARP:
		return ARP{}
	case TypeMPLS, TypeMPLSMC:
		return MPLS{0}
	case TypeNSH:
		return NSH{MDType: 1}
	}
	return nil
}

func behindIP(proto, icmp uint8, message Key) (header, flags Key) {
	switch proto {
	case ProtoTCP:
		return TCP{}, TCPFlags(0)
	case ProtoUDP:
		return UDP{}, nil
	case ProtoSCTP:
		return SCTP{}, nil
	case icmp:
		return message, nil
	}
	return nil, nil
}

// parents returns the types of which one must be in a match for this type to be allowed, 0 for none, and what to tell who lacks it.
func parents(typ uint16) (a, b uint16, why string) {
	switch typ {
	case keyVLAN:
		return keyEtherType, 0, "an exact eth_type 0x8100 or 0x88a8"
	case keyEncap:
		return keyVLAN, 0, "a vlan"
	case keyIPv4, keyCTTupleIPv4:
		return keyEtherType, 0, "an exact eth_type 0x0800"
	case keyIPv6, keyCTTupleIPv6, keyIPv6ExtHdrs:
		return keyEtherType, 0, "an exact eth_type 0x86dd"
	case keyARP:
		return keyEtherType, 0, "an exact eth_type 0x0806 or 0x8035"
	case keyMPLS:
		return keyEtherType, 0, "an exact eth_type 0x8847 or 0x8848"
	case keyNSH:
		return keyEtherType, 0, "an exact eth_type 0x894f"
	case keyTCP, keyTCPFlags:
		return keyIPv4, keyIPv6, "an exact IP protocol 6, and no later fragment"
	case keyUDP:
		return keyIPv4, keyIPv6, "an exact IP protocol 17, and no later fragment"
	case keySCTP:
		return keyIPv4, keyIPv6, "an exact IP protocol 132, and no later fragment"
	case keyICMP:
		return keyIPv4, 0, "an exact ipv4 protocol 1, and no later fragment"
	case keyICMPv6:
		return keyIPv6, 0, "an exact ipv6 protocol 58, and no later fragment"
	case keyND:
		return keyICMPv6, 0, "an exact icmpv6 type 135 or 136"
	}
	return 0, 0, ""
}

// admits reports whether packets with this header can be matched by a key of the type.
func admits(parent Key, typ uint16) bool {
	switch k := parent.(type) {
	case EtherType:
		return k.admits(typ)
	case VLAN:
		return typ == keyEncap
	case IPv4:
		return k.Frag != FragLater && (carries(k.Proto, typ) || typ == keyICMP && k.Proto == ProtoICMP)
	case IPv6:
		return k.Frag != FragLater && (carries(k.Proto, typ) || typ == keyICMPv6 && k.Proto == ProtoICMPv6)
	case ICMPv6:
		return typ == keyND && k.Code == 0 && (k.Type == 135 || k.Type == 136)
	}
	return false
}

func (k EtherType) admits(typ uint16) bool {
	switch typ {
	case keyVLAN:
		return k == TypeVLAN || k == TypeQinQ
	case keyIPv4, keyCTTupleIPv4:
		return k == TypeIPv4
	case keyIPv6, keyCTTupleIPv6, keyIPv6ExtHdrs:
		return k == TypeIPv6
	case keyARP:
		return k == TypeARP || k == TypeRARP
	case keyMPLS:
		return k == TypeMPLS || k == TypeMPLSMC
	case keyNSH:
		return k == TypeNSH
	}
	return false
}

func carries(proto uint8, typ uint16) bool {
	switch typ {
	case keyTCP, keyTCPFlags:
		return proto == ProtoTCP
	case keyUDP:
		return proto == ProtoUDP
	case keySCTP:
		return proto == ProtoSCTP
	}
	return false
}

// certain reports whether a header is matched so exactly that what it admits may be matched too.
func certain(mask Key) bool {
	switch m := mask.(type) {
	case EtherType:
		return m == 0xffff
	case VLAN:
		return true
	case IPv4:
		return m.Proto == 0xff
	case IPv6:
		return m.Proto == 0xff
	case ICMPv6:
		return m.Type == 0xff
	}
	return false
}

package port

import "encoding/binary"

const (
	protoTCP = 6
	protoUDP = 17
)

// flowHash returns a number that is the same for all frames of a flow, in both directions: by the addresses and ports of
// TCP and UDP, by those addresses alone for other IP packets and fragments, else by the Ethernet addresses.
func flowHash(frame []byte) uint32 {
	if len(frame) < etherHeader {
		return 0
	}
	at := etherHeader
	for at+vlanTag <= len(frame) && (binary.BigEndian.Uint16(frame[at-2:]) == 0x8100 || binary.BigEndian.Uint16(frame[at-2:]) == 0x88a8) {
		at += vlanTag
	}
	ip := frame[at:]
	switch binary.BigEndian.Uint16(frame[at-2:]) {
	case 0x0800:
		if len(ip) < 20 {
			break
		}
		h := binary.BigEndian.Uint32(ip[12:]) ^ binary.BigEndian.Uint32(ip[16:])
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 { // a fragment
			return mix(h)
		}
		return mix(h ^ ports(ip[9], ip[min(int(ip[0]&15)*4, len(ip)):]))
	case 0x86dd:
		if len(ip) < 40 {
			break
		}
		h := uint32(0)
		for i := 8; i < 40; i += 4 {
			h ^= binary.BigEndian.Uint32(ip[i:])
		}
		return mix(h ^ ports(ip[6], ip[40:]))
	}
	return mix(binary.BigEndian.Uint32(frame[2:]) ^ binary.BigEndian.Uint32(frame[8:]))
}

func ports(protocol uint8, l4 []byte) uint32 {
	if protocol != protoTCP && protocol != protoUDP || len(l4) < 4 {
		return 0
	}
	return uint32(binary.BigEndian.Uint16(l4)) ^ uint32(binary.BigEndian.Uint16(l4[2:]))
}

// mix spreads the bits of a number.
func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x7feb352d
	h ^= h >> 15
	h *= 0x846ca68b
	return h ^ h>>16
}

package sleeve

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
)

// The ECN field: the lowest two bits of the traffic class (RFC 3168).
const (
	ecnMask   = 3
	notECT    = 0
	ect1      = 1
	congested = 3 // CE
)

const (
	vlanTagLen = 4
	maxTags    = 2
)

// ipOffset returns where the IP header of a frame begins, behind VLAN tags; ok is false if it holds no IP packet with a
// whole header.
func ipOffset(frame []byte) (at int, v6, ok bool) {
	for at = overlay.HeaderLen; at <= len(frame) && at <= overlay.HeaderLen+maxTags*vlanTagLen; at += vlanTagLen {
		switch binary.BigEndian.Uint16(frame[at-2:]) {
		case etherTypeIPv4:
			return at, false, len(frame) >= at+ipv4MinHeader && frame[at]>>4 == 4
		case etherTypeIPv6:
			return at, true, len(frame) >= at+ipv6Header && frame[at]>>4 == 6
		case 0x8100, 0x88a8:
		default:
			return 0, false, false
		}
	}
	return 0, false, false
}

// tagsBefore is the length of the VLAN tags before an IP header at an offset.
func tagsBefore(at int) int { return at - overlay.HeaderLen }

// trafficClass returns DSCP and ECN of the IP packet in a frame.
func trafficClass(frame []byte) (class uint8, ok bool) {
	at, v6, ok := ipOffset(frame)
	switch {
	case !ok:
		return 0, false
	case v6:
		return frame[at]<<4 | frame[at+1]>>4, true
	default:
		return frame[at+1], true
	}
}

// combineECN returns what the ECN field of an inner packet becomes by that of the outer one; ok is false if the inner one is
// to be dropped. RFC 6040, section 4.2.
func combineECN(inner, outer uint8) (_ uint8, ok bool) {
	switch {
	case inner == notECT:
		return notECT, outer != congested
	case inner == congested || outer == congested:
		return congested, true
	case outer == ect1:
		return ect1, true
	default:
		return inner, true
	}
}

// decapsulate changes the ECN field of the IP packet in a frame as that of the outer header wants it; false if the frame is
// to be dropped.
func decapsulate(frame []byte, outer uint8) bool {
	outer &= ecnMask
	if outer == notECT {
		return true
	}
	at, v6, ok := ipOffset(frame)
	if !ok {
		return true // nothing that has the field
	}
	if v6 {
		ecn, ok := combineECN(frame[at+1]>>4&ecnMask, outer)
		frame[at+1] = frame[at+1]&^(ecnMask<<4) | ecn<<4
		return ok
	}
	inner := frame[at+1]
	ecn, ok := combineECN(inner&ecnMask, outer)
	if ecn != inner&ecnMask {
		frame[at+1] = inner&^ecnMask | ecn
		field := frame[at+10 : at+12] // RFC 1624: the difference alone
		s := uint32(^binary.BigEndian.Uint16(field)) + uint32(^uint16(inner)) + uint32(frame[at+1])
		binary.BigEndian.PutUint16(field, checksum(s))
	}
	return ok
}

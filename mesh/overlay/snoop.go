package overlay

import (
	"encoding/binary"
	"net/netip"
)

// Types of the messages that speak of groups: IGMP (RFC 1112, 2236, 3376) and MLD (RFC 2710, 3810).
const (
	igmpQuery    = 0x11
	igmpReportV1 = 0x12
	igmpReportV2 = 0x16
	igmpLeave    = 0x17
	igmpReportV3 = 0x22

	mldQuery    = 130
	mldReportV1 = 131
	mldDone     = 132
	mldReportV2 = 143
)

// Kinds of records in reports of IGMPv3 and MLDv2 (RFC 3376, 4.2.12).
const (
	isInclude = iota + 1
	isExclude
	toInclude
	toExclude
	allowSources
	blockSources
)

const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8

	protoIGMP   = 2
	protoICMPv6 = 58

	maxTags       = 2
	maxExtensions = 4 // headers before that of ICMPv6
	reportHeader  = 8 // before the records of a report, and the least that a message of IGMP has
)

// membershipMessage is a message of IGMP or MLD. It borrows the frame.
type membershipMessage struct {
	v6   bool
	src  netip.Addr // of the packet
	body []byte     // from the type on
}

// IsMembership reports whether a frame speaks of the memberships of groups: whether it is of IGMP or MLD. Where such a frame
// goes does not follow from its addresses: see [Forwarder.CapturedFrame]. All of them are sent to groups, in packets of
// protocol 2 in IPv4 (EtherType 0x0800) and 58, with the ICMPv6 types 130 to 132 and 143, in IPv6 (0x86dd), which may be
// tagged; a datapath has to see them all.
func IsMembership(frame []byte) bool {
	_, ok := parseMembership(frame)
	return ok
}

// parseMembership finds the message in a frame. Damaged ones, by length or checksum, are none.
func parseMembership(frame []byte) (m membershipMessage, ok bool) {
	if len(frame) < HeaderLen || frame[0]&1 == 0 {
		return m, false
	}
	at := 12
	for range maxTags {
		if t := binary.BigEndian.Uint16(frame[at:]); t != typeVLAN && t != typeQinQ {
			break
		}
		at += vlanTag
		if at+2 > len(frame) {
			return m, false
		}
	}
	packet := frame[at+2:]
	switch binary.BigEndian.Uint16(frame[at:]) {
	case typeIPv4:
		return parseIGMP(packet)
	case typeIPv6:
		return parseMLD(packet)
	}
	return m, false
}

func parseIGMP(p []byte) (m membershipMessage, ok bool) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != protoIGMP {
		return m, false
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0
	if header < 20 || total < header+reportHeader || total > len(p) || fragment {
		return m, false
	}
	m = membershipMessage{src: netip.AddrFrom4([4]byte(p[12:16])), body: p[header:total]}
	if fold(sum(m.body, 0)) != 0xffff {
		return m, false
	}
	switch m.body[0] {
	case igmpQuery, igmpReportV1, igmpReportV2, igmpLeave, igmpReportV3:
		return m, true
	}
	return m, false
}

func parseMLD(p []byte) (m membershipMessage, ok bool) {
	if len(p) < 40 || p[0]>>4 != 6 {
		return m, false
	}
	length := int(binary.BigEndian.Uint16(p[4:]))
	if length > len(p)-40 {
		return m, false
	}
	body, ok := skipExtensions(p[6], p[40:40+length])
	if !ok || len(body) < reportHeader+16 && !(len(body) >= reportHeader && body[0] == mldReportV2) {
		return m, false
	}
	pseudo := sum(p[8:40], uint64(len(body))+protoICMPv6)
	if fold(sum(body, pseudo)) != 0xffff {
		return m, false
	}
	m = membershipMessage{v6: true, src: netip.AddrFrom16([16]byte(p[8:24])), body: body}
	switch body[0] {
	case mldQuery, mldReportV1, mldDone, mldReportV2:
		return m, true
	}
	return m, false
}

// skipExtensions returns the ICMPv6 message behind the options for each hop, which MLD has, and for the destination.
func skipExtensions(next byte, b []byte) (body []byte, ok bool) {
	const hopByHop, destination = 0, 60
	for range maxExtensions {
		if next != hopByHop && next != destination {
			break
		}
		if len(b) < 8 {
			return nil, false
		}
		length := (int(b[1]) + 1) * 8
		if length > len(b) {
			return nil, false
		}
		next, b = b[0], b[length:]
	}
	return b, next == protoICMPv6
}

// query reports whether the message asks for members.
func (m membershipMessage) query() bool {
	return !m.v6 && m.body[0] == igmpQuery || m.v6 && m.body[0] == mldQuery
}

// fromRouter reports whether a router has sent the message. A switch that asks in place of one gives no source in IPv4
// (RFC 4541, 2.1.1).
func (m membershipMessage) fromRouter() bool { return m.query() && !m.src.IsUnspecified() }

// groups calls joined and left for each group that the message says was joined, or maybe left, by its sender.
func (m membershipMessage) groups(joined, left func(netip.Addr)) {
	if m.v6 {
		switch m.body[0] {
		case mldReportV1:
			joined(netip.AddrFrom16([16]byte(m.body[8:24])))
		case mldDone:
			left(netip.AddrFrom16([16]byte(m.body[8:24])))
		case mldReportV2:
			m.records(16, joined, left)
		}
		return
	}
	switch m.body[0] {
	case igmpReportV1, igmpReportV2:
		joined(netip.AddrFrom4([4]byte(m.body[4:8])))
	case igmpLeave:
		left(netip.AddrFrom4([4]byte(m.body[4:8])))
	case igmpReportV3:
		m.records(4, joined, left)
	}
}

// records reads the records of a report as far as there are any; addresses have size bytes.
func (m membershipMessage) records(size int, joined, left func(netip.Addr)) {
	b := m.body[reportHeader:]
	for range binary.BigEndian.Uint16(m.body[6:]) {
		if len(b) < 4+size {
			return
		}
		kind, sources := b[0], int(binary.BigEndian.Uint16(b[2:]))
		length := 4 + size + sources*size + int(b[1])*4
		group, _ := netip.AddrFromSlice(b[4 : 4+size])
		if length > len(b) {
			return
		}
		switch {
		case kind == isExclude || kind == toExclude:
			joined(group)
		case sources > 0 && (kind == isInclude || kind == toInclude || kind == allowSources):
			joined(group)
		case kind == toInclude || kind == blockSources:
			left(group)
		}
		b = b[length:]
	}
}

// groupMAC returns the address of the frames to a group; ok is false if it is none that a membership decides about: those of
// 224.0.0.0/24 and all that share their addresses, of all nodes, and those that do not leave a host.
func groupMAC(group netip.Addr) (m MAC, ok bool) {
	if !group.IsMulticast() || group.IsInterfaceLocalMulticast() || group.Is4In6() {
		return m, false
	}
	if group.Is4() {
		a := group.As4()
		m = MAC{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
	} else {
		a := group.As16()
		m = MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}
	}
	return m, m.snooped()
}

var (
	allNodes    = MAC{0x33, 0x33, 0, 0, 0, 0x01} // ff02::1
	mldReporter = MAC{0x33, 0x33, 0, 0, 0, 0x16} // ff02::16
)

// snooped reports whether frames to m go to members only. Others go to everybody (RFC 4541, 2.1.2 and 3).
func (m MAC) snooped() bool {
	switch {
	case m[0] == 0x01:
		return m[1] == 0x00 && m[2] == 0x5e && m[3] < 0x80 && (m[3] != 0 || m[4] != 0)
	case m[0] == 0x33:
		return m[1] == 0x33 && m != allNodes && m != mldReporter
	}
	return false
}

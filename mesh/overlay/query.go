package overlay

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// Timers and variables of a querier (RFC 3376, 8, and RFC 3810, 9).
const (
	robustness        = 2
	queryInterval     = 125 * time.Second
	startupInterval   = queryInterval / 4
	queryResponse     = 10 * time.Second // within which members of any group answer
	lastMemberQuery   = time.Second      // within which members of one group answer, and until it is asked for again
	membershipAge     = robustness*queryInterval + queryResponse
	otherQuerierAge   = robustness*queryInterval + queryResponse/2
	leaveAge          = (robustness + 2) * lastMemberQuery // queries may wait for the next round
	settleTime        = queryResponse + 2*time.Second
	qrv               = robustness
	qqic              = byte(queryInterval / time.Second)
	routerAlertOption = 4 // bytes in an IPv4 header
)

// querier writes the questions of a switch to the stations of its host, in place of a router. The newest versions of the
// protocols are used: a station that speaks an older one understands them, while a question in an older one would have all stations
// speak that.
type querier struct {
	mac MAC        // source of the frames
	v6  netip.Addr // source of the packets of MLD
}

// newQuerier returns the querier of a peer. In IPv4 it has no address, so no router gives way to it (RFC 4541, 2.1.1). In
// IPv6 it has to have one, and the router with the lowest is the one that asks; so the peer's name goes into one of the
// highest. The frames' source is not the name itself, which is usual as the address of a bridge on the same host.
func newQuerier(self peer.Name) querier {
	name := self.Bytes()
	a := [16]byte{0: 0xfe, 1: 0x80, 8: 0xff, 9: 0xff}
	copy(a[10:], name[:])
	mac := MAC(name)
	mac[0] = (mac[0]&^1 | 2) ^ 0x40
	return querier{mac: mac, v6: netip.AddrFrom16(a)}
}

// general returns the frames that ask for the members of all groups.
func (q querier) general() [][]byte {
	return [][]byte{q.igmp(netip.IPv4Unspecified()), q.mld(netip.IPv6Unspecified())}
}

// specific returns the frame that asks for the members of a group.
func (q querier) specific(group netip.Addr) []byte {
	if group.Is4() {
		return q.igmp(group)
	}
	return q.mld(group)
}

func (q querier) igmp(group netip.Addr) []byte {
	const header, length = 20 + routerAlertOption, 12
	dst, wait := group, lastMemberQuery
	if group.IsUnspecified() {
		dst, wait = netip.AddrFrom4([4]byte{224, 0, 0, 1}), queryResponse
	}
	f := q.ethernet(dst, typeIPv4, header+length)
	ip, to := f[HeaderLen:], dst.As4()
	ip[0], ip[1] = 4<<4|header/4, 0xc0 // internetwork control
	binary.BigEndian.PutUint16(ip[2:], header+length)
	ip[8], ip[9] = 1, protoIGMP // for one hop
	copy(ip[16:], to[:])
	copy(ip[20:], []byte{0x94, routerAlertOption})
	putHeaderChecksum(ip[:header])

	m, asked := ip[header:], group.As4()
	m[0], m[1] = igmpQuery, byte(wait/(100*time.Millisecond))
	copy(m[4:], asked[:])
	m[8], m[9] = qrv, qqic
	binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, 0)))
	return f
}

func (q querier) mld(group netip.Addr) []byte {
	const header, options, length = 40, 8, 28
	dst, wait := group, lastMemberQuery
	if group.IsUnspecified() {
		dst, wait = netip.IPv6LinkLocalAllNodes(), queryResponse
	}
	f := q.ethernet(dst, typeIPv6, header+options+length)
	ip, from, to := f[HeaderLen:], q.v6.As16(), dst.As16()
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], options+length)
	ip[7] = 1 // for one hop; next are options for each hop, which have number 0
	copy(ip[8:], from[:])
	copy(ip[24:], to[:])
	copy(ip[header:], []byte{protoICMPv6, 0, 5, 2, 0, 0, 1, 0}) // router alert for MLD, padding

	m, asked := ip[header+options:], group.As16()
	m[0] = mldQuery
	binary.BigEndian.PutUint16(m[4:], uint16(wait/time.Millisecond))
	copy(m[8:], asked[:])
	m[24], m[25] = qrv, qqic
	binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, sum(ip[8:40], length+protoICMPv6))))
	return f
}

// ethernet returns a frame to a group with room for a packet.
func (q querier) ethernet(dst netip.Addr, etherType uint16, size int) []byte {
	f := make([]byte, HeaderLen+size)
	to, _ := groupMAC(dst)
	copy(f, to[:])
	copy(f[6:], q.mac[:])
	binary.BigEndian.PutUint16(f[12:], etherType)
	return f
}

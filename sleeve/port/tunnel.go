package port

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	maxTunnel = 512 // of the headers around an inner packet
	ipv4Min   = 20
	ipv4Max   = 60
	ipv6Len   = 40
	udpLen    = 8
	greLen    = 4

	protoIPIP = 4
	protoIPv6 = 41
	protoGRE  = 47

	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
)

// tunnel is what stands before each inner packet of a super-frame that is inside of a tunnel's packet: VXLAN, Geneve or
// others over UDP, GRE, or IP in IP. The kernel describes such a super-frame as if there were no tunnel, and offers it to a
// packet socket on a veth pair. Nobody takes it as it is, so it is cut: the inner packet by an [overlay.Segmenter], and each
// segment gets the headers of the tunnel.
type tunnel struct {
	headers [maxTunnel]byte // from the Ethernet header to the inner packet
	n       int             // of headers; 0: there is no tunnel
	ip, l4  int             // offsets of the outer IP header, and of what is behind it
	v6, udp bool
	index   int // packets that are out
}

// enter finds the tunnel around a super-frame whose segments s describes. It returns the inner packet with an Ethernet header
// before it, which overwrites the end of the tunnel's headers, and what describes its segments. ok is false if there is no
// tunnel.
func (t *tunnel) enter(frame []byte, s overlay.Segments) (inner []byte, _ overlay.Segments, ok bool) {
	at, v6 := innerIP(frame, int(s.Transport))
	if at == 0 || at > maxTunnel || !t.parse(frame[:at]) {
		return nil, s, false
	}
	t.index, t.n = 0, copy(t.headers[:], frame[:at])
	inner, s.Transport = frame[at-etherHeader:], s.Transport-uint16(at-etherHeader)
	udp := s.Protocol == overlay.UDP4 || s.Protocol == overlay.UDP6
	etherType := uint16(typeIPv4)
	switch s.Protocol = overlay.TCP4; {
	case v6 && udp:
		s.Protocol = overlay.UDP6
	case v6:
		s.Protocol = overlay.TCP6
	case udp:
		s.Protocol = overlay.UDP4
	}
	if v6 {
		etherType = typeIPv6
	}
	binary.BigEndian.PutUint16(inner[etherHeader-2:], etherType)
	return inner, s, true
}

// innerIP returns where the IP header begins that ends at l4 and whose packet ends with the frame; 0 if there is none.
func innerIP(frame []byte, l4 int) (at int, v6 bool) {
	if l4 > len(frame) {
		return 0, false
	}
	for at = l4 - ipv4Min; at >= etherHeader && at >= l4-ipv4Max; at -= 4 {
		if ip := frame[at:]; ip[0] == 4<<4|byte((l4-at)/4) && int(binary.BigEndian.Uint16(ip[2:])) == len(ip) {
			return at, false
		}
	}
	if at = l4 - ipv6Len; at < etherHeader || frame[at]>>4 != 6 || int(binary.BigEndian.Uint16(frame[at+4:])) != len(frame)-l4 {
		return 0, false
	}
	return at, true
}

// parse finds the outer IP header among the headers, and reports whether packets of the kind can be made out of them: they must
// have nothing else that differs from packet to packet.
func (t *tunnel) parse(headers []byte) bool {
	t.ip = etherHeader
	etherType := binary.BigEndian.Uint16(headers[t.ip-2:])
	for (etherType == 0x8100 || etherType == 0x88a8) && len(headers) >= t.ip+vlanTag {
		t.ip += vlanTag
		etherType = binary.BigEndian.Uint16(headers[t.ip-2:])
	}
	ip := headers[t.ip:]
	var protocol byte
	switch {
	case etherType == typeIPv4 && len(ip) >= ipv4Min && ip[0]>>4 == 4 && ip[0]&15 >= 5:
		t.l4, t.v6, protocol = t.ip+int(ip[0]&15)*4, false, ip[9]
	case etherType == typeIPv6 && len(ip) >= ipv6Len && ip[0]>>4 == 6:
		t.l4, t.v6, protocol = t.ip+ipv6Len, true, ip[6]
	default:
		return false
	}
	t.udp = protocol == protoUDP
	switch left := len(headers) - t.l4; protocol {
	case protoUDP:
		return left >= udpLen
	case protoGRE:
		const checksumOrSequence = 0x90
		return left >= greLen && headers[t.l4]&checksumOrSequence == 0
	case protoIPIP, protoIPv6:
		return left == 0
	}
	return false
}

// extra is by how much a packet of the tunnel is longer than the segment in it with its Ethernet header.
func (t *tunnel) extra() int { return max(t.n-etherHeader, 0) }

// wrap completes a packet, whose inner part is there already.
func (t *tunnel) wrap(frame []byte) {
	copy(frame, t.headers[:t.n])
	ip, l4 := frame[t.ip:], frame[t.l4:]
	addresses := ip[8:ipv6Len]
	if t.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
	} else {
		addresses = ip[12:ipv4Min]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(t.index))
		clear(ip[10:12])
		_ = overlay.CompleteChecksum(frame[:t.l4], t.ip, 10)
	}
	if t.udp {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		if binary.BigEndian.Uint16(l4[6:]) != 0 {
			binary.BigEndian.PutUint16(l4[6:], pseudoSum(addresses, protoUDP, len(l4)))
			_ = overlay.CompleteChecksum(frame, t.l4, 6)
		}
	}
	t.index++
}

// pseudoSum is the sum of a pseudo header.
func pseudoSum(addresses []byte, protocol uint8, length int) uint16 {
	s := uint32(protocol) + uint32(length)
	for ; len(addresses) > 0; addresses = addresses[2:] {
		s += uint32(binary.BigEndian.Uint16(addresses))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

package port

import (
	"encoding/binary"
	"errors"
)

// vnetLen is the length of the header that describes what the kernel left undone: struct virtio_net_hdr, in the byte order
// of the machine.
const vnetLen = 10

// Values in that header, named as in the kernel less the prefix.
const (
	flagNeedsCSum = 1
	gsoNone       = 0
	gsoTCPv4      = 1
	gsoUDP        = 3 // IP fragments; we do not ask for it
	gsoTCPv6      = 4
	gsoUDPL4      = 5
	gsoECN        = 0x80
)

const (
	etherHeader = 14
	vlanTag     = 4
	protoTCP    = 6
	protoUDP    = 17
	tcpMin      = 20
	udpHeader   = 8
	tcpFlags    = 13 // offset
	tcpFIN      = 0x01
	tcpPSH      = 0x08
	tcpCWR      = 0x80
	maxSegments = 1 << 16
)

var errOffload = errors.New("port: frame does not fit its offload header")

// vnetHeader is the decoded header.
type vnetHeader struct {
	flags, gso                        uint8
	gsoSize, checksumAt, checksumSkip int // checksumSkip: from checksumAt to the field
}

func parseVnet(b []byte) vnetHeader {
	return vnetHeader{
		flags: b[0], gso: b[1],
		gsoSize:      int(binary.NativeEndian.Uint16(b[4:])),
		checksumAt:   int(binary.NativeEndian.Uint16(b[6:])),
		checksumSkip: int(binary.NativeEndian.Uint16(b[8:])),
	}
}

// segmenter turns a frame as the kernel hands it over into frames as they go over a wire. Bundles are cut as RFC 9293 and
// RFC 768 have it; what does not vary from segment to segment is copied from the bundle's header.
type segmenter struct {
	frame    []byte
	header   int // Ethernet, IP and TCP or UDP headers: what is repeated; the length of the frame if there is one segment
	ip       int // offset of the IP header
	l4       int // offset of the TCP or UDP header
	v6       bool
	protocol uint8
	size     int    // payload of a segment
	pseudo   uint64 // sum of the pseudo header without the length

	done  int // payload bytes that are out
	index int // segments that are out
	ended bool
}

// newSegmenter checks the header against the frame. The frame may be changed, and has to stay until the last segment is
// out.
func newSegmenter(h vnetHeader, frame []byte) (s segmenter, err error) {
	s = segmenter{frame: frame, header: len(frame)}
	switch h.gso &^ gsoECN {
	case gsoNone:
		if h.flags&flagNeedsCSum != 0 {
			err = complete(frame, h.checksumAt, h.checksumSkip)
		}
		return s, err
	case gsoTCPv4, gsoTCPv6:
		s.protocol = protoTCP
	case gsoUDPL4:
		s.protocol = protoUDP
	default:
		return s, errOffload
	}
	return s, s.parse(h)
}

// complete computes a checksum whose field holds the sum of the pseudo header.
func complete(frame []byte, at, skip int) error {
	if at < etherHeader || at+skip+2 > len(frame) {
		return errOffload
	}
	putChecksum(frame[at+skip:], sum(frame[at:], 0))
	return nil
}

// parse finds the headers of a bundle.
func (s *segmenter) parse(h vnetHeader) error {
	s.ip, s.l4, s.size = etherHeader, h.checksumAt, h.gsoSize
	if len(s.frame) < etherHeader+vlanTag {
		return errOffload
	}
	etherType := binary.BigEndian.Uint16(s.frame[12:])
	for etherType == 0x8100 || etherType == 0x88a8 {
		s.ip += vlanTag
		if len(s.frame) < s.ip {
			return errOffload
		}
		etherType = binary.BigEndian.Uint16(s.frame[s.ip-2:])
	}
	s.v6 = etherType == 0x86dd
	ipMin, version := 20, byte(4)
	if s.v6 {
		ipMin, version = 40, 6
	}
	minL4 := tcpMin
	if s.protocol == protoUDP {
		minL4 = udpHeader
	}
	if !s.v6 && etherType != 0x0800 || s.l4 < s.ip+ipMin || s.l4+minL4 > len(s.frame) || s.frame[s.ip]>>4 != version {
		return errOffload
	}
	s.header = s.l4 + minL4
	if s.protocol == protoTCP {
		s.header = s.l4 + int(s.frame[s.l4+12]>>4)*4
	}
	if s.header < s.l4+minL4 || s.header > len(s.frame) || s.size == 0 {
		return errOffload
	}
	return s.parsePseudo()
}

// parsePseudo checks the IP header and sums up what all segments share of the pseudo header.
func (s *segmenter) parsePseudo() error {
	ip := s.frame[s.ip:s.l4]
	if s.v6 {
		s.pseudo = sum(ip[8:40], uint64(s.protocol))
		return nil
	}
	if int(ip[0]&15)*4 != len(ip) || ip[9] != s.protocol {
		return errOffload
	}
	s.pseudo = sum(ip[12:20], uint64(s.protocol))
	return nil
}

// nextLen returns the length of the next segment's frame, 0 if there is none left.
func (s *segmenter) nextLen() int {
	if s.ended {
		return 0
	}
	return s.header + min(s.size, len(s.frame)-s.header-s.done)
}

// next writes the next segment to dst, which has room for nextLen bytes. It is not called when that is 0.
func (s *segmenter) next(dst []byte) {
	copy(dst, s.frame[:s.header])
	n := s.nextLen() - s.header
	copy(dst[s.header:], s.frame[s.header+s.done:][:n])
	last := s.header+s.done+n == len(s.frame)
	if s.size > 0 {
		s.patch(dst[:s.header+n], last)
	}
	s.done += n
	s.index++
	s.ended = last || s.index == maxSegments
}

// skip leaves the next segment out.
func (s *segmenter) skip() {
	n := s.nextLen() - s.header
	s.ended = s.header+s.done+n == len(s.frame)
	s.done += n
	s.index++
}

// patch makes the headers of a segment right.
func (s *segmenter) patch(segment []byte, last bool) {
	ip, l4 := segment[s.ip:s.l4], segment[s.l4:]
	if s.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(segment)-s.ip-40))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(segment)-s.ip))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(s.index))
		putHeaderChecksum(ip)
	}
	field := 6
	if s.protocol == protoTCP {
		field = 16
		s.patchTCP(l4, last)
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	binary.BigEndian.PutUint16(l4[field:], 0)
	putChecksum(l4[field:], sum(l4, s.pseudo+uint64(len(l4))))
}

func (s *segmenter) patchTCP(tcp []byte, last bool) {
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(s.done))
	if !last {
		tcp[tcpFlags] &^= tcpFIN | tcpPSH
	}
	if s.index > 0 {
		tcp[tcpFlags] &^= tcpCWR
	}
}

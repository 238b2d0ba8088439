package overlay

import (
	"encoding/binary"
	"errors"
)

// ErrSegments is returned for a frame that does not fit what is said of its segments.
var ErrSegments = errors.New("overlay: frame does not fit its segments")

// Protocol is what the segments of a super-frame are.
type Protocol uint8

// The protocols whose segments can travel together.
const (
	TCP4 Protocol = iota + 1
	TCP6
	UDP4
	UDP6
)

// Segments says that a frame is a super-frame: one header and the payload of many TCP or UDP segments of one flow. Its IP
// header and its sequence number are those of one big packet; its TCP or UDP checksum means nothing. The zero value stands
// for an ordinary frame, which is complete.
type Segments struct {
	Protocol Protocol
	// Size is the payload of each segment but the last in bytes.
	Size uint16
	// Transport is the offset of the TCP or UDP header in the frame.
	Transport uint16
}

const (
	vlanTag    = 4
	protoTCP   = 6
	protoUDP   = 17
	tcpMin     = 20
	udpHeader  = 8
	tcpFlags   = 13 // offset
	tcpFIN     = 0x01
	tcpPSH     = 0x08
	tcpCWR     = 0x80
	maxPayload = 1 << 16
)

// Segmenter turns a super-frame into frames as they go over a wire. Super-frames are cut as RFC 9293 and RFC 768 have it;
// what does not vary from segment to segment is copied from the super-frame's header. It is not safe for concurrent use.
type Segmenter struct {
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

// NewSegmenter checks what is said of a frame. The frame has to stay until the last segment is out. The error is
// ErrSegments.
func NewSegmenter(frame []byte, s Segments) (g Segmenter, err error) {
	g = Segmenter{frame: frame, header: len(frame)}
	switch s.Protocol {
	case 0:
		return g, nil
	case TCP4, TCP6:
		g.protocol = protoTCP
	case UDP4, UDP6:
		g.protocol = protoUDP
	default:
		return g, ErrSegments
	}
	g.v6 = s.Protocol == TCP6 || s.Protocol == UDP6
	g.l4, g.size = int(s.Transport), int(s.Size)
	return g, g.parse()
}

// Ended returns a Segmenter that has nothing left.
func Ended() Segmenter { return Segmenter{ended: true} }

// HeaderLen is the length of what all segments begin with, in bytes.
func (s *Segmenter) HeaderLen() int { return s.header }

// parse finds the headers of a super-frame.
func (s *Segmenter) parse() error {
	s.ip = HeaderLen
	if len(s.frame) < HeaderLen+vlanTag {
		return ErrSegments
	}
	etherType := binary.BigEndian.Uint16(s.frame[12:])
	for etherType == 0x8100 || etherType == 0x88a8 {
		s.ip += vlanTag
		if len(s.frame) < s.ip {
			return ErrSegments
		}
		etherType = binary.BigEndian.Uint16(s.frame[s.ip-2:])
	}
	ipMin, version, ipType := 20, byte(4), uint16(0x0800)
	if s.v6 {
		ipMin, version, ipType = 40, 6, 0x86dd
	}
	minL4 := tcpMin
	if s.protocol == protoUDP {
		minL4 = udpHeader
	}
	if etherType != ipType || s.l4 < s.ip+ipMin || s.l4+minL4 > len(s.frame) || s.frame[s.ip]>>4 != version {
		return ErrSegments
	}
	s.header = s.l4 + minL4
	if s.protocol == protoTCP {
		s.header = s.l4 + int(s.frame[s.l4+12]>>4)*4
	}
	if s.header < s.l4+minL4 || s.header > len(s.frame) || s.size == 0 || len(s.frame)-s.header > maxPayload {
		return ErrSegments
	}
	return s.parsePseudo()
}

// parsePseudo checks the IP header and sums up what all segments share of the pseudo header.
func (s *Segmenter) parsePseudo() error {
	ip := s.frame[s.ip:s.l4]
	if s.v6 {
		s.pseudo = sum(ip[8:40], uint64(s.protocol))
		return s.checkChain(ip)
	}
	if int(ip[0]&15)*4 != len(ip) || ip[9] != s.protocol {
		return ErrSegments
	}
	s.pseudo = sum(ip[12:20], uint64(s.protocol))
	return nil
}

// checkChain follows the extension headers of an IPv6 packet, behind which the TCP or UDP header has to come: what else is between
// them, such as a tunnel's packet, has lengths of its own.
func (s *Segmenter) checkChain(ip []byte) error {
	const hopByHop, routing, options = 0, 43, 60
	next, at := ip[6], 40
	for at+8 <= len(ip) && (next == hopByHop || next == routing || next == options) {
		next, at = ip[at], at+(int(ip[at+1])+1)*8
	}
	if next != s.protocol || at != len(ip) {
		return ErrSegments
	}
	return nil
}

// NextLen returns the length of the next segment's frame, 0 if there is none left.
func (s *Segmenter) NextLen() int {
	if s.ended {
		return 0
	}
	return s.header + min(s.size, len(s.frame)-s.header-s.done)
}

// Next writes the next segment to dst, which has room for NextLen bytes. It is not to be called when that is 0.
func (s *Segmenter) Next(dst []byte) {
	copy(dst, s.frame[:s.header])
	n := s.NextLen() - s.header
	copy(dst[s.header:], s.frame[s.header+s.done:][:n])
	last := s.header+s.done+n == len(s.frame)
	if s.size > 0 {
		s.patch(dst[:s.header+n], last)
		s.checksum(dst[:s.header+n])
	}
	s.advance(n)
}

// Skip leaves the next segment out.
func (s *Segmenter) Skip() { s.advance(s.NextLen() - s.header) }

func (s *Segmenter) advance(n int) {
	s.done += n
	s.index++
	s.ended = s.header+s.done == len(s.frame) || s.index == maxPayload
}

// patch makes the headers of the segment with the current index right, but for the TCP or UDP checksum. The segment may
// hold the payload of several.
func (s *Segmenter) patch(segment []byte, last bool) {
	ip, l4 := segment[s.ip:s.l4], segment[s.l4:]
	if s.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(segment)-s.ip-40))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(segment)-s.ip))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(s.index))
		putHeaderChecksum(ip)
	}
	if s.protocol == protoTCP {
		s.patchTCP(l4, last)
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
}

func (s *Segmenter) patchTCP(tcp []byte, last bool) {
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(s.done))
	if !last {
		tcp[tcpFlags] &^= tcpFIN | tcpPSH
	}
	if s.index > 0 {
		tcp[tcpFlags] &^= tcpCWR
	}
}

// ChecksumOffset is where the checksum is in the TCP or UDP header.
func (s *Segmenter) ChecksumOffset() int {
	if s.protocol == protoTCP {
		return 16
	}
	return 6
}

func (s *Segmenter) checksum(segment []byte) {
	l4, field := segment[s.l4:], s.ChecksumOffset()
	binary.BigEndian.PutUint16(l4[field:], 0)
	putChecksum(l4[field:], sum(l4, s.pseudo+uint64(len(l4))))
}

// PutPseudoSum puts the sum of the pseudo header where the checksum of the super-frame belongs: what a kernel wants that
// completes the checksums itself. It changes the frame.
func (s *Segmenter) PutPseudoSum() {
	l4 := s.frame[s.l4:]
	binary.BigEndian.PutUint16(l4[s.ChecksumOffset():], fold(s.pseudo+uint64(len(l4))))
}

// Part says which segments of a super-frame a piece of it holds.
type Part struct {
	// First is the index of the first segment, and Last tells that the last of the super-frame is there.
	First int
	Last  bool
}

// Restore makes a super-frame, or a complete frame if there is just one segment, out of the header of a super-frame and the
// payload of some segments next to each other. It changes the frame in place and returns what is to be said of it. The
// error is ErrSegments.
func Restore(frame []byte, s Segments, p Part) (Segments, error) {
	g, err := NewSegmenter(frame, s)
	if err != nil || s.Protocol == 0 || p.First < 0 || p.First > maxPayload/g.size {
		return Segments{}, ErrSegments
	}
	g.index, g.done = p.First, p.First*g.size
	g.patch(frame, p.Last)
	if len(frame)-g.header > g.size {
		return s, nil
	}
	g.checksum(frame)
	return Segments{}, nil
}

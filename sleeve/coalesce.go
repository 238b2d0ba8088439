package sleeve

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	protoTCP      = 6
	tcpMinHeader  = 20
	tcpACK        = 0x10
	tcpPSH        = 0x08
	chainsAtOnce  = 8       // flows of which segments may wait for more
	coalesceBytes = 4 << 16 // payload that is joined at once, at most
)

// coalescer joins TCP segments that came one by one, as those of the old wire do, to super-frames. Only what the kernel's own
// receive offload would join is joined: whole segments of one flow, next to each other, that differ in nothing but what
// cutting makes differ, and whose checksums are right. The frames of a flow keep their order. It keeps its memory.
type coalescer struct {
	arena    []byte // what has been joined
	segments []tcpSegment
	open     []int // by index into segments: the last of each flow that may go on
}

// tcpSegment is a frame with what matters for joining.
type tcpSegment struct {
	ip, l4, header int // offsets of the headers and of the payload; header 0: not to be joined
	v6             bool
	flow           uint32 // a hash of addresses and ports
	sequence       uint32
	payload        int
	size           int  // of the payload of the first of the chain
	total          int  // of the payload of the chain so far
	ends           bool // nothing may follow
	next           int  // the one behind it in its chain; 0: none
	inside         bool // of a chain, and not its first
}

func newCoalescer() *coalescer {
	return &coalescer{segments: make([]tcpSegment, 0, readFrames), open: make([]int, 0, chainsAtOnce)}
}

// join returns the frames with those joined that can be, in the place of the first. The result is in the memory of frames and
// of the coalescer, good until the next call.
func (c *coalescer) join(frames []overlay.Frame) []overlay.Frame {
	c.segments, c.open, c.arena = c.segments[:0], c.open[:0], c.arena[:0]
	joined := false
	for i := range frames {
		c.segments = append(c.segments, parseSegment(frames[i].Data))
		joined = c.link(frames, i) || joined
	}
	if !joined {
		return frames
	}
	out := frames[:0]
	for i := range frames {
		switch s := &c.segments[i]; {
		case s.inside:
		case s.next != 0:
			out = append(out, c.build(frames, i))
		default:
			out = append(out, frames[i])
		}
	}
	clear(frames[len(out):])
	return out
}

// link puts frame i behind the chain that it continues, if there is one, and notes whether it may be continued itself.
func (c *coalescer) link(frames []overlay.Frame, i int) (joined bool) {
	s := &c.segments[i]
	if s.flow == 0 {
		return false
	}
	for n, at := range c.open {
		last := &c.segments[at]
		if last.flow != s.flow {
			continue
		}
		if joined = s.continues(last, &frames[i], &frames[at]); joined {
			last.next, s.inside = i, true
			s.size, s.total = last.size, last.total+s.payload
			s.ends = s.ends || s.payload < s.size
		}
		c.open = append(c.open[:n], c.open[n+1:]...) // what comes later must not overtake it
		break
	}
	if s.header != 0 && !s.ends {
		if len(c.open) == chainsAtOnce {
			c.open = append(c.open[:0], c.open[1:]...)
		}
		c.open = append(c.open, i)
	}
	return joined
}

// continues reports whether s, which is f, is the segment behind last, which is g.
func (s *tcpSegment) continues(last *tcpSegment, f, g *overlay.Frame) bool {
	return s.header != 0 && s.header == last.header && s.ip == last.ip && s.v6 == last.v6 &&
		s.sequence == last.sequence+uint32(last.payload) && s.payload <= last.size && last.total+s.payload <= maxIP-s.header &&
		f.Src == g.Src && f.Dst == g.Dst && sameHeaders(f.Data[:s.header], g.Data[:s.header], s)
}

// sameHeaders reports whether two headers differ in nothing but what cutting makes differ.
func sameHeaders(a, b []byte, s *tcpSegment) bool {
	if string(a[:s.ip]) != string(b[:s.ip]) {
		return false
	}
	ipA, ipB := a[s.ip:s.l4], b[s.ip:s.l4]
	if s.v6 {
		if string(ipA[:4]) != string(ipB[:4]) || string(ipA[6:]) != string(ipB[6:]) {
			return false
		}
	} else if string(ipA[:2]) != string(ipB[:2]) || string(ipA[6:10]) != string(ipB[6:10]) || string(ipA[12:]) != string(ipB[12:]) ||
		binary.BigEndian.Uint16(ipA[4:]) != binary.BigEndian.Uint16(ipB[4:])+1 {
		return false
	}
	tcpA, tcpB := a[s.l4:], b[s.l4:] // but for the sequence number, PSH and the checksum
	return string(tcpA[:4]) == string(tcpB[:4]) && string(tcpA[8:13]) == string(tcpB[8:13]) &&
		string(tcpA[14:16]) == string(tcpB[14:16]) && string(tcpA[18:]) == string(tcpB[18:])
}

// build makes one frame out of the chain that begins with frame i.
func (c *coalescer) build(frames []overlay.Frame, i int) overlay.Frame {
	first := &c.segments[i]
	start, f := len(c.arena), frames[i]
	c.arena = append(c.arena, f.Data...)
	last := i
	for at := first.next; at != 0; at = c.segments[at].next {
		c.arena = append(c.arena, frames[at].Data[c.segments[at].header:]...)
		last = at
	}
	f.Data = c.arena[start:len(c.arena):len(c.arena)]
	ip := f.Data[first.ip:]
	protocol := overlay.TCP4
	if first.v6 {
		protocol = overlay.TCP6
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Header))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		putChecksum(ip[:first.l4-first.ip])
	}
	const flags = 13
	f.Data[first.l4+flags] |= frames[last].Data[first.l4+flags] & tcpPSH
	f.Segments = overlay.Segments{Protocol: protocol, Size: uint16(first.size), Transport: uint16(first.l4)}
	return f
}

// parseSegment looks at a frame. The flow of the result is 0 if it is no TCP segment at all, and the header is if it is one
// that is to be left as it is.
func parseSegment(frame []byte) (s tcpSegment) {
	at, v6, ok := ipOffset(frame)
	if !ok {
		return s
	}
	s.ip, s.v6, s.l4 = at, v6, at+ipv6Header
	ip := frame[at:]
	var pseudo uint32
	var length int
	if v6 {
		if ip[6] != protoTCP {
			return s
		}
		length, pseudo = ipv6Header+int(binary.BigEndian.Uint16(ip[4:])), sum(ip[8:40], protoTCP)
	} else {
		s.l4 = at + int(ip[0]&15)*4
		if ip[9] != protoTCP || binary.BigEndian.Uint16(ip[6:])&(flagMF|offsetMask) != 0 || s.l4 < at+ipv4MinHeader {
			return s
		}
		length, pseudo = int(binary.BigEndian.Uint16(ip[2:])), sum(ip[12:20], protoTCP)
	}
	if len(frame) < s.l4+tcpMinHeader {
		return s
	}
	tcp := frame[s.l4:]
	s.flow = pseudo ^ binary.BigEndian.Uint32(tcp)*0x9e3779b1 | 1<<31
	header := s.l4 + int(tcp[12]>>4)*4
	const flags = 13
	switch {
	case length != len(ip), header < s.l4+tcpMinHeader, header >= len(frame), tcp[flags]&^tcpPSH != tcpACK,
		!v6 && checksum(sum(ip[:s.l4-at], 0)) != 0, checksum(sum(tcp, pseudo+uint32(len(tcp)))) != 0:
		return s
	}
	s.header, s.payload = header, len(frame)-header
	s.size, s.total = s.payload, s.payload
	s.sequence = binary.BigEndian.Uint32(tcp[4:])
	s.ends = tcp[flags]&tcpPSH != 0
	return s
}

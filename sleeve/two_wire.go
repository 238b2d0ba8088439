package sleeve

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Sizes of the wire of sleeve2 in bytes; see sleeve2.md.
const (
	header2Len    = 16
	marker2       = 0x4f // the first byte; it has the group bit, which no peer's name has
	record2Len    = 3    // length and flags
	names2Len     = 2 * peer.NameSize
	trailer2Len   = 10  // of a part without names, with the kind
	maxHeader2    = 256 // of a super-frame
	maxParts      = 256 // of one super-frame
	pingLen       = 9   // with the kind
	pongLen       = 11
	hello2Len     = 14
	hello2Version = 1

	// The most that a datagram adds to a frame, without the seal.
	frame2Overhead = header2Len + trailer2Len
)

// The last byte of an opened datagram says what it holds.
const (
	kindFrames byte = iota
	kindPart
	kindPing
	kindPong
)

const (
	flagNames = 0x80 // the peers are named
	flagLast  = 0x40 // the part holds the end of the super-frame
	hopsMask  = 0x3f
	maxHops   = 63
	tag2Hello = 1
	fastAES   = 1 // abilities in a hello: AES-GCM is fast here
	heedsECN  = 2 // congestion marks of outer headers are not lost here
	check2Len = 8
)

// hello is what the two ends tell each other over the mesh connection.
type hello struct {
	link      uint32          // the id that datagrams to the sender of the hello carry
	check     [check2Len]byte // what they end with if the link has no key
	abilities byte
}

func (h hello) append(b []byte) []byte {
	b = append(b, hello2Version)
	b = binary.BigEndian.AppendUint32(b, h.link)
	b = append(b, h.check[:]...)
	return append(b, h.abilities)
}

// parseHello takes a hello of this version. What a later minor change appends is ignored.
func parseHello(b []byte) (h hello, ok bool) {
	if len(b) < hello2Len || b[0] != hello2Version {
		return h, false
	}
	h.link = binary.BigEndian.Uint32(b[1:])
	copy(h.check[:], b[5:])
	h.abilities = b[13]
	return h, true
}

// putHeader2 writes the header of a datagram.
func putHeader2(b []byte, epoch byte, link uint32, number uint64) {
	b[0], b[1], b[2], b[3] = marker2, epoch, 0, 0
	binary.BigEndian.PutUint32(b[4:], link)
	binary.BigEndian.PutUint64(b[8:], number)
}

// appendFrame2 appends a frame to a datagram of frames. named says whether its peers have to be named.
func appendFrame2(b []byte, f *overlay.Frame, named bool) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.Data)))
	if !named {
		return append(append(b, f.Hops), f.Data...)
	}
	b = append(b, f.Hops|flagNames)
	b = f.Src.AppendBytes(b)
	b = f.Dst.AppendBytes(b)
	return append(b, f.Data...)
}

// frames2 walks the frames of a datagram.
type frames2 struct {
	rest     []byte
	src, dst peer.Name // of frames without names
	err      error
}

func (w *frames2) next() (f overlay.Frame, ok bool) {
	if len(w.rest) == 0 {
		return f, false
	}
	if len(w.rest) < record2Len {
		w.err = errTruncated
		return f, false
	}
	n, flags := int(binary.BigEndian.Uint16(w.rest)), w.rest[2]
	f.Src, f.Dst, f.Hops = w.src, w.dst, flags&hopsMask+1
	rest := w.rest[record2Len:]
	if flags&flagNames != 0 {
		if len(rest) < names2Len {
			w.err = errTruncated
			return f, false
		}
		f.Src, f.Dst = readName(rest), readName(rest[peer.NameSize:])
		rest = rest[names2Len:]
	}
	if n > len(rest) {
		w.err = errTruncated
		return f, false
	}
	f.Data, w.rest = rest[:n:n], rest[n:]
	return f, true
}

// part is what is said of a part of a super-frame, behind payload and header.
type part struct {
	src, dst peer.Name
	named    bool
	id       uint16
	header   int
	segments overlay.Segments
	hops     byte
	index    int
	last     bool
}

func (p *part) append(b []byte) []byte {
	flags := p.hops
	if p.named {
		flags |= flagNames
		b = p.src.AppendBytes(b)
		b = p.dst.AppendBytes(b)
	}
	if p.last {
		flags |= flagLast
	}
	b = binary.BigEndian.AppendUint16(b, p.id)
	b = binary.BigEndian.AppendUint16(b, p.segments.Size)
	return append(b, byte(p.segments.Transport), byte(p.header), byte(p.segments.Protocol), byte(p.index), flags, kindPart)
}

// parsePart reads the end of a datagram with a part that came from src to dst, and returns what is before it: payload, then
// header.
func parsePart(b []byte, src, dst peer.Name) (p part, rest []byte, ok bool) {
	if len(b) < trailer2Len {
		return p, nil, false
	}
	rest, t := b[:len(b)-trailer2Len], b[len(b)-trailer2Len:]
	p.src, p.dst = src, dst
	p.id = binary.BigEndian.Uint16(t)
	p.segments = overlay.Segments{Protocol: overlay.Protocol(t[6]), Size: binary.BigEndian.Uint16(t[2:]), Transport: uint16(t[4])}
	p.header, p.index, p.hops = int(t[5]), int(t[7]), t[8]&hopsMask+1
	p.named, p.last = t[8]&flagNames != 0, t[8]&flagLast != 0
	if p.named {
		if len(rest) < names2Len {
			return p, nil, false
		}
		names := rest[len(rest)-names2Len:]
		p.src, p.dst = readName(names), readName(names[peer.NameSize:])
		rest = rest[:len(rest)-names2Len]
	}
	payload := len(rest) - p.header
	ok = payload > 0 && payload <= int(p.segments.Size) && p.header > 0
	return p, rest, ok
}

// continues reports whether p is the part behind q of one super-frame, where q was full.
func (p *part) continues(q *part) bool {
	return p.id == q.id && p.index == q.index+1 && p.header == q.header && p.segments == q.segments &&
		p.src == q.src && p.dst == q.dst && p.hops == q.hops
}

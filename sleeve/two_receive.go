package sleeve

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

// reader2 takes the datagrams of sleeve2 that one queue brings. Frames of one link that arrive together are handed over
// together, and parts of a super-frame next to each other become one again.
//
// Parts have their header behind their payload, of which the payload alone is kept, so that the payload of one lands right
// behind that of the part before it, where it belongs.
type reader2 struct {
	overlay *Overlay2

	link  *link2   // whose frames are waiting; inside its gate
	in    incoming // frames point into arena
	arena arena
	nonce [nonce2Len]byte
	class uint8 // of the outer header of the datagram at hand

	super joined
}

// joined is a super-frame in the making, at the end of the arena.
type joined struct {
	active bool
	start  int  // of its frame
	first  int  // index of its first part
	newest part // which was full
	class  uint8
}

func newReader2(o *Overlay2) *reader2 {
	return &reader2{overlay: o, arena: newArena(readArena)}
}

// datagram takes one datagram, whose first byte has the group bit.
func (r *reader2) datagram(from netip.AddrPort, b []byte) {
	if len(b) < header2Len || b[0] != marker2 || !r.choose(binary.BigEndian.Uint32(b[4:])) {
		r.overlay.base.strangers.Add(1)
		return
	}
	body, ok := r.open(b)
	if !ok {
		return
	}
	switch body[len(body)-1] {
	case kindFrames:
		r.take(body)
	case kindPart:
		r.part(body)
	case kindPing:
		r.ping(from, body, len(b))
	case kindPong:
		r.pong(body)
	default:
		r.link.drops.add(dropUnknown, 1)
	}
}

// choose makes the link with an id the one that frames are for; false if there is none.
func (r *reader2) choose(id uint32) bool {
	if r.link != nil && r.link.own.link == id {
		return true
	}
	r.flush()
	l := r.overlay.links.get(id)
	if l == nil || !l.inside.enter() {
		return false
	}
	r.link = l
	return true
}

// open returns the content of a datagram, which the arena does not keep yet. It is not empty.
func (r *reader2) open(b []byte) ([]byte, bool) {
	open := r.link.openings.Load()
	if open == nil {
		r.link.drops.add(dropEarly, 1)
		return nil, false
	}
	o := open.find(b[1])
	if o == nil {
		r.link.drops.add(dropSealed, 1)
		return nil, false
	}
	if r.arena.room() < len(b) {
		r.handOver()
	}
	number := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(r.nonce[nonce2Len-8:], number)
	body, err := r.arena.peek(o.aead, r.nonce[:], b[header2Len:], b[:header2Len])
	switch {
	case err != nil || len(body) == 0:
		r.link.drops.add(dropSealed, 1)
		return nil, false
	case !o.fresh(number):
		r.link.drops.add(dropReplay, 1)
		return nil, false
	case o == open[2]:
		r.link.advance(o)
	}
	return body, true
}

// take takes a datagram of frames.
func (r *reader2) take(body []byte) {
	r.finish()
	walk := frames2{rest: body[:len(body)-1], src: r.link.params.Remote, dst: r.link.params.Self}
	for f, ok := walk.next(); ok; f, ok = walk.next() {
		if len(r.in.frames) == readFrames {
			// What was handed over is gone, what is in body stays.
			r.in.give(&r.link.life)
		}
		r.frame(f)
	}
	if walk.err != nil {
		r.link.drops.add(dropTruncated, 1)
	}
	r.arena.keep(len(body))
}

// frame takes a frame that came in one piece.
func (r *reader2) frame(f overlay.Frame) {
	switch {
	case !r.in.valid(&r.link.life, &f):
	case !decapsulate(f.Data, r.class):
		r.link.drops.add(dropCongested, 1)
	default:
		r.in.add(&r.link.life, f)
	}
}

// part takes a part of a super-frame.
func (r *reader2) part(body []byte) {
	p, rest, ok := parsePart(body, r.link.params.Remote, r.link.params.Self)
	if !ok {
		r.link.drops.add(dropTruncated, 1)
		return
	}
	payload := len(rest) - p.header
	if s := &r.super; s.active && p.continues(&s.newest) && r.class == s.class && r.arena.size()-s.start+payload <= maxIP {
		r.arena.keep(payload)
		s.newest = p
	} else {
		r.finish()
		r.begin(p, rest)
	}
	if p.last || payload < int(p.segments.Size) {
		r.finish()
	}
}

// begin begins a super-frame with what was opened: payload, then header, which trade places.
func (r *reader2) begin(p part, rest []byte) {
	var header [maxHeader2]byte
	n := copy(header[:], rest[len(rest)-p.header:])
	copy(rest[n:], rest[:len(rest)-n])
	copy(rest, header[:n])
	r.super = joined{active: true, start: r.arena.size(), first: p.index, newest: p, class: r.class}
	r.arena.keep(len(rest))
}

// finish ends the super-frame in the making, if there is one.
func (r *reader2) finish() {
	s := &r.super
	if !s.active {
		return
	}
	s.active = false
	p := &s.newest
	data := r.arena.from(s.start)
	if !decapsulate(data, s.class) {
		r.link.drops.add(dropCongested, 1)
		return
	}
	segments, err := overlay.Restore(data, p.segments, overlay.Part{First: s.first, Last: p.last})
	if err != nil {
		r.link.drops.add(dropMalformed, 1)
		return
	}
	f := overlay.Frame{Data: data, Src: p.src, Dst: p.dst, Hops: p.hops, Segments: segments}
	if r.in.valid(&r.link.life, &f) {
		r.in.add(&r.link.life, f)
	}
}

func (r *reader2) ping(from netip.AddrPort, body []byte, size int) {
	if len(body) < pingLen {
		r.link.drops.add(dropShort, 1)
		return
	}
	seq := binary.BigEndian.Uint64(body)
	r.link.step(func(m *machine2, now time.Time) { m.pinged(now, from, seq, size) })
}

func (r *reader2) pong(body []byte) {
	if len(body) < pongLen {
		r.link.drops.add(dropShort, 1)
		return
	}
	seq, size := binary.BigEndian.Uint64(body), int(binary.BigEndian.Uint16(body[8:]))
	r.link.step(func(m *machine2, now time.Time) { m.ponged(now, seq, size) })
}

// handOver gives all there is, and empties the arena.
func (r *reader2) handOver() {
	r.finish()
	r.in.give(&r.link.life)
	r.arena.reset()
}

// flush hands over what is waiting and leaves the link.
func (r *reader2) flush() {
	if r.link == nil {
		return
	}
	r.handOver()
	r.link.inside.leave()
	r.link = nil
}

package sleeve

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
)

// sender2 is what one call of Send works with. Senders are pooled and keep their memory.
//
//	arena:  | header | content | seal | header | content ...    handed to the socket when the messages or the room run out
type sender2 struct {
	link    *link2
	sealing *sealing
	route   route2
	to      Message // what all messages have in common

	arena    []byte
	first    int  // where the datagram begins that is being filled
	filling  bool // there is one
	messages []Message
	nonce    [nonce2Len]byte

	named bool // the frame at hand needs its peers named
	mtu   int  // for that frame

	piece     []byte // a segment
	out       outgoing
	packPiece func(*overlay.Frame)
}

func newSender2() *sender2 {
	s := &sender2{arena: make([]byte, 0, packArena), messages: make([]Message, 0, packMessages)}
	s.packPiece = s.pack
	return s
}

// begin readies the sender for a link; false if nothing can be sent yet.
func (s *sender2) begin(l *link2) bool {
	route, sealing := l.route.Load(), l.sealing.Load()
	if route == nil || sealing == nil {
		return false
	}
	s.link, s.sealing, s.route = l, sealing, *route
	if s.route.size == 0 { // not known yet: as little as any path has
		s.route.size = path2Floor
		s.route.mtu = path2Floor - s.overhead() - trailer2Len - overlay.HeaderLen
	}
	s.to = Message{Remote: route.remote, Local: l.local, DontFragment: true}
	s.filling = false
	s.out.begin(&l.life)
	return true
}

// end writes what is left and lets go of the link. It returns frames for senders of what was too big.
func (s *sender2) end() (answers []overlay.Frame) {
	s.flush()
	s.link, s.sealing = nil, nil
	return s.out.end()
}

// overhead is what a datagram has besides its content.
func (s *sender2) overhead() int { return header2Len + s.sealing.aead.Overhead() }

// frame sends one frame its way.
func (s *sender2) frame(f *overlay.Frame) {
	switch {
	case len(f.Data) < overlay.HeaderLen:
		s.link.drops.add(dropShort, 1)
		return
	case f.Hops >= maxHops:
		s.link.drops.add(dropHops, 1)
		return
	}
	s.named, s.mtu = f.Src != s.link.params.Self || f.Dst != s.link.params.Remote, s.route.mtu
	if s.named {
		s.mtu -= names2Len
	}
	if f.Segments.Protocol != 0 {
		s.super(f)
		return
	}
	switch choosePath2(f, s.mtu) {
	case pathD:
		s.pack(f)
	case pathN:
		s.alone(f)
	case pathFragment:
		s.out.inFragments(f, s.mtu, s.packPiece)
	case pathAnswer:
		s.out.answer(f, s.mtu)
	}
}

// pack puts a frame into the datagram that is being filled, or into the next.
func (s *sender2) pack(f *overlay.Frame) {
	need, room := s.need(f), s.route.size-s.overhead()-1
	class, isIP := s.class(f.Data)
	if s.filling && (len(s.arena)-s.first-header2Len+need > room || isIP && class != s.to.Class) {
		s.finish()
	}
	if !s.filling {
		s.to.Class = class
		s.start()
	}
	s.arena = appendFrame2(s.arena, f, s.named)
	s.out.sent(f)
}

// need is the room that a frame takes among the frames of a datagram.
func (s *sender2) need(f *overlay.Frame) int {
	if s.named {
		return record2Len + names2Len + len(f.Data)
	}
	return record2Len + len(f.Data)
}

// alone sends a frame that is too long for the path in a datagram of its own, which the network may cut.
func (s *sender2) alone(f *overlay.Frame) {
	if s.overhead()+s.need(f)+1 > MaxDatagram {
		s.link.drops.add(dropTooBig, 1)
		return
	}
	s.finish()
	s.to.Class, _ = s.class(f.Data)
	s.to.DontFragment = false
	s.start()
	s.arena = appendFrame2(s.arena, f, s.named)
	s.finish()
	s.to.DontFragment = true
	s.out.sent(f)
}

// class returns what the outer header has of the traffic class of a frame's packet. RFC 6040, section 4.1.
func (s *sender2) class(frame []byte) (class uint8, ok bool) {
	class, ok = trafficClass(frame)
	if !s.route.ecn {
		class &^= ecnMask
	}
	return class, ok
}

// super sends a super-frame in parts, each a datagram; all but the last have one size, so that the socket can take them as
// one.
func (s *sender2) super(f *overlay.Frame) {
	g, err := overlay.NewSegmenter(f.Data, f.Segments)
	header, size := g.HeaderLen(), int(f.Segments.Size)
	switch {
	case err != nil:
		s.link.drops.add(dropMalformed, 1)
		return
	case header+size-overlay.HeaderLen > s.mtu, header >= maxHeader2, f.Segments.Transport >= maxHeader2,
		len(f.Data)-header > maxParts*size:
		s.cut(f, &g)
		return
	}
	s.finish()
	s.to.Class, _ = s.class(f.Data)
	p := part{src: f.Src, dst: f.Dst, named: s.named, id: uint16(s.link.bundles.Add(1)), header: header, segments: f.Segments, hops: f.Hops}
	for rest := f.Data[header:]; len(rest) > 0; p.index++ {
		n := min(size, len(rest))
		p.last = n == len(rest)
		s.start()
		s.arena = append(s.arena, rest[:n]...)
		s.arena = append(s.arena, f.Data[:header]...)
		s.arena = p.append(s.arena)
		s.seal()
		rest = rest[n:]
	}
	s.out.sent(f)
}

// cut sends the segments of a super-frame one by one.
func (s *sender2) cut(f *overlay.Frame, g *overlay.Segmenter) {
	for n := g.NextLen(); n > 0; n = g.NextLen() {
		if cap(s.piece) < n {
			s.piece = make([]byte, n)
		}
		one := *f
		one.Data, one.Segments = s.piece[:n], overlay.Segments{}
		g.Next(one.Data)
		s.frame(&one)
	}
}

// start begins a datagram. There always is room for one in the arena.
func (s *sender2) start() {
	s.first, s.filling = len(s.arena), true
	s.arena = s.arena[:s.first+header2Len]
}

// finish completes the datagram of frames that is being filled, if there is one.
func (s *sender2) finish() {
	if s.filling {
		s.arena = append(s.arena, kindFrames)
		s.seal()
	}
}

// seal seals the datagram whose content is complete, in place.
func (s *sender2) seal() {
	s.filling = false
	number := s.sealing.next.Add(1) - 1
	header := s.arena[s.first : s.first+header2Len]
	putHeader2(header, byte(s.sealing.epoch), s.route.link, number)
	binary.BigEndian.PutUint64(s.nonce[nonce2Len-8:], number)
	content := s.arena[s.first+header2Len:]
	sealed := s.sealing.aead.Seal(content[:0], s.nonce[:], content, header)
	s.arena = s.arena[:s.first+header2Len+len(sealed)]
	m := s.to
	m.Data = s.arena[s.first:len(s.arena):len(s.arena)]
	s.messages = append(s.messages, m)
	if len(s.messages) == packMessages || cap(s.arena)-len(s.arena) < MaxDatagram {
		s.flush()
	}
}

// flush writes what has been packed.
func (s *sender2) flush() {
	s.finish()
	if len(s.messages) > 0 {
		s.link.write(s.messages, s.link.askMTU)
	}
	clear(s.messages)
	s.messages, s.arena = s.messages[:0], s.arena[:0]
}

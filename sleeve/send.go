package sleeve

import (
	"net/netip"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
)

// sender is what one call of Send works with. Senders are pooled and keep their memory.
type sender struct {
	link        *link
	mtu         int
	fragTrusted bool
	dont, may   packer // channels D and N
	write       func([]Message)

	piece     []byte // a segment
	out       outgoing
	packPiece func(*overlay.Frame)
}

func newSender() *sender {
	s := new(sender)
	s.write = func(messages []Message) { s.link.write(messages, s.link.askMTU) }
	s.packPiece = func(f *overlay.Frame) { s.pack(&s.dont, f) }
	return s
}

func (s *sender) begin(l *link, remote netip.AddrPort) {
	s.link, s.mtu, s.fragTrusted = l, int(l.mtu.Load()), l.fragTrusted.Load()
	s.out.begin(&l.life)
	s.dont.begin(l, crypto.DontFragment, remote, s.write)
	s.may.begin(l, crypto.Fragmentable, remote, s.write)
}

// end writes what is left and lets go of the link. It returns frames for senders of what was too big.
func (s *sender) end() (answers []overlay.Frame) {
	s.dont.flush()
	s.may.flush()
	s.link = nil
	return s.out.end()
}

// frame sends one frame its way.
func (s *sender) frame(f *overlay.Frame) {
	if len(f.Data) < overlay.HeaderLen {
		s.link.drops.add(dropShort, 1)
		return
	}
	if f.Segments.Protocol != 0 {
		s.super(f)
		return
	}
	switch choosePath(f, s.mtu, s.fragTrusted) {
	case pathD:
		s.pack(&s.dont, f)
	case pathN:
		s.pack(&s.may, f)
	case pathFragment:
		s.out.inFragments(f, s.mtu, s.packPiece)
	case pathAnswer:
		s.out.answer(f, s.mtu)
	case pathTooBig:
		s.link.drops.add(dropTooBig, 1)
	}
}

func (s *sender) pack(p *packer, f *overlay.Frame) {
	if !p.add(f) {
		s.link.drops.add(dropTooBig, 1)
		return
	}
	s.out.sent(f)
}

// super sends the segments of a super-frame.
func (s *sender) super(f *overlay.Frame) {
	g, err := overlay.NewSegmenter(f.Data, f.Segments)
	if err != nil {
		s.link.drops.add(dropMalformed, 1)
		return
	}
	one := *f // has all that matters for the way of each segment
	one.Data, one.Segments = f.Data[:g.NextLen()], overlay.Segments{}
	way := choosePath(&one, s.mtu, s.fragTrusted)
	p := &s.dont
	if way == pathN {
		p = &s.may
	}
	for n := g.NextLen(); n > 0; n = g.NextLen() {
		if way == pathD || way == pathN {
			if room := p.reserve(f.Src, f.Dst, n); room != nil {
				g.Next(room)
				one.Data = room
				s.out.sent(&one)
				continue
			}
		}
		if cap(s.piece) < n {
			s.piece = make([]byte, n)
		}
		one.Data = s.piece[:n]
		g.Next(one.Data)
		s.frame(&one)
	}
}

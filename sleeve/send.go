package sleeve

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

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

	piece   []byte          // an IP fragment
	answers []overlay.Frame // for the senders of what was too big
	frames  uint64
	bytes   uint64
}

func newSender() *sender {
	s := new(sender)
	s.write = s.writeAll
	return s
}

func (s *sender) begin(l *link, remote netip.AddrPort) {
	s.link, s.mtu, s.fragTrusted = l, int(l.mtu.Load()), l.fragTrusted.Load()
	s.frames, s.bytes = 0, 0
	s.dont.begin(l, crypto.DontFragment, remote, s.write)
	s.may.begin(l, crypto.Fragmentable, remote, s.write)
}

// end writes what is left and lets go of the link.
func (s *sender) end() {
	s.dont.flush()
	s.may.flush()
	s.link.sentFrames.Add(s.frames)
	s.link.sentBytes.Add(s.bytes)
	s.link = nil
	clear(s.answers)
	s.answers = s.answers[:0]
}

// frame sends one frame its way.
func (s *sender) frame(f *overlay.Frame) {
	if len(f.Data) < overlay.HeaderLen {
		s.link.drops.add(dropShort, 1)
		return
	}
	switch choosePath(f, s.mtu, s.fragTrusted) {
	case pathD:
		s.pack(&s.dont, f)
	case pathN:
		s.pack(&s.may, f)
	case pathFragment:
		s.fragment(f)
	case pathAnswer:
		s.answer(f)
	case pathTooBig:
		s.link.drops.add(dropTooBig, 1)
	}
}

func (s *sender) pack(p *packer, f *overlay.Frame) {
	if !p.add(f) {
		s.link.drops.add(dropTooBig, 1)
		return
	}
	s.frames++
	s.bytes += uint64(len(f.Data))
}

func (s *sender) fragment(f *overlay.Frame) {
	pieces, ok := newFragments(f.Data, s.mtu)
	if !ok {
		s.link.drops.add(dropMalformed, 1)
		return
	}
	piece := overlay.Frame{Src: f.Src, Dst: f.Dst}
	for more := true; more; {
		if s.piece, more = pieces.appendNext(s.piece[:0]); more {
			piece.Data = s.piece
			s.pack(&s.dont, &piece)
		}
	}
}

// answer drops a frame and prepares the answer for its sender, unless there were many of late.
func (s *sender) answer(f *overlay.Frame) {
	reason := dropTooBig
	if s.link.mayAnswer(time.Now()) {
		if data, ok := appendTooBig(nil, f.Data, s.mtu); ok {
			s.answers = append(s.answers, overlay.Frame{Data: data, Src: f.Dst, Dst: f.Src})
			reason = dropAnswered
		}
	}
	s.link.drops.add(reason, 1)
}

func (s *sender) writeAll(messages []Message) {
	writeAll(s.link.overlay.conn, messages, &s.link.drops, s.link.askMTU)
}

// writeAll writes datagrams of a link. One that the socket does not take is lost and does not keep the others; tooBig is
// called for those that are too big for the path.
func writeAll(conn Conn, messages []Message, d *drops, tooBig func()) {
	for len(messages) > 0 {
		n, err := conn.WriteBatch(messages)
		messages = messages[n:]
		if err == nil || len(messages) == 0 {
			if n == 0 {
				return // not after its contract; do not spin
			}
			continue
		}
		messages = messages[1:]
		switch {
		case errors.Is(err, syscall.EMSGSIZE):
			d.add(dropSendTooBig, 1)
			tooBig()
		case errors.Is(err, net.ErrClosed):
			d.add(dropSend, 1+len(messages))
			return
		default:
			d.add(dropSend, 1)
		}
	}
}

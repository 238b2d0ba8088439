package sleeve

import (
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

// outgoing is what the senders of both overlays have in common: what does not fit, and what has been sent.
type outgoing struct {
	life     *life
	fragment []byte          // an IP fragment
	answers  []overlay.Frame // for the senders of what was too big
	frames   uint64
	bytes    uint64
}

func (s *outgoing) begin(l *life) { s.life, s.frames, s.bytes = l, 0, 0 }

func (s *outgoing) sent(f *overlay.Frame) {
	s.frames++
	s.bytes += uint64(len(f.Data))
}

// end counts what was sent, and returns the answers for those whose frames were not.
func (s *outgoing) end() (answers []overlay.Frame) {
	s.life.sentFrames.Add(s.frames)
	s.life.sentBytes.Add(s.bytes)
	s.life = nil
	answers, s.answers = s.answers, nil
	return answers
}

// inFragments cuts an IPv4 packet into fragments that fit an MTU, and has each packed.
func (s *outgoing) inFragments(f *overlay.Frame, mtu int, pack func(*overlay.Frame)) {
	pieces, ok := newFragments(f.Data, mtu)
	if !ok {
		s.life.drops.add(dropMalformed, 1)
		return
	}
	piece := *f
	for more := true; more; {
		if s.fragment, more = pieces.appendNext(s.fragment[:0]); more {
			piece.Data = s.fragment
			pack(&piece)
		}
	}
}

// answer drops a frame and prepares the answer for its sender, unless there were many of late.
func (s *outgoing) answer(f *overlay.Frame, mtu int) {
	reason := dropTooBig
	if s.life.mayAnswer(time.Now()) {
		if data, ok := appendTooBig(nil, f.Data, mtu); ok {
			s.answers = append(s.answers, overlay.Frame{Data: data, Src: f.Dst, Dst: f.Src})
			reason = dropAnswered
		}
	}
	s.life.drops.add(reason, 1)
}

// write writes datagrams of a link. One that the socket does not take is lost and does not keep the others; tooBig is called
// for those that are too big for the path.
func (l *life) write(messages []Message, tooBig func()) {
	for len(messages) > 0 {
		n, err := l.conn.WriteBatch(messages)
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
			l.drops.add(dropSendTooBig, 1)
			tooBig()
		case errors.Is(err, net.ErrClosed):
			l.drops.add(dropSend, 1+len(messages))
			return
		default:
			l.drops.add(dropSend, 1)
		}
	}
}

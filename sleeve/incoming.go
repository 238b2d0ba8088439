package sleeve

import "github.com/overweave/overweave/mesh/overlay"

const (
	readMessages = 64
	readFrames   = 1024    // hand over at the latest with this many
	readArena    = 4 << 16 // room for what was sealed
)

// incoming gathers frames of one link that arrive together, to be handed over together.
type incoming struct {
	frames []overlay.Frame // they point into the reader's memory
	n      int             // frames as they came
	bytes  int
	relay  bool // some are for other peers
}

// valid reports whether a frame can be handed over; if not it is counted.
func (in *incoming) valid(l *life, f *overlay.Frame) bool {
	switch {
	case len(f.Data) < overlay.HeaderLen:
		l.drops.add(dropShort, 1)
	case !f.Src.IsValid() || !f.Dst.IsValid():
		l.drops.add(dropNobody, 1)
	default:
		return true
	}
	return false
}

func (in *incoming) add(l *life, f overlay.Frame) {
	in.frames = append(in.frames, f)
	in.n++
	in.bytes += len(f.Data)
	in.relay = in.relay || f.Dst != l.params.Self
}

// give gives the waiting frames to the switch, which forwards them.
func (in *incoming) give(l *life) {
	if len(in.frames) > 0 {
		l.receivedFrames.Add(uint64(in.n))
		l.receivedBytes.Add(uint64(in.bytes))
		l.params.Receive(in.frames)
	}
	clear(in.frames)
	*in = incoming{frames: in.frames[:0]}
}

package overlay

import "github.com/overweave/overweave/mesh/peer"

// batch gathers frames by where they go, so that each link is called once for many frames. It is reused and keeps its
// memory; frames are borrowed until it is reset.
type batch struct {
	local []Frame
	hops  []outgoing
	n     int // how many of hops are in use
}

type outgoing struct {
	hop    peer.Name
	frames []Frame
}

// add puts a frame on the pile for hop. There are few hops in a batch, so a search beats a map.
func (b *batch) add(hop peer.Name, f Frame) {
	for i := range b.n {
		if b.hops[i].hop == hop {
			b.hops[i].frames = append(b.hops[i].frames, f)
			return
		}
	}
	if b.n == len(b.hops) {
		b.hops = append(b.hops, outgoing{})
	}
	out := &b.hops[b.n]
	out.hop, out.frames = hop, append(out.frames[:0], f)
	b.n++
}

// reset empties the batch and lets go of the frames.
func (b *batch) reset() {
	clear(b.local)
	b.local = b.local[:0]
	for i := range b.n {
		clear(b.hops[i].frames)
	}
	b.n = 0
}

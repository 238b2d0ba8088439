package overlay

import "sync"

const (
	cutFrames = 128
	cutArena  = 2 * portBuffer
)

// cutter turns super-frames into complete frames, for carriers and ports that take no others. It keeps its memory.
type cutter struct {
	frames []Frame
	arena  []byte
}

var cutters = sync.Pool{New: func() any {
	return &cutter{frames: make([]Frame, 0, cutFrames), arena: make([]byte, 0, cutArena)}
}}

func anySuper(frames []Frame) bool {
	for i := range frames {
		if frames[i].Segments.Protocol != 0 {
			return true
		}
	}
	return false
}

// cut gives all frames in their order, borrowed and super-frames cut, in batches. A frame that does not fit what is said of
// its segments is left out.
func (c *cutter) cut(frames []Frame, give func([]Frame)) {
	for i := range frames {
		s, err := NewSegmenter(frames[i].Data, frames[i].Segments)
		if err != nil {
			continue
		}
		for n := s.NextLen(); n > 0; n = s.NextLen() {
			f := frames[i]
			if f.Segments.Protocol == 0 {
				s.Skip()
			} else {
				if n > cap(c.arena)-len(c.arena) {
					c.flush(give)
				}
				f.Data, f.Segments = c.arena[len(c.arena):len(c.arena)+n:len(c.arena)+n], Segments{}
				c.arena = c.arena[:len(c.arena)+n]
				s.Next(f.Data)
			}
			c.frames = append(c.frames, f)
			if len(c.frames) == cutFrames {
				c.flush(give)
			}
		}
	}
	c.flush(give)
}

func (c *cutter) flush(give func([]Frame)) {
	if len(c.frames) > 0 {
		give(c.frames)
	}
	clear(c.frames)
	c.frames, c.arena = c.frames[:0], c.arena[:0]
}

// cutting makes a port that takes no super-frames one that does.
type cutting struct {
	Port
	bufs  [][]byte // the reader's
	sizes []int
	data  sync.Pool // of *[][]byte
}

// asSegmented returns p itself if it is a SegmentedPort already.
func asSegmented(p Port) SegmentedPort {
	if s, ok := p.(SegmentedPort); ok || p == nil {
		return s
	}
	return &cutting{Port: p, data: sync.Pool{New: func() any { return new([][]byte) }}}
}

// ReadFrames implements [SegmentedPort].
func (p *cutting) ReadFrames(frames []Frame) (int, error) {
	if len(p.bufs) < len(frames) {
		p.bufs, p.sizes = make([][]byte, len(frames)), make([]int, len(frames))
	}
	for i := range frames {
		p.bufs[i] = frames[i].Data
	}
	n, err := p.Read(p.bufs[:len(frames)], p.sizes[:len(frames)])
	for i := range frames[:n] {
		frames[i].Data = frames[i].Data[:p.sizes[i]]
	}
	return n, err
}

// WriteFrames implements [SegmentedPort].
func (p *cutting) WriteFrames(frames []Frame) (err error) {
	if !anySuper(frames) {
		return p.write(frames)
	}
	c := cutters.Get().(*cutter)
	c.cut(frames, func(cut []Frame) {
		if err == nil {
			err = p.write(cut)
		}
	})
	cutters.Put(c)
	return err
}

func (p *cutting) write(frames []Frame) error {
	data := p.data.Get().(*[][]byte)
	for i := range frames {
		*data = append(*data, frames[i].Data)
	}
	err := p.Write(*data)
	clear(*data)
	*data = (*data)[:0]
	p.data.Put(data)
	return err
}

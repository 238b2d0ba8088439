package port

import "github.com/overweave/overweave/mesh/overlay"

// unpacker hands out the frames of packets that the kernel has handed over, into buffers of the caller. It keeps its place
// when those run out. It is not safe for concurrent use.
type unpacker struct {
	counters *counters
	current  overlay.Segmenter
	tunnel   tunnel        // around the current frames
	tag      [vlanTag]byte // to be put back into the current frames, if tagged
	tagged   bool
}

func newUnpacker(c *counters) unpacker {
	return unpacker{counters: c, current: overlay.Ended()}
}

// empty reports whether all frames are out.
func (u *unpacker) empty() bool { return u.current.NextLen() == 0 }

// start takes a packet, header first; it stays borrowed until the unpacker is empty again, and is changed.
func (u *unpacker) start(packet []byte) {
	if len(packet) < vnetLen {
		u.current = overlay.Ended()
		u.counters.malformed.Add(1)
		return
	}
	u.startFrame(packet[:vnetLen], packet[vnetLen:])
}

// startFrame is start for a frame whose header is somewhere else.
func (u *unpacker) startFrame(header, frame []byte) {
	u.tagged, u.tunnel.n = false, 0
	u.current = overlay.Ended()
	s, g, err := describe(header, frame)
	if err != nil && s.Protocol != 0 {
		if inner, s, ok := u.tunnel.enter(frame, s); ok {
			g, err = overlay.NewSegmenter(inner, s)
		}
	}
	if err != nil {
		u.counters.malformed.Add(1)
		return
	}
	u.current = g
}

// setTag has a VLAN tag put into the frames of the packet that was started.
func (u *unpacker) setTag(tag [vlanTag]byte) { u.tag, u.tagged = tag, true }

// fill writes frames to bufs from the n-th on and returns how many there are now.
func (u *unpacker) fill(bufs [][]byte, sizes []int, n int) int {
	for ; n < len(bufs) && u.current.NextLen() > 0; n++ {
		size := u.current.NextLen() + u.tunnel.extra()
		room := size
		if u.tagged {
			room += vlanTag
		}
		if room > len(bufs[n]) {
			u.counters.tooLong.Add(1)
			u.current.Skip()
			n--
			continue
		}
		u.current.Next(bufs[n][u.tunnel.extra():])
		if u.tunnel.n > 0 {
			u.tunnel.wrap(bufs[n][:size])
		}
		if u.tagged {
			insertTag(bufs[n], size, u.tag)
		}
		sizes[n] = room
	}
	return n
}

// insertTag puts a VLAN tag behind the addresses of a frame of the given size. Frames too short for that are left as they
// are and grow by zeros.
func insertTag(buf []byte, size int, tag [vlanTag]byte) {
	const at = 12
	if size < at {
		clear(buf[size : size+vlanTag])
		return
	}
	copy(buf[at+vlanTag:size+vlanTag], buf[at:size])
	copy(buf[at:], tag[:])
}

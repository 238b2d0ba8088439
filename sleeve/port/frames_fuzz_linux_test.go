package port

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

const fuzzBuffer = 8192

func addBundles(f *testing.F, add func(packet []byte)) {
	for _, b := range []bundle{{payload: 100}, {payload: 3000, size: 1000}, {payload: 3000, size: 1000, v6: true, vlan: true}, {payload: 3000, size: 999, udp: true}} {
		add(b.packet(f))
	}
	for _, kind := range []string{"vxlan", "gre", "ipip"} {
		add(around{kind: kind, checksum: true, inner: bundle{payload: 3000, size: 1000}}.packet(f))
	}
}

// requireFrames sees that frames are in buffers of their own, and what they are said to be.
func requireFrames(t *testing.T, frames []overlay.Frame) {
	t.Helper()
	buffers := map[*byte]bool{}
	for _, f := range frames {
		if start := unsafe.SliceData(f.Data); buffers[start] {
			t.Fatal("two frames in one buffer")
		} else {
			buffers[start] = true
		}
		if _, err := overlay.NewSegmenter(f.Data, f.Segments); err != nil || cap(f.Data) != fuzzBuffer {
			t.Fatal("a frame that is not what it is said to be")
		}
	}
}

func fuzzFrames(n int) []overlay.Frame {
	frames := make([]overlay.Frame, n)
	for i := range frames {
		frames[i].Data = make([]byte, fuzzBuffer)
	}
	return frames
}

// FuzzPacketFrames has a packet socket bring what it likes, with a sound packet before and behind, as ReadFrames takes it.
func FuzzPacketFrames(f *testing.F) {
	addBundles(f, func(packet []byte) {
		f.Add(packet, uint16(0), false)
		f.Add(packet, uint16(0x8005), false)
		f.Add(packet, uint16(5), true)
	})
	sound := bundle{payload: 300}.packet(f)
	var c counters
	r := newPacketDirect(&c)
	f.Fuzz(func(t *testing.T, packet []byte, tag uint16, truncated bool) {
		if len(packet) > 4096 {
			return // a byte of payload may make a frame
		}
		r.frames, r.n = fuzzFrames(4), 0
		for i, p := range [][]byte{sound, packet, sound} {
			h := &r.source.headers[i]
			h.hdr, h.len, r.source.aux[i] = unix.Msghdr{}, uint32(len(p)), [auxWords]uint64{}
			n := copy(r.source.vnet[i][:], p)
			copy(r.frames[i].Data, p[n:])
			if i != 1 {
				continue
			}
			if truncated {
				h.hdr.Flags = unix.MSG_TRUNC
			}
			if tag != 0 {
				setAux(&r.source, i, tag)
			}
		}
		r.takeAll(3)
		got := r.frames[:r.n]
		requireFrames(t, got)
		count := len(got)
		for r.rest != nil && !r.rest.empty() {
			more := fuzzFrames(3)
			more = more[:r.rest.handOutFrames(more)]
			requireFrames(t, more)
			count += len(more)
		}
		if count < 2 {
			t.Fatal("what is sound is gone")
		}
	})
}

// setAux makes packet i one from which the kernel took a tag.
func setAux(s *packetSource, i int, tag uint16) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.aux[i]))
	h.Level, h.Type = unix.SOL_PACKET, unix.PACKET_AUXDATA
	h.SetLen(unix.CmsgLen(auxLen))
	s.headers[i].hdr.SetControllen(auxSpace)
	data := unsafe.Slice((*byte)(unsafe.Pointer(&s.aux[i])), auxSpace)[unix.CmsgLen(0):]
	binary.NativeEndian.PutUint32(data, auxVLAN)
	binary.NativeEndian.PutUint16(data[16:], tag)
}

// FuzzTAPFrames has a TAP device bring what it likes, as ReadFrames takes it.
func FuzzTAPFrames(f *testing.F) {
	addBundles(f, func(packet []byte) { f.Add(packet) })
	var c counters
	r := new(tapDirect)
	r.init(&c)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > fuzzBuffer {
			return
		}
		r.frames, r.n = fuzzFrames(1), 0
		n := copy(r.header[:], packet)
		copy(r.frames[0].Data, packet[n:])
		r.take(&r.frames[0], len(packet))
		requireFrames(t, r.frames[:r.n])
	})
}

package port

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

// packetWriter writes frames in batches, each behind a header that says what is left to do.
type packetWriter struct {
	headers [packetBatch]mmsghdr
	iovecs  [packetBatch][2]unix.Iovec
	vnet    [packetBatch][vnetLen]byte
	own     []overlay.Frame // of Write
	frames  []overlay.Frame
	cut     cutWriter
	refused uint64
	err     error
	put     func(fd uintptr)
}

func newPacketWriter() *packetWriter {
	w := new(packetWriter)
	w.put = w.writeAll
	return w
}

func (w *packetWriter) write(raw syscall.RawConn, frames []overlay.Frame) error {
	w.frames, w.refused, w.err = frames, 0, nil
	err := raw.Control(w.put)
	w.frames = nil
	clear(w.iovecs[:])
	if err == nil {
		err = w.err
	}
	return err
}

func (w *packetWriter) writeAll(fd uintptr) {
	for len(w.frames) > 0 && w.err == nil {
		n := 0
		for n < min(len(w.frames), packetBatch) && putVnet(&w.vnet[n], &w.frames[n]) == nil {
			w.point(n, w.frames[n].Data)
			n++
		}
		if n == 0 { // it is not what it says it is
			w.frames = w.frames[1:]
			w.refused++
			continue
		}
		w.frames = w.frames[w.send(fd, n):]
	}
}

// point makes message i that of a frame.
func (w *packetWriter) point(i int, frame []byte) {
	iov := &w.iovecs[i]
	iov[0].Base, iov[1].Base = &w.vnet[i][0], unsafe.SliceData(frame)
	iov[0].SetLen(vnetLen)
	iov[1].SetLen(len(frame))
	w.headers[i].hdr = unix.Msghdr{Iov: &iov[0]}
	w.headers[i].hdr.SetIovlen(len(iov))
}

// send sends the first n of the frames, which are in their places, and returns how many are done with.
func (w *packetWriter) send(fd uintptr, n int) (done int) {
	sent, errno, ok := mmsg(unix.SYS_SENDMMSG, fd, w.headers[:n])
	switch {
	case errno == unix.ENXIO || errno == unix.ENODEV: // the interface is gone
		w.err = os.NewSyscallError("sendmmsg", errno)
		return n
	case errno == unix.EINVAL && w.frames[0].Segments.Protocol != 0: // a kind that this kernel does not cut
		w.refused += w.cut.write(&w.frames[0], func(segment []byte) bool {
			w.vnet[0] = [vnetLen]byte{}
			w.point(0, segment)
			sent, _, _ := mmsg(unix.SYS_SENDMMSG, fd, w.headers[:1])
			return sent == 1
		})
		return 1
	case errno != 0 || !ok: // the first is not wanted
		w.refused++
		return 1
	}
	return sent
}

// cutWriter writes the segments of super-frames that the kernel does not take as they are.
type cutWriter struct {
	segment []byte
	used    bool // there were some
}

// write gives the segments to put, which returns false for those that were refused, and returns the number of these.
func (c *cutWriter) write(f *overlay.Frame, put func(segment []byte) bool) (refused uint64) {
	c.used = true
	s, err := overlay.NewSegmenter(f.Data, f.Segments)
	if err != nil {
		return 1
	}
	for n := s.NextLen(); n > 0; n = s.NextLen() {
		if cap(c.segment) < n {
			c.segment = make([]byte, n)
		}
		s.Next(c.segment[:n])
		if !put(c.segment[:n]) {
			refused++
		}
	}
	return refused
}

package port

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

// enough is how many bytes are read at once at most, give or take a frame: more would not stay in the processor's cache
// until they are sent.
const enough = 192 << 10

// tapDirect reads frames, super-frames among them, right into the buffers of the caller.
type tapDirect struct {
	counters *counters
	header   [vnetLen]byte
	iovecs   [2]unix.Iovec
	frames   []overlay.Frame
	n        int
	err      error
	poll     func(fd uintptr) bool
}

func (r *tapDirect) init(c *counters) {
	r.counters, r.poll = c, r.fill
	r.iovecs[0].Base = &r.header[0]
	r.iovecs[0].SetLen(vnetLen)
}

func (r *tapDirect) read(raw syscall.RawConn, frames []overlay.Frame) (int, error) {
	r.frames, r.n, r.err = frames, 0, nil
	err := raw.Read(r.poll)
	r.frames, r.iovecs[1].Base = nil, nil
	if r.n > 0 {
		return r.n, nil // an error comes again with the next call
	}
	if err == nil {
		err = r.err
	}
	return 0, err
}

// fill reads until there are enough frames or no more; false means that there was nothing at all.
func (r *tapDirect) fill(fd uintptr) bool {
	total := 0
	for r.n < len(r.frames) && total < enough {
		f := &r.frames[r.n]
		r.iovecs[1].Base = unsafe.SliceData(f.Data)
		r.iovecs[1].SetLen(len(f.Data))
		n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iovecs[0])), uintptr(len(r.iovecs)))
		switch errno {
		case 0:
			total += int(n)
			r.take(f, int(n))
		case unix.EINTR:
		case unix.EAGAIN:
			return r.n > 0
		default:
			r.err = os.NewSyscallError("readv", errno)
			return true
		}
	}
	return true
}

// take takes what was read into a frame: n bytes with the header. The kernel tells if it had to cut something off.
func (r *tapDirect) take(f *overlay.Frame, n int) {
	switch n -= vnetLen; {
	case n < 0:
		r.counters.malformed.Add(1)
		return
	case n >= len(f.Data): // cut off, or close to it
		r.counters.tooLong.Add(1)
		return
	}
	s, _, err := describe(r.header[:], f.Data[:n])
	if err != nil {
		r.counters.malformed.Add(1)
		return
	}
	f.Data, f.Segments = f.Data[:n], s
	r.n++
}

// tapWriter writes frames one by one, each behind a header that says what is left to do.
type tapWriter struct {
	header  [vnetLen]byte
	iovecs  [2]unix.Iovec
	own     []overlay.Frame // of Write
	frames  []overlay.Frame
	cut     cutWriter
	refused uint64
	err     error
	put     func(fd uintptr)
}

func newTAPWriter() *tapWriter {
	w := new(tapWriter)
	w.put = w.writeAll
	w.iovecs[0].Base = &w.header[0]
	w.iovecs[0].SetLen(vnetLen)
	return w
}

func (w *tapWriter) write(raw syscall.RawConn, frames []overlay.Frame) error {
	w.frames, w.refused, w.err = frames, 0, nil
	err := raw.Control(w.put)
	w.frames, w.iovecs[1].Base = nil, nil
	return errors.Join(err, w.err)
}

func (w *tapWriter) writeAll(fd uintptr) {
	for i := range w.frames {
		f := &w.frames[i]
		if putVnet(&w.header, f) != nil {
			w.refused++
			continue
		}
		errno := w.writeOne(fd, f.Data)
		switch {
		case errno == 0:
		case errno == unix.EBADFD: // the device was removed
			w.err = os.NewSyscallError("writev", errno)
			return
		case errno == unix.EINVAL && f.Segments.Protocol != 0: // a kind that this kernel does not cut
			w.header = [vnetLen]byte{}
			w.refused += w.cut.write(f, func(segment []byte) bool { return w.writeOne(fd, segment) == 0 })
		default:
			w.refused++
		}
	}
}

func (w *tapWriter) writeOne(fd uintptr, frame []byte) syscall.Errno {
	w.iovecs[1].Base = unsafe.SliceData(frame)
	w.iovecs[1].SetLen(len(frame))
	_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iovecs[0])), uintptr(len(w.iovecs)))
	return errno
}

// tapReader reads packets one by one and hands out their frames.
type tapReader struct {
	unpack unpacker
	packet []byte
	bufs   [][]byte
	sizes  []int
	n      int
	err    error
	poll   func(fd uintptr) bool
}

func (r *tapReader) init(c *counters) {
	r.unpack, r.packet, r.poll = newUnpacker(c), make([]byte, maxPacket), r.fill
}

func (r *tapReader) read(raw syscall.RawConn, bufs [][]byte, sizes []int) (int, error) {
	r.bufs, r.sizes, r.n, r.err = bufs, sizes, 0, nil
	err := raw.Read(r.poll)
	r.bufs, r.sizes = nil, nil
	if r.n > 0 {
		return r.n, nil // an error comes again with the next call
	}
	if err == nil {
		err = r.err
	}
	return r.n, err
}

// fill reads until the buffers are full or there is nothing left; false means that there was nothing at all.
func (r *tapReader) fill(fd uintptr) bool {
	for {
		r.n = r.unpack.fill(r.bufs, r.sizes, r.n)
		if r.n == len(r.bufs) {
			return true
		}
		n, err := unix.Read(int(fd), r.packet)
		switch err {
		case nil:
			r.unpack.start(r.packet[:n])
		case unix.EINTR:
		case unix.EAGAIN:
			return r.n > 0
		default:
			r.err = os.NewSyscallError("read", err)
			return true
		}
	}
}

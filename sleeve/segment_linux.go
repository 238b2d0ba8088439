package sleeve

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxSegments = 64    // of one message; what every kernel with the offload takes
	maxRun      = 65000 // bytes in all of them
)

// batchWriter writes to any socket. Where the socket can, datagrams of one size to one remote go as one message, which the
// kernel or the network card cuts again.
type batchWriter struct {
	batch
	counts [batchMax]int // messages in each header
	sent   bool
	try    func(fd uintptr)
	wait   func(fd uintptr) bool
}

func newBatchWriter() *batchWriter {
	w := new(batchWriter)
	w.try = func(fd uintptr) { w.sent = w.call(unix.SYS_SENDMMSG, fd, unix.MSG_DONTWAIT) }
	w.wait = func(fd uintptr) bool { return w.call(unix.SYS_SENDMMSG, fd, unix.MSG_DONTWAIT) }
	return w
}

// write sends messages and returns how many went.
func (w *batchWriter) write(e *endpoint, msgs []Message) (int, error) {
	segment := !e.noSegment.Load()
	n, err := w.writeOnce(e, msgs, segment)
	if segment && w.counts[0] > 1 && (err == unix.EIO || err == unix.EINVAL) {
		// EIO: the device cannot compute checksums, and so cannot cut. EINVAL: the segments are too big for the path, which
		// a datagram by itself says better.
		if err == unix.EIO {
			e.noSegment.Store(true)
		}
		return w.writeOnce(e, msgs, false)
	}
	return n, err
}

// writeOnce sends messages. Only if the socket is full it goes through the runtime's write lock, to wait for room.
func (w *batchWriter) writeOnce(e *endpoint, msgs []Message, segment bool) (int, error) {
	msgs = msgs[:min(len(msgs), batchMax)]
	w.n = 0
	for first := 0; first < len(msgs); w.n++ {
		n := 1
		if segment {
			n = runLength(msgs[first:])
		}
		for i := range n {
			w.point(first+i, msgs[first+i].Data)
		}
		w.address(e, &msgs[first], w.prepare(w.n, first, n), n)
		w.counts[w.n] = n
		first += n
	}
	w.sent = false
	err := e.raw.Control(w.try)
	if err == nil && !w.sent {
		err = e.raw.Write(w.wait)
	}
	if err != nil {
		return 0, err
	}
	headers, err := w.result()
	sent := 0
	for _, n := range w.counts[:headers] {
		sent += n
	}
	return sent, err
}

// address says where the header in preparation goes, and in what pieces.
func (w *batchWriter) address(e *endpoint, m *Message, h *unix.Msghdr, pieces int) {
	control := unsafe.Slice((*byte)(unsafe.Pointer(&w.control[w.n])), controlLen)
	h.Namelen = putSockaddr(&w.names[w.n], m.Remote, e.v6)
	n := putSource(control, m.Local, m.Remote.Addr())
	if pieces > 1 {
		n += putSegment(control[n:], len(m.Data))
	}
	if n > 0 {
		h.Control = &control[0]
		h.SetControllen(n)
	}
}

// runLength returns how many messages from the first on can go as one.
func runLength(msgs []Message) int {
	first := &msgs[0]
	size, total, n := len(first.Data), len(first.Data), 1
	if size == 0 || !first.DontFragment {
		return 1
	}
	for ; n < len(msgs) && n < maxSegments; n++ {
		m := &msgs[n]
		total += len(m.Data)
		if len(m.Data) > size || len(m.Data) == 0 || total > maxRun || m.Remote != first.Remote || m.Local != first.Local {
			break
		}
		if len(m.Data) < size {
			return n + 1 // the last may be shorter
		}
	}
	return n
}

// putSegment writes the control message that has a message cut into datagrams of a size, and returns its length.
func putSegment(b []byte, size int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&b[unix.CmsgLen(0)])) = uint16(size)
	return unix.CmsgSpace(2)
}

// getSegment returns the size of the datagrams that a message was made of, 0 if it is one. The control message is the only
// one that the socket asks for.
func getSegment(control *[controlLen / 8]uint64, n int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(control))
	if n < unix.CmsgLen(4) || h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(control)), controlLen)
	return int(*(*int32)(unsafe.Pointer(&b[unix.CmsgLen(0)])))
}

// probeOffloads finds out what a new socket can do, and has it do that.
func (e *endpoint) probeOffloads() {
	_ = control(e.raw, func(fd int) error {
		if _, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
			e.noSegment.Store(true)
		}
		e.gro = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
		return nil
	})
}

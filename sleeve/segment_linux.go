package sleeve

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxSegments = 64    // of one message; what every kernel with the offload takes
	maxRun      = 65000 // bytes in all of them
)

var errNoChecksums = errors.New("the network device does not compute checksums")

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
	segment := e.noSegment.Load() == nil
	n, err := w.writeOnce(e, msgs, segment)
	if segment && w.counts[0] > 1 && (err == unix.EIO || err == unix.EINVAL) {
		// EIO: the device cannot compute checksums, and so cannot cut. EINVAL: the segments are too big for the path, which
		// a datagram by itself says better.
		if err == unix.EIO {
			e.noSegment.Store(&errNoChecksums)
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
	n += putClass(control[n:], m.Class, m.Remote.Addr())
	if pieces > 1 {
		n += putNumber(control[n:], unix.SOL_UDP, unix.UDP_SEGMENT, len(m.Data), 2)
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
		if len(m.Data) > size || len(m.Data) == 0 || total > maxRun || m.Remote != first.Remote ||
			m.Local != first.Local || m.Class != first.Class {
			break
		}
		if len(m.Data) < size {
			return n + 1 // the last may be shorter
		}
	}
	return n
}

// putNumber writes a control message with a number of 2 or 4 bytes, and returns its length.
func putNumber(b []byte, level, kind int32, value, size int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	if data := unsafe.Pointer(&b[unix.CmsgLen(0)]); size == 2 {
		*(*uint16)(data) = uint16(value)
	} else {
		*(*int32)(data) = int32(value)
	}
	return unix.CmsgSpace(size)
}

// putClass writes the control message that sets the traffic class of a datagram, and returns its length.
func putClass(b []byte, class uint8, remote netip.Addr) int {
	switch {
	case class == 0:
		return 0
	case remote.Unmap().Is4():
		return putNumber(b, unix.IPPROTO_IP, unix.IP_TOS, int(class), 4)
	default:
		return putNumber(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(class), 4)
	}
}

// getControl reads the control messages of what was received: the size of the datagrams that it was made of, 0 if it is one,
// and their traffic class.
func getControl(b []byte) (segment int, class uint8) {
	for len(b) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
		if uint64(h.Len) < uint64(unix.CmsgLen(0)) || uint64(h.Len) > uint64(len(b)) {
			break
		}
		data := b[unix.CmsgLen(0):h.Len]
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			class = data[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			class = uint8(binary.NativeEndian.Uint32(data))
		}
		b = b[min(unix.CmsgSpace(len(data)), len(b)):]
	}
	return segment, class
}

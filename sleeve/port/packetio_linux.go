package port

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	packetBatch = 32
	auxLen      = 20 // struct tpacket_auxdata
	auxWords    = (unix.SizeofCmsghdr + auxLen + 7) / 8
	auxSpace    = auxWords * 8
	auxVLAN     = 1 << 4 // TP_STATUS_VLAN_VALID
	auxTPID     = 1 << 6 // TP_STATUS_VLAN_TPID_VALID
)

// mmsghdr is what recvmmsg and sendmmsg take: struct mmsghdr of the kernel.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// mmsg makes the system call; done is false if that would have blocked.
func mmsg(trap, fd uintptr, headers []mmsghdr) (n int, errno syscall.Errno, done bool) {
	for {
		r, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, 0, false
		case 0:
			return int(r), 0, true
		default:
			return 0, errno, true
		}
	}
}

// packetReader reads packets in batches and hands out their frames.
type packetReader struct {
	headers [packetBatch]mmsghdr
	iovecs  [packetBatch]unix.Iovec
	packets [packetBatch][]byte
	names   [packetBatch]unix.RawSockaddrLinklayer
	aux     [packetBatch][auxWords]uint64
	got     int // packets read
	next    int // of them, the next to hand out

	unpack unpacker
	bufs   [][]byte
	sizes  []int
	n      int
	err    error
	poll   func(fd uintptr) bool
}

func (r *packetReader) init(c *counters) {
	r.unpack, r.poll = newUnpacker(c), r.fill
	for i := range r.packets {
		r.packets[i] = make([]byte, maxPacket)
		r.iovecs[i].Base = &r.packets[i][0]
		r.iovecs[i].SetLen(maxPacket)
	}
}

func (r *packetReader) read(raw syscall.RawConn, bufs [][]byte, sizes []int) (int, error) {
	r.bufs, r.sizes, r.n, r.err = bufs, sizes, 0, nil
	err := raw.Read(r.poll)
	r.bufs, r.sizes = nil, nil
	if err == nil {
		err = r.err
	}
	if r.n > 0 {
		return r.n, nil
	}
	return 0, err
}

// fill hands out what has been read, and reads again, until the buffers are full or there is nothing left; false means that
// there was nothing at all.
func (r *packetReader) fill(fd uintptr) bool {
	for {
		for r.next < r.got && r.unpack.empty() {
			r.startPacket(r.next)
			r.next++
		}
		if r.n = r.unpack.fill(r.bufs, r.sizes, r.n); r.n == len(r.bufs) {
			return true
		}
		if r.next < r.got || !r.unpack.empty() {
			continue
		}
		if !r.receive(fd) {
			return r.n > 0
		}
		if r.err != nil {
			return true
		}
	}
}

// receive reads packets. The error of an interface that went down comes once.
func (r *packetReader) receive(fd uintptr) bool {
	for i := range r.headers {
		h := &r.headers[i].hdr
		*h = unix.Msghdr{Iov: &r.iovecs[i], Name: (*byte)(unsafe.Pointer(&r.names[i])), Namelen: unix.SizeofSockaddrLinklayer}
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&r.aux[i]))
		h.SetControllen(auxSpace)
	}
	n, errno, done := mmsg(unix.SYS_RECVMMSG, fd, r.headers[:])
	r.got, r.next = n, 0
	if errno != 0 {
		r.err = os.NewSyscallError("recvmmsg", errno)
	}
	return done
}

// startPacket begins to hand out one packet.
func (r *packetReader) startPacket(i int) {
	if r.names[i].Pkttype == unix.PACKET_OUTGOING {
		return
	}
	r.unpack.start(r.packets[i][:min(int(r.headers[i].len), maxPacket)])
	if tag, ok := r.tag(i); ok {
		r.unpack.setTag(tag)
	}
}

// tag returns the VLAN tag that the kernel took out of a packet.
func (r *packetReader) tag(i int) (tag [vlanTag]byte, ok bool) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&r.aux[i]))
	if int(r.headers[i].hdr.Controllen) < unix.CmsgLen(auxLen) || h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA {
		return tag, false
	}
	data := unsafe.Slice((*byte)(unsafe.Pointer(&r.aux[i])), auxSpace)[unix.CmsgLen(0):]
	status := binary.NativeEndian.Uint32(data)
	tpid := uint16(unix.ETH_P_8021Q)
	if status&auxTPID != 0 {
		tpid = binary.NativeEndian.Uint16(data[18:])
	}
	binary.BigEndian.PutUint16(tag[:], tpid)
	binary.BigEndian.PutUint16(tag[2:], binary.NativeEndian.Uint16(data[16:]))
	return tag, status&auxVLAN != 0
}

// packetWriter writes frames in batches, each behind a header that says that nothing is left to do.
type packetWriter struct {
	none    [vnetLen]byte
	headers [packetBatch]mmsghdr
	iovecs  [packetBatch][2]unix.Iovec
	frames  [][]byte
	refused uint64
	err     error
	put     func(fd uintptr)
}

func newPacketWriter() *packetWriter {
	w := new(packetWriter)
	w.put = w.writeAll
	return w
}

func (w *packetWriter) write(raw syscall.RawConn, frames [][]byte) error {
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
	for len(w.frames) > 0 {
		batch := w.frames[:min(len(w.frames), packetBatch)]
		for i, frame := range batch {
			iov := &w.iovecs[i]
			iov[0].Base, iov[1].Base = &w.none[0], unsafe.SliceData(frame)
			iov[0].SetLen(vnetLen)
			iov[1].SetLen(len(frame))
			w.headers[i].hdr = unix.Msghdr{Iov: &iov[0]}
			w.headers[i].hdr.SetIovlen(len(iov))
		}
		n, errno, done := mmsg(unix.SYS_SENDMMSG, fd, w.headers[:len(batch)])
		switch {
		case errno == unix.ENXIO || errno == unix.ENODEV: // the interface is gone
			w.err = os.NewSyscallError("sendmmsg", errno)
			return
		case errno != 0 || !done: // the first is not wanted
			n = 1
			w.refused++
		}
		w.frames = w.frames[n:]
	}
}

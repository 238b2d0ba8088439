package port

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
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

// packetSource receives packets in batches, each into a buffer, and what the kernel says of them.
type packetSource struct {
	counters *counters

	headers [packetBatch]mmsghdr
	iovecs  [packetBatch][2]unix.Iovec
	vnet    [packetBatch][vnetLen]byte
	names   [packetBatch]unix.RawSockaddrLinklayer
	aux     [packetBatch][auxWords]uint64
}

// into makes packet i land in a buffer.
func (s *packetSource) into(i int, buf []byte) {
	s.iovecs[i][1].Base = unsafe.SliceData(buf)
	s.iovecs[i][1].SetLen(len(buf))
}

// receive reads at most n packets. done is false if there are none now. The error of an interface that went down comes once,
// and so does EINVAL, for a super-frame of a kind that the header in front of it has no words for: the kernel has dropped it.
func (s *packetSource) receive(fd uintptr, n int) (got int, err error, done bool) {
	for i := range s.headers[:n] {
		h := &s.headers[i].hdr
		s.iovecs[i][0].Base = &s.vnet[i][0]
		s.iovecs[i][0].SetLen(vnetLen)
		*h = unix.Msghdr{Iov: &s.iovecs[i][0], Name: (*byte)(unsafe.Pointer(&s.names[i])), Namelen: unix.SizeofSockaddrLinklayer}
		h.SetIovlen(len(s.iovecs[i]))
		h.Control = (*byte)(unsafe.Pointer(&s.aux[i]))
		h.SetControllen(auxSpace)
	}
	got, errno, done := mmsg(unix.SYS_RECVMMSG, fd, s.headers[:n])
	if errno == unix.EINVAL {
		s.counters.malformed.Add(1)
	}
	if errno != 0 {
		err = os.NewSyscallError("recvmmsg", errno)
	}
	return got, err, done
}

// size returns the length of the frame of packet i, negative if it has none. cut tells that its buffer was too small.
func (s *packetSource) size(i int) (n int, cut bool) {
	h := &s.headers[i]
	return int(h.len) - vnetLen, h.hdr.Flags&unix.MSG_TRUNC != 0
}

// ours reports whether packet i is one that left this host.
func (s *packetSource) ours(i int) bool { return s.names[i].Pkttype == unix.PACKET_OUTGOING }

// tag returns the VLAN tag that the kernel took out of packet i.
func (s *packetSource) tag(i int) (tag [vlanTag]byte, ok bool) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.aux[i]))
	if int(s.headers[i].hdr.Controllen) < unix.CmsgLen(auxLen) || h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA {
		return tag, false
	}
	data := unsafe.Slice((*byte)(unsafe.Pointer(&s.aux[i])), auxSpace)[unix.CmsgLen(0):]
	status := binary.NativeEndian.Uint32(data)
	tpid := uint16(unix.ETH_P_8021Q)
	if status&auxTPID != 0 {
		tpid = binary.NativeEndian.Uint16(data[18:])
	}
	binary.BigEndian.PutUint16(tag[:], tpid)
	binary.BigEndian.PutUint16(tag[2:], binary.NativeEndian.Uint16(data[16:]))
	return tag, status&auxVLAN != 0
}

// packetReader reads packets in batches and hands out their frames.
type packetReader struct {
	source  packetSource
	packets [packetBatch][]byte
	got     int // packets read
	next    int // of them, the next to hand out

	unpack unpacker
	bufs   [][]byte
	sizes  []int
	n      int
	err    error
	poll   func(fd uintptr) bool
}

func newPacketReader(c *counters) *packetReader {
	r := &packetReader{unpack: newUnpacker(c)}
	r.source.counters, r.poll = c, r.fill
	for i := range r.packets {
		r.packets[i] = make([]byte, maxPacket)
		r.source.into(i, r.packets[i])
	}
	return r
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
		if r.handOut(); r.n == len(r.bufs) {
			return true
		}
		var done bool
		r.got, r.err, done = r.source.receive(fd, packetBatch)
		r.next = 0
		if !done {
			return r.n > 0
		}
		if r.err != nil {
			return true
		}
	}
}

// handOut hands out what has been read, until the buffers are full or nothing is left of it.
func (r *packetReader) handOut() {
	for r.n < len(r.bufs) && !r.empty() {
		if r.unpack.empty() {
			r.startPacket(r.next)
			r.next++
		}
		r.n = r.unpack.fill(r.bufs, r.sizes, r.n)
	}
}

// empty reports whether all that was read is handed out.
func (r *packetReader) empty() bool { return r.next == r.got && r.unpack.empty() }

// startPacket begins to hand out one packet.
func (r *packetReader) startPacket(i int) {
	if r.source.ours(i) {
		return
	}
	n, cut := r.source.size(i)
	switch {
	case n < 0:
		r.unpack.counters.malformed.Add(1)
		return
	case cut:
		r.unpack.counters.tooLong.Add(1)
		return
	}
	r.unpack.startFrame(r.source.vnet[i][:], r.packets[i][:n])
	if tag, ok := r.source.tag(i); ok {
		r.unpack.setTag(tag)
	}
}

// adopt takes a copy of packets that another reader has read, from the first on.
func (r *packetReader) adopt(from *packetDirect, first, got int) {
	r.source = from.source
	clear(r.source.iovecs[:])
	for i := first; i < got; i++ {
		copy(r.packets[i], from.frames[i].Data)
	}
	r.next, r.got = first, got
}

// handOutFrames is handOut for the buffers of frames. It returns how many it filled.
func (r *packetReader) handOutFrames(frames []overlay.Frame) int {
	if len(r.sizes) < len(frames) {
		r.bufs, r.sizes = make([][]byte, len(frames)), make([]int, len(frames))
	}
	r.bufs, r.n = r.bufs[:len(frames)], 0
	for i := range frames {
		r.bufs[i] = frames[i].Data
	}
	r.handOut()
	clear(r.bufs)
	for i := range frames[:r.n] {
		frames[i].Data, frames[i].Segments = frames[i].Data[:r.sizes[i]], overlay.Segments{}
	}
	return r.n
}

// packetDirect reads frames, super-frames among them, right into the buffers of the caller.
type packetDirect struct {
	source   packetSource
	counters *counters
	rest     *packetReader // has the rest of a batch, from a packet on that has to be cut; made when it is needed
	frames   []overlay.Frame
	n        int
	err      error
	poll     func(fd uintptr) bool
}

func newPacketDirect(c *counters) *packetDirect {
	r := &packetDirect{counters: c}
	r.source.counters, r.poll = c, r.fill
	return r
}

func (r *packetDirect) read(raw syscall.RawConn, frames []overlay.Frame) (int, error) {
	r.frames, r.n, r.err = frames, 0, nil
	err := raw.Read(r.poll)
	r.frames = nil
	for i := range r.source.iovecs {
		r.source.iovecs[i][1].Base = nil
	}
	if err == nil {
		err = r.err
	}
	if r.n > 0 {
		return r.n, nil
	}
	return 0, err
}

// fill reads until there is a frame; false means that there is nothing more.
func (r *packetDirect) fill(fd uintptr) bool {
	for r.n == 0 {
		if r.rest != nil && !r.rest.empty() {
			r.n = r.rest.handOutFrames(r.frames)
			continue
		}
		batch := min(len(r.frames), packetBatch)
		for i := range batch {
			r.source.into(i, r.frames[i].Data)
		}
		got, err, done := r.source.receive(fd, batch)
		if !done {
			return false
		}
		r.takeAll(got)
		r.err = err
		if err != nil {
			return true
		}
	}
	return true
}

// takeAll takes what was read.
func (r *packetDirect) takeAll(got int) {
	for i := range got {
		if !r.take(i) {
			r.cut(i, got)
			return
		}
	}
}

// cut leaves a packet and what came behind it to a reader that cuts. That is as good for the flows whose packets need it, and
// rare for others.
func (r *packetDirect) cut(first, got int) {
	if r.rest == nil {
		r.rest = newPacketReader(r.counters)
	}
	r.rest.adopt(r, first, got)
}

// take makes packet i the next frame, unless it is not to be handed over. Their buffers trade places. It returns false for a
// super-frame that is not what it is said to be, unless it is looked at more closely.
func (r *packetDirect) take(i int) bool {
	if r.source.ours(i) {
		return true
	}
	data := r.frames[i].Data
	n, cut := r.source.size(i)
	tag, tagged := r.source.tag(i)
	if tagged {
		cut = cut || n+vlanTag > len(data)
	}
	switch {
	case n < 0:
		r.counters.malformed.Add(1)
		return true
	case cut:
		r.counters.tooLong.Add(1)
		return true
	}
	s, _, err := describe(r.source.vnet[i][:], data[:n])
	switch {
	case err != nil && s.Protocol != 0:
		return false
	case err != nil:
		r.counters.malformed.Add(1)
		return true
	}
	if tagged {
		insertTag(data, n, tag)
		n += vlanTag
		if s.Protocol != 0 {
			s.Transport += vlanTag
		}
	}
	r.frames[i].Data = r.frames[r.n].Data
	r.frames[r.n].Data, r.frames[r.n].Segments = data[:n], s
	r.n++
	return true
}

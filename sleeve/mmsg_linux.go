package sleeve

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchMax = 64
	// room for the source address of a datagram, the larger of the two families, for the size of segments, and for the class
	sourceLen  = (unix.SizeofCmsghdr + unix.SizeofInet6Pktinfo + 7) &^ 7
	numberLen  = (unix.SizeofCmsghdr + 4 + 7) &^ 7
	controlLen = sourceLen + 2*numberLen
)

// mmsghdr is what recvmmsg and sendmmsg take: struct mmsghdr of the kernel.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// batch is the memory of one recvmmsg or sendmmsg call.
type batch struct {
	headers [batchMax]mmsghdr
	iovecs  [batchMax]unix.Iovec
	names   [batchMax]unix.RawSockaddrInet6
	control [batchMax][controlLen / 8]uint64

	n     int // headers in use
	done  int
	errno syscall.Errno
}

// point points iovec i at its data.
func (b *batch) point(i int, data []byte) {
	b.iovecs[i].Base = unsafe.SliceData(data)
	b.iovecs[i].SetLen(len(data))
}

// prepare makes header i one for n iovecs from first on.
func (b *batch) prepare(i, first, n int) *unix.Msghdr {
	h := &b.headers[i].hdr
	*h = unix.Msghdr{Iov: &b.iovecs[first], Name: (*byte)(unsafe.Pointer(&b.names[i])), Namelen: unix.SizeofSockaddrInet6}
	h.SetIovlen(n)
	return h
}

// call makes the system call; it returns false if that would have blocked.
func (b *batch) call(trap, fd, flags uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&b.headers[0])), uintptr(b.n), flags, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		b.done, b.errno = int(n), errno
		return true
	}
}

// result returns how many messages went, and lets go of them.
func (b *batch) result() (int, error) {
	for i := range b.iovecs {
		b.iovecs[i].Base = nil
	}
	if b.errno != 0 {
		return 0, b.errno
	}
	return b.done, nil
}

// batchReader reads from one socket.
type batchReader struct {
	batch
	call func(fd uintptr) bool
}

func newBatchReader() *batchReader {
	r := new(batchReader)
	r.call = func(fd uintptr) bool { return r.batch.call(unix.SYS_RECVMMSG, fd, unix.MSG_DONTWAIT) }
	return r
}

func (r *batchReader) read(raw syscall.RawConn, msgs []Message) (int, error) {
	r.n = min(len(msgs), batchMax)
	for i := range r.n {
		r.point(i, msgs[i].Data[:cap(msgs[i].Data)])
		h := r.prepare(i, i, 1)
		h.Control = (*byte)(unsafe.Pointer(&r.control[i]))
		h.SetControllen(controlLen)
	}
	if err := raw.Read(r.call); err != nil {
		return 0, err
	}
	n, err := r.result()
	for i := range n {
		m := &msgs[i]
		m.Data = m.Data[:min(int(r.headers[i].len), cap(m.Data))]
		m.Remote = fromSockaddr(&r.names[i])
		control := unsafe.Slice((*byte)(unsafe.Pointer(&r.control[i])), controlLen)
		m.Segment, m.Class = getControl(control[:min(int(r.headers[i].hdr.Controllen), controlLen)])
	}
	return n, err
}

// putSockaddr writes a remote address for a socket of either family and returns its length.
func putSockaddr(sa *unix.RawSockaddrInet6, remote netip.AddrPort, v6 bool) uint32 {
	if !v6 {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		*sa4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: remote.Addr().Unmap().As4()}
		putPort(&sa4.Port, remote.Port())
		return unix.SizeofSockaddrInet4
	}
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: remote.Addr().As16(), Scope_id: scope(remote.Addr())}
	putPort(&sa.Port, remote.Port())
	return unix.SizeofSockaddrInet6
}

// putPort writes a port in network order.
func putPort(to *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(to))[:], port)
}

func fromSockaddr(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	addr := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 {
		addr = addr.WithZone(strconv.Itoa(int(sa.Scope_id)))
	}
	return netip.AddrPortFrom(addr, port)
}

// scope returns the zone of a link-local address as the system has it: the number of an interface, 0 if there is none.
func scope(addr netip.Addr) uint32 {
	if addr.Zone() == "" {
		return 0
	}
	n, _ := strconv.ParseUint(addr.Zone(), 10, 32)
	return uint32(n)
}

// putSource writes the control message that sets the source address of a datagram and returns its length, 0 if there is
// none to set.
func putSource(b []byte, local, remote netip.Addr) int {
	if !local.IsValid() || local.Is4() != remote.Is4() {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	data := unsafe.Pointer(&b[unix.CmsgLen(0)])
	if local.Is4() {
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		*(*unix.Inet4Pktinfo)(data) = unix.Inet4Pktinfo{Spec_dst: local.As4()}
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	*(*unix.Inet6Pktinfo)(data) = unix.Inet6Pktinfo{Addr: local.As16(), Ifindex: scope(local)}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

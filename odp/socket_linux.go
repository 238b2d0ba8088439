package odp

import (
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxReceive is how many datagrams one system call receives.
const maxReceive = 64

// mmsghdr is struct mmsghdr of <sys/socket.h>.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// kernelSocket is a netlink socket registered with the runtime's poller. Its functions for the poller are made once, so that
// sending and receiving allocate nothing.
type kernelSocket struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	port uint32

	headers [maxReceive]mmsghdr
	iovecs  [maxReceive]unix.Iovec
	want    int
	got     int
	recvErr unix.Errno
	receive func(fd uintptr) bool
	try     func(fd uintptr)

	out     []byte
	sendErr error
	write   func(fd uintptr) bool
}

// DialKernel opens a socket to this machine's kernel. It is what a [Config] without Dial uses.
func DialKernel(o SocketOptions) (Socket, error) {
	conn, err := dialNetNS(o.Protocol, o.NetNS)
	if err != nil {
		return nil, err
	}
	s, err := newKernelSocket(conn, o)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func newKernelSocket(conn *netlink.Conn, o SocketOptions) (*kernelSocket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Kernels without these two merely answer with more bytes, or fewer words.
	for _, opt := range []netlink.ConnOption{netlink.CapAcknowledge, netlink.ExtendedAcknowledge} {
		_ = conn.SetOption(opt, true)
	}
	if o.Silent {
		if err := conn.SetOption(netlink.NoENOBUFS, true); err != nil {
			return nil, err
		}
	}
	if o.ReceiveBuffer > 0 {
		if err := conn.SetReadBuffer(o.ReceiveBuffer); err != nil {
			return nil, err
		}
	}
	s := &kernelSocket{conn: conn, raw: raw, port: conn.PID()}
	s.receive, s.write = s.receiveFrom, s.writeTo
	s.try = func(fd uintptr) { s.receiveFrom(fd) }
	return s, nil
}

func (s *kernelSocket) Port() uint32            { return s.port }
func (s *kernelSocket) Join(group uint32) error { return closedError(s.conn.JoinGroup(group)) }

func (s *kernelSocket) SetDeadline(t time.Time) error {
	if s.conn.SetDeadline(t) != nil {
		return net.ErrClosed // nothing else is wrong with a deadline
	}
	return nil
}

func (s *kernelSocket) Close() error {
	if err := s.conn.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (s *kernelSocket) Send(messages []byte) error {
	s.out = messages
	err := s.raw.Write(s.write)
	s.out = nil
	if err != nil {
		return closedError(err)
	}
	return s.sendErr
}

func (s *kernelSocket) writeTo(fd uintptr) bool {
	for {
		_, s.sendErr = unix.Write(int(fd), s.out)
		if s.sendErr != unix.EINTR {
			return s.sendErr != unix.EAGAIN
		}
	}
}

func (s *kernelSocket) Receive(bufs [][]byte, lengths []int) (int, error) {
	s.want = min(len(bufs), len(lengths), maxReceive)
	for i, b := range bufs[:s.want] {
		s.iovecs[i].Base = unsafe.SliceData(b)
		s.iovecs[i].SetLen(len(b))
		s.headers[i].hdr = unix.Msghdr{Iov: &s.iovecs[i]}
		s.headers[i].hdr.SetIovlen(1)
	}
	err := s.raw.Read(s.receive)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = s.receiveLate(err)
	}
	runtime.KeepAlive(bufs)
	for i := range s.want {
		s.iovecs[i].Base = nil
	}
	if err != nil {
		return 0, closedError(err)
	}
	if s.recvErr != 0 {
		return 0, s.recvErr
	}
	for i := range s.got {
		lengths[i] = int(s.headers[i].len)
	}
	return s.got, nil
}

// receiveLate receives what there is after a deadline. The poller looks at the clock only, and not at the socket.
func (s *kernelSocket) receiveLate(late error) error {
	if err := s.raw.Control(s.try); err != nil {
		return err
	}
	if s.recvErr == unix.EAGAIN {
		return late
	}
	return nil
}

func (s *kernelSocket) receiveFrom(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.headers)), uintptr(s.want),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		s.got, s.recvErr = int(n), errno
		if errno != 0 {
			s.got = 0
		}
		if errno != unix.EINTR {
			return errno != unix.EAGAIN
		}
	}
}

// closedError makes what the poller says of a closed descriptor what it says of a closed connection.
func closedError(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
		return net.ErrClosed
	}
	return err
}

// kernelRelease returns the release of the running kernel, or "".
func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

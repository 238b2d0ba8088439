package sleeve

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const socketBuffer = 4 << 20 // bytes; the kernel may grant less

// endpoint is one of the sockets of a Socket.
type endpoint struct {
	conn   *net.UDPConn
	raw    syscall.RawConn
	v6     bool
	reader *batchReader

	noSegment atomic.Pointer[error] // why datagrams are not sent many in one; nil: they are
	noGRO     error                 // why they do not arrive so
	noClass   error                 // why their traffic class is not known
}

// openEndpoint opens a UDP socket. One that joins may use a port that an endpoint of ours already has; the others let it do
// so only once they are open themselves, so that the port is known to be free.
func openEndpoint(addr netip.AddrPort, discover int, join bool) (*endpoint, error) {
	e := &endpoint{v6: addr.Addr().Is6()}
	network := "udp4"
	if e.v6 {
		network = "udp"
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return setOptions(fd, e.v6, discover, join) })
	}}
	conn, err := config.ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	e.conn = conn.(*net.UDPConn)
	if e.raw, err = e.conn.SyscallConn(); err == nil && !join {
		err = control(e.raw, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}
	if err != nil {
		_ = e.conn.Close()
		return nil, err
	}
	e.reader = newBatchReader()
	e.probeOffloads()
	return e, nil
}

// local returns the address the endpoint has, written as it was asked for.
func (e *endpoint) local(asked netip.Addr) netip.AddrPort {
	bound := e.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(asked, bound.Port())
}

// control runs f on the descriptor of a socket.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func setOptions(fd int, v6 bool, discover int, join bool) error {
	if join {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("share port: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover); err != nil {
		return fmt.Errorf("set don't-fragment: %w", err)
	}
	if v6 { // the values of the two families agree
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, discover); err != nil {
			return fmt.Errorf("set don't-fragment: %w", err)
		}
	}
	for _, option := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], socketBuffer) != nil { // not privileged
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], socketBuffer)
		}
	}
	return nil
}

// probeOffloads finds out what a new socket can do, and has it do that.
func (e *endpoint) probeOffloads() {
	_ = control(e.raw, func(fd int) error {
		if _, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
			err = os.NewSyscallError("UDP_SEGMENT", err)
			e.noSegment.Store(&err)
		}
		e.noGRO = os.NewSyscallError("UDP_GRO", unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1))
		e.noClass = os.NewSyscallError("IP_RECVTOS", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1))
		if e.v6 && e.noClass == nil {
			e.noClass = os.NewSyscallError("IPV6_RECVTCLASS", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1))
		}
		return nil
	})
}

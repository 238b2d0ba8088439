package sleeve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const socketBuffer = 4 << 20 // bytes; the kernel may grant less

var _ Conn = (*Socket)(nil)

// Socket is the UDP socket of an overlay: two sockets on one port, one for each channel, because the don't-fragment bit is
// a property of a socket. The kernel spreads remotes over them, so there are two queues. Other processes of the same user
// can join the port only if they ask for SO_REUSEPORT, which Listen does not do to begin with: a second Listen fails.
type Socket struct {
	local     netip.AddrPort
	endpoints [2]*endpoint // indexed by crypto.Channel
	mtu       mtuProbe
	writers   sync.Pool // of *batchWriter
}

// Listen opens the socket on an address and port: usually the unspecified address, or none, and the number of the mesh's
// TCP port; port 0 takes any that is free. With no address it listens on IPv6 and IPv4 where the system has both. The error
// wraps [syscall.EADDRINUSE] if the port is taken.
func Listen(addr netip.AddrPort) (*Socket, error) {
	s, err := listen(addr)
	if !addr.Addr().IsValid() && errors.Is(err, unix.EAFNOSUPPORT) {
		s, err = listen(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()))
	}
	if err != nil {
		return nil, fmt.Errorf("sleeve: listen on %s: %w", addr, err)
	}
	return s, nil
}

func listen(addr netip.AddrPort) (_ *Socket, err error) {
	if !addr.Addr().IsValid() {
		addr = netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	s := &Socket{}
	s.writers.New = func() any { return newBatchWriter() }
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	first, err := openEndpoint(addr, unix.IP_PMTUDISC_DONT, false)
	if err != nil {
		return nil, err
	}
	s.endpoints[0] = first
	s.local = first.local(addr.Addr())
	if s.endpoints[1], err = openEndpoint(s.local, unix.IP_PMTUDISC_DO, true); err != nil {
		return nil, err
	}
	return s, s.mtu.open(addr.Addr().Is6())
}

// endpoint is one of the two sockets.
type endpoint struct {
	conn   *net.UDPConn
	raw    syscall.RawConn
	v6     bool
	reader *batchReader

	noSegment atomic.Bool // datagrams are not sent many in one
	gro       bool        // they may arrive so
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

// Queues implements [Conn].
func (s *Socket) Queues() int { return len(s.endpoints) }

// ReadBatch implements [Conn].
func (s *Socket) ReadBatch(queue int, msgs []Message) (int, error) {
	e := s.endpoints[queue]
	n, err := e.reader.read(e.raw, msgs)
	if err != nil {
		return 0, fmt.Errorf("sleeve: read: %w", err)
	}
	return n, nil
}

// WriteBatch implements [Conn].
func (s *Socket) WriteBatch(msgs []Message) (int, error) {
	if len(msgs) == 0 {
		return 0, nil
	}
	e, run := s.endpoints[0], 1
	if msgs[0].DontFragment {
		e = s.endpoints[1]
	}
	for run < len(msgs) && msgs[run].DontFragment == msgs[0].DontFragment {
		run++
	}
	w := s.writers.Get().(*batchWriter)
	n, err := w.write(e, msgs[:run])
	s.writers.Put(w)
	if err != nil {
		return n, fmt.Errorf("sleeve: write: %w", err)
	}
	return n, nil
}

// PathMTU implements [Conn].
func (s *Socket) PathMTU(remote netip.Addr) (int, error) {
	mtu, err := s.mtu.ask(remote.Unmap())
	if err != nil {
		return 0, fmt.Errorf("sleeve: path MTU to %s: %w", remote, err)
	}
	return mtu, nil
}

// LocalAddr implements [Conn].
func (s *Socket) LocalAddr() netip.AddrPort { return s.local }

// Offloads tells which offloads of the system the socket uses, and why not the others.
func (s *Socket) Offloads() map[string]string {
	out := map[string]string{"UDP_SEGMENT": "in use", "UDP_GRO": "in use"}
	if s.endpoints[1].noSegment.Load() {
		out["UDP_SEGMENT"] = "not offered by the kernel or the network device"
	}
	if !s.endpoints[1].gro {
		out["UDP_GRO"] = "not offered by the kernel"
	}
	return out
}

// Close implements [Conn].
func (s *Socket) Close() error {
	for _, e := range s.endpoints {
		if e != nil {
			if err := e.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("sleeve: close: %w", err)
			}
		}
	}
	s.mtu.close()
	return nil
}

// mtuProbe is a socket that is connected to whom a path MTU is asked for, and never sends. It is kept because one opened
// later might belong to another network namespace.
type mtuProbe struct {
	mu   sync.Mutex // guards what follows
	fd   int
	live bool
	v6   bool
}

func (p *mtuProbe) open(v6 bool) error {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil && v6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fd, p.live, p.v6 = fd, fd >= 0, v6
	return err
}

func (p *mtuProbe) ask(remote netip.Addr) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live {
		return 0, net.ErrClosed
	}
	const port = 9 // any; nothing is sent
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: remote.As16(), Port: port}
	if !p.v6 {
		if !remote.Is4() {
			return 0, unix.EAFNOSUPPORT
		}
		sa = &unix.SockaddrInet4{Addr: remote.As4(), Port: port}
	}
	if err := unix.Connect(p.fd, sa); err != nil {
		return 0, err
	}
	if remote.Is4() {
		return unix.GetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_MTU)
	}
	return unix.GetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
}

func (p *mtuProbe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live {
		p.live = false
		_ = unix.Close(p.fd)
	}
}

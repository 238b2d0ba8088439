package sleeve

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const maxEndpoints = 8

var _ ClassConn = (*Socket)(nil)

// Socket is the UDP socket of an overlay: several sockets on one port, the first for channel N, the others for channel D,
// because the don't-fragment bit is a property of a socket. The kernel spreads remotes over them, and each is a queue: there
// are as many as processors, from 2 to 8. Other processes of the same user can join the port only if they ask for
// SO_REUSEPORT, which Listen does not do to begin with: a second Listen fails.
type Socket struct {
	local     netip.AddrPort
	endpoints []*endpoint
	mtu       mtuProbe
	writers   sync.Pool // of *batchWriter
}

// Listen opens the socket on an address and port: usually the unspecified address, or none, and the number of the mesh's
// TCP port; port 0 takes any that is free. With no address, as in the zero AddrPort, it listens on IPv6 and IPv4 where the system
// has both; in mesh.Config.Listen the zero AddrPort means not to listen. The error wraps [syscall.EADDRINUSE] if the port is
// taken.
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
	s.endpoints = append(s.endpoints, first)
	s.local = first.local(addr.Addr())
	for range min(max(runtime.GOMAXPROCS(0), 2), maxEndpoints) - 1 {
		e, err := openEndpoint(s.local, unix.IP_PMTUDISC_DO, true)
		if err != nil {
			return nil, err
		}
		s.endpoints = append(s.endpoints, e)
	}
	return s, s.mtu.open(addr.Addr().Is6())
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
		e = s.forRemote(msgs[0].Remote.Addr())
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

// forRemote returns the endpoint for datagrams of channel D to a remote.
func (s *Socket) forRemote(remote netip.Addr) *endpoint {
	b := remote.As16()
	return s.endpoints[1+int(b[len(b)-1])%(len(s.endpoints)-1)]
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

// ReadsClass implements [ClassConn].
func (s *Socket) ReadsClass() bool { return s.endpoints[0].noClass == nil }

// Offloads tells which offloads of the system the socket uses, and why not the others.
func (s *Socket) Offloads() map[string]string {
	state := func(why error) string {
		if why != nil {
			return "not in use: " + why.Error()
		}
		return "in use"
	}
	var noSegment error
	for _, e := range s.endpoints[1:] {
		if why := e.noSegment.Load(); why != nil {
			noSegment = *why
		}
	}
	first := s.endpoints[0]
	return map[string]string{
		"UDP_SEGMENT": state(noSegment), "UDP_GRO": state(first.noGRO), "ECN": state(first.noClass),
		"receive_queues": fmt.Sprint(len(s.endpoints)),
	}
}

// Close implements [Conn].
func (s *Socket) Close() error {
	for _, e := range s.endpoints {
		if err := e.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("sleeve: close: %w", err)
		}
	}
	s.mtu.close()
	return nil
}

package dnsserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Sockets are a UDP and a TCP socket on one address and port. They are safe for concurrent use.
type Sockets struct {
	udp *net.UDPConn
	tcp *net.TCPListener

	closeOnce sync.Once
	closeErr  error
}

// listenTries is how often Listen looks for a port that both protocols have free.
const listenTries = 16

// Listen opens both sockets on addr, an IP address and a port ("10.32.0.1:53", "[::1]:53", "0.0.0.0:53"). Port 0 picks one
// that is free for both.
func Listen(addr string) (*Sockets, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dnsserver: listen: want an IP address and a port: %w", err)
	}
	for try := 1; ; try++ {
		s, err := listen(ap)
		if err == nil {
			return s, nil
		}
		if ap.Port() != 0 || try == listenTries || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("dnsserver: %w", err)
		}
	}
}

func listen(ap netip.AddrPort) (*Sockets, error) {
	family := "" // the IPv6 wildcard stands for both families, that of IPv4 for itself
	if ap.Addr().Is4() {
		family = "4"
	}
	tcp, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(ap))
	if err != nil {
		return nil, err
	}
	port := tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	udp, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ap.Addr(), port)))
	if err != nil {
		_ = tcp.Close()
		return nil, err
	}
	if ap.Addr().IsUnspecified() {
		noteDestinations(udp)
	}
	return &Sockets{udp: udp, tcp: tcp}, nil
}

// noteDestinations asks the kernel to tell which of the host's addresses a datagram was sent to, so that the answer comes
// from there. One of the two families will refuse. Where the system cannot do it, it chooses the source itself.
func noteDestinations(udp *net.UDPConn) {
	_ = ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	_ = ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
}

// Addr returns the address of both sockets.
func (s *Sockets) Addr() netip.AddrPort {
	ap := s.tcp.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Close closes both. Calls that wait on them return errors that wrap [net.ErrClosed]. It is idempotent.
func (s *Sockets) Close() error {
	s.closeOnce.Do(func() { s.closeErr = errors.Join(s.udp.Close(), s.tcp.Close()) })
	return s.closeErr
}

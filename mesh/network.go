package mesh

import (
	"context"
	"net"
	"net/netip"
)

// Network is where a router's connections come from: TCP, or a simulation. It is safe for concurrent use. Addresses of its
// connections and listeners are of type *net.TCPAddr.
type Network interface {
	// Listen opens a listener. If the port is taken the error wraps [syscall.EADDRINUSE].
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	// Dial connects from a local address, or from any if that is invalid or unspecified. It returns when ctx ends.
	Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error)
	// Resolve returns the addresses of a host name, of both families: at least one if err is nil.
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// tcpNetwork is the real one.
type tcpNetwork struct{}

func (tcpNetwork) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
}

func (tcpNetwork) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{}
	if from.IsValid() && !from.IsUnspecified() && from.Is4() == to.Addr().Is4() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	return d.DialContext(ctx, "tcp", to.String())
}

func (tcpNetwork) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// addrPortOf returns the address of one end of a connection.
func addrPortOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

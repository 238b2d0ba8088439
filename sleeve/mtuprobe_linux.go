package sleeve

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// mtuProbe is a socket that is connected to the remote whose path MTU is asked for, and never sends. It is kept because one opened
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
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: remote.As16(), Port: port, ZoneId: scope(remote)}
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

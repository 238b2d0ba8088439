package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"github.com/overweave/overweave/internal/device"
)

// Namespace is a network of its own: a host, or a container behind one. It is safe for concurrent use.
type Namespace struct {
	name  string
	lab   *Lab
	netns *device.NetNS
}

// Host is a machine of a lab. It has a network of its own, but shares files and processes with all others.
type Host struct {
	*Namespace
	devices atomic.Int32
}

// Container adds a container to the host: a network namespace in which nothing is yet but the loopback device.
func (h *Host) Container(name string) (*Namespace, error) { return h.lab.namespace(name) }

// nextDevice returns a name for the host's next network device: eth0, eth1, and so on.
func (h *Host) nextDevice() string { return fmt.Sprintf("eth%d", h.devices.Add(1)-1) }

// Name returns the name that was given to it.
func (n *Namespace) Name() string { return n.name }

// Path returns a path by which other processes can open the namespace, as long as this process and the lab last.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.netns.Fd()) }

// Do runs fn on the calling goroutine, whose thread is inside meanwhile. Sockets that fn opens stay inside and can be used
// from anywhere; goroutines that it starts are outside. To start processes use [Namespace.Command].
func (n *Namespace) Do(fn func() error) error {
	if err := n.netns.Do(fn); err != nil {
		return fmt.Errorf("in %s: %w", n.name, err)
	}
	return nil
}

// DialContext connects from inside, like [net.Dialer.DialContext]. The address must be numeric: names would be looked up
// outside.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside, like [net.Listen], on a numeric address.
func (n *Namespace) Listen(network, address string) (ln net.Listener, err error) {
	err = n.Do(func() (err error) {
		ln, err = net.Listen(network, address)
		return err
	})
	return ln, err
}

// ListenPacket opens a datagram socket inside, like [net.ListenPacket], on a numeric address.
func (n *Namespace) ListenPacket(network, address string) (conn net.PacketConn, err error) {
	err = n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

package port

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	maxName   = unix.IFNAMSIZ - 1
	maxPacket = vnetLen + etherHeader + 2*vlanTag + 1<<16 // what the kernel hands over at once at most
)

// device is what both kinds of port are built on: a descriptor known to the runtime's poller, and a socket to ask about the
// interface, both in the network namespace in which the port was opened.
type device struct {
	name     string
	file     *os.File
	raw      syscall.RawConn
	inet     *os.File
	closed   atomic.Bool
	cut      atomic.Bool // the kernel did not take a super-frame
	counters counters
}

func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("bad interface name %q: want 1 to %d bytes", name, maxName)
	}
	return nil
}

// openInet opens a socket for questions about interfaces.
func openInet() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "inet"), nil
}

// open hands the descriptor, which has to be in non-blocking mode, to the runtime. It owns both from now on.
func (d *device) open(fd int, inet *os.File) (err error) {
	d.file, d.inet = os.NewFile(uintptr(fd), d.name), inet
	d.raw, err = d.file.SyscallConn()
	return err
}

// request does an ioctl that takes an interface by its name.
func request(inet *os.File, op uint, name string, set func(*unix.Ifreq)) (*unix.Ifreq, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	set(ifr)
	raw, err := inet.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), op, ifr) })
	return ifr, errors.Join(cerr, err)
}

// Name implements the port contract.
func (d *device) Name() string { return d.name }

// MTU implements the port contract. It is 0 if the interface is gone.
func (d *device) MTU() int {
	ifr, err := request(d.inet, unix.SIOCGIFMTU, d.name, func(*unix.Ifreq) {})
	if err != nil {
		return 0
	}
	return int(ifr.Uint32())
}

// Close implements the port contract.
func (d *device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return errors.Join(d.file.Close(), d.inet.Close())
}

// fail makes the error of an operation that ended with err.
func (d *device) fail(op string, err error) error {
	if d.closed.Load() {
		err = net.ErrClosed
	}
	return fmt.Errorf("port: %s %s: %w", op, d.name, err)
}

package port

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	tunPath = "/dev/net/tun"

	// What the device may leave to us; TUN_F_... of the kernel.
	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

var _ overlay.SegmentedPort = (*TAP)(nil)

// TAP is a TAP device. It implements [overlay.SegmentedPort], with any number of goroutines writing. The device exists as long as it
// is open.
type TAP struct {
	device
	reader   tapReader
	direct   tapDirect
	offloads string
	writers  sync.Pool // of *tapWriter
}

// OpenTAP makes a TAP device, sets its MTU, and sets it up. The error wraps [os.ErrNotExist] if the system has no TAP
// devices, and [os.ErrPermission] if they may not be used.
func OpenTAP(c TAPConfig) (*TAP, error) {
	t := &TAP{}
	t.name = c.Name
	if err := t.open(c); err != nil {
		return nil, fmt.Errorf("port: TAP device %s: %w", c.Name, err)
	}
	t.reader.init(&t.counters)
	t.direct.init(&t.counters)
	t.writers.New = func() any { return newTAPWriter() }
	return t, nil
}

func (t *TAP) open(c TAPConfig) error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	fd, err := openTun(c.Name)
	if err != nil {
		return err
	}
	t.offloads = setOffloads(fd)
	inet, err := openInet()
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	if err := errors.Join(setUp(inet, c), t.device.open(fd, inet)); err != nil {
		_ = t.file.Close()
		_ = inet.Close()
		return err
	}
	return nil
}

// openTun returns the descriptor of a new device, in non-blocking mode.
func openTun(name string) (fd int, err error) {
	fd, err = unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		err = &os.PathError{Op: "open", Path: tunPath, Err: err}
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) { // a node without the driver
			err = fmt.Errorf("%w: %w", os.ErrNotExist, err)
		}
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// setOffloads has the device leave to us what it can, and returns what that is. Old kernels have less; without any of it the
// kernel does the work before we read.
func setOffloads(fd int) string {
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP|offloadUDP) == nil {
		return "TCP and UDP"
	}
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP) == nil {
		return "TCP; UDP is not offered by the kernel"
	}
	_ = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0)
	return "not offered by the kernel"
}

func setUp(inet *os.File, c TAPConfig) error {
	if c.MTU != 0 {
		if _, err := request(inet, unix.SIOCSIFMTU, c.Name, func(r *unix.Ifreq) { r.SetUint32(uint32(c.MTU)) }); err != nil {
			return fmt.Errorf("set MTU to %d: %w", c.MTU, err)
		}
	}
	flags, err := request(inet, unix.SIOCGIFFLAGS, c.Name, func(*unix.Ifreq) {})
	if err == nil {
		up := flags.Uint16() | unix.IFF_UP
		_, err = request(inet, unix.SIOCSIFFLAGS, c.Name, func(r *unix.Ifreq) { r.SetUint16(up) })
	}
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// Status describes the port as it is now.
func (t *TAP) Status() Status {
	st := t.counters.status()
	st.Segmentation = t.offloads
	return st
}

// Read implements [overlay.Port].
func (t *TAP) Read(bufs [][]byte, sizes []int) (int, error) {
	if t.closed.Load() {
		return 0, t.fail("read", nil)
	}
	n, err := t.reader.read(t.raw, bufs, sizes)
	if err != nil {
		return 0, t.fail("read", err)
	}
	return n, nil
}

// Write implements [overlay.Port].
func (t *TAP) Write(frames [][]byte) error {
	w := t.writers.Get().(*tapWriter)
	for _, data := range frames {
		w.own = append(w.own, overlay.Frame{Data: data})
	}
	err := t.writeWith(w, w.own)
	clear(w.own)
	w.own = w.own[:0]
	t.writers.Put(w)
	return err
}

// ReadFrames implements [overlay.SegmentedPort]. It is not to be mixed with Read.
func (t *TAP) ReadFrames(frames []overlay.Frame) (int, error) {
	if t.closed.Load() {
		return 0, t.fail("read", nil)
	}
	n, err := t.direct.read(t.raw, frames)
	if err != nil {
		return 0, t.fail("read", err)
	}
	return n, nil
}

// WriteFrames implements [overlay.SegmentedPort].
func (t *TAP) WriteFrames(frames []overlay.Frame) error {
	w := t.writers.Get().(*tapWriter)
	err := t.writeWith(w, frames)
	t.writers.Put(w)
	return err
}

func (t *TAP) writeWith(w *tapWriter, frames []overlay.Frame) error {
	err := w.write(t.raw, frames)
	t.counters.refused.Add(w.refused)
	if err != nil {
		return t.fail("write", err)
	}
	return nil
}

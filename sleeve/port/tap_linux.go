package port

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	tunPath = "/dev/net/tun"

	// What the device may leave to us; TUN_F_... of the kernel.
	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

var _ overlay.Port = (*TAP)(nil)

// TAP is a TAP device. It implements [overlay.Port], with any number of goroutines writing. The device exists as long as it
// is open.
type TAP struct {
	device
	reader  tapReader
	writers sync.Pool // of *tapWriter
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
	// Old kernels have less; without any of it the kernel does the work before we read.
	for _, offload := range []int{offloadTCP | offloadUDP, offloadTCP, 0} {
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload) == nil {
			break
		}
	}
	return fd, nil
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
func (t *TAP) Status() Status { return t.counters.status() }

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
	err := w.write(t.raw, frames)
	t.counters.refused.Add(w.refused)
	t.writers.Put(w)
	if err != nil {
		return t.fail("write", err)
	}
	return nil
}

// tapReader reads packets one by one and hands out their frames.
type tapReader struct {
	unpack unpacker
	packet []byte
	bufs   [][]byte
	sizes  []int
	n      int
	err    error
	poll   func(fd uintptr) bool
}

func (r *tapReader) init(c *counters) {
	r.unpack, r.packet, r.poll = newUnpacker(c), make([]byte, maxPacket), r.fill
}

func (r *tapReader) read(raw syscall.RawConn, bufs [][]byte, sizes []int) (int, error) {
	r.bufs, r.sizes, r.n, r.err = bufs, sizes, 0, nil
	err := raw.Read(r.poll)
	r.bufs, r.sizes = nil, nil
	if r.n > 0 {
		return r.n, nil // an error comes again with the next call
	}
	if err == nil {
		err = r.err
	}
	return r.n, err
}

// fill reads until the buffers are full or there is nothing left; false means that there was nothing at all.
func (r *tapReader) fill(fd uintptr) bool {
	for {
		if r.n = r.unpack.fill(r.bufs, r.sizes, r.n); r.n == len(r.bufs) {
			return true
		}
		n, err := unix.Read(int(fd), r.packet)
		switch err {
		case nil:
			r.unpack.start(r.packet[:n])
		case unix.EINTR:
		case unix.EAGAIN:
			return r.n > 0
		default:
			r.err = os.NewSyscallError("read", err)
			return true
		}
	}
}

// tapWriter writes frames one by one, each behind a header that says that nothing is left to do.
type tapWriter struct {
	header  [vnetLen]byte
	iovecs  [2]unix.Iovec
	frames  [][]byte
	refused uint64
	err     error
	put     func(fd uintptr)
}

func newTAPWriter() *tapWriter {
	w := new(tapWriter)
	w.put = w.writeAll
	w.iovecs[0].Base = &w.header[0]
	w.iovecs[0].SetLen(vnetLen)
	return w
}

func (w *tapWriter) write(raw syscall.RawConn, frames [][]byte) error {
	w.frames, w.refused, w.err = frames, 0, nil
	err := raw.Control(w.put)
	w.frames, w.iovecs[1].Base = nil, nil
	return errors.Join(err, w.err)
}

func (w *tapWriter) writeAll(fd uintptr) {
	for _, frame := range w.frames {
		w.iovecs[1].Base = unsafe.SliceData(frame)
		w.iovecs[1].SetLen(len(frame))
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iovecs[0])), uintptr(len(w.iovecs)))
		switch errno {
		case 0:
		case unix.EBADFD: // the device was removed
			w.err = os.NewSyscallError("writev", errno)
			return
		default:
			w.refused++
		}
	}
}

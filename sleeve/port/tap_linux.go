package port

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	tunPath   = "/dev/net/tun"
	maxQueues = 16

	// What the device may leave to us; TUN_F_... of the kernel.
	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

var _ overlay.QueuedPort = (*TAP)(nil)

// TAP is a TAP device. It implements [overlay.QueuedPort], with any number of goroutines writing. The device exists as long as
// it is open.
type TAP struct {
	device
	reader   tapReader
	queues   []*tapQueue // the first is that of the device
	offloads map[string]string
	writers  sync.Pool // of *tapWriter
}

// tapQueue is one of the queues of a TAP device.
type tapQueue struct {
	file   *os.File
	raw    syscall.RawConn
	direct tapDirect
}

// OpenTAP makes a TAP device, sets its MTU, and sets it up. The error wraps [os.ErrNotExist] if the system has no TAP
// devices, and [os.ErrPermission] if they may not be used.
func OpenTAP(c TAPConfig) (*TAP, error) {
	t := &TAP{offloads: map[string]string{}}
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
	if c.Queues < 0 || c.Queues > maxQueues {
		return fmt.Errorf("%d queues: want at most %d", c.Queues, maxQueues)
	}
	inet, err := openInet()
	if err != nil {
		return err
	}
	if err = t.openQueues(c.Name, max(c.Queues, 1)); err == nil { // else the name may be that of another device
		err = setUp(inet, c)
	}
	if err != nil {
		for _, q := range t.queues {
			_ = q.file.Close()
		}
		_ = inet.Close()
		return err
	}
	t.file, t.raw, t.inet = t.queues[0].file, t.queues[0].raw, inet
	return nil
}

// openQueues opens the queues of a new device. If the kernel knows but one, one it is.
func (t *TAP) openQueues(name string, n int) error {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if n > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for i := range n {
		fd, err := openTun(name, flags)
		if errors.Is(err, unix.EINVAL) && i == 0 && n > 1 {
			t.offloads["queues"] = "1: the kernel has no more"
			return t.openQueues(name, 1)
		}
		if err != nil {
			return err
		}
		if i == 0 {
			setOffloads(fd, t.offloads)
		}
		q := &tapQueue{file: os.NewFile(uintptr(fd), name)}
		q.direct.init(&t.counters)
		t.queues = append(t.queues, q)
		if q.raw, err = q.file.SyscallConn(); err != nil {
			return err
		}
	}
	if t.offloads["queues"] == "" {
		t.offloads["queues"] = fmt.Sprint(n)
	}
	return nil
}

// openTun returns the descriptor of a device or of one more queue of it, in non-blocking mode.
func openTun(name string, flags uint16) (fd int, err error) {
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
		ifr.SetUint16(flags)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// setOffloads has the device leave to us what it can, and notes what that is. Old kernels have less; without any of it the
// kernel does the work before we read.
func setOffloads(fd int, offloads map[string]string) {
	const tcp, udp = "TCP segmentation", "UDP segmentation"
	offloads[tcp], offloads[udp] = inUse, inUse
	err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP|offloadUDP)
	if err == nil {
		return
	}
	offloads[udp] = "not in use: " + os.NewSyscallError("TUNSETOFFLOAD", err).Error()
	if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloadTCP); err != nil {
		offloads[tcp] = "not in use: " + os.NewSyscallError("TUNSETOFFLOAD", err).Error()
		_ = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0)
	}
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

// Close implements [overlay.Port].
func (t *TAP) Close() error {
	err := t.device.Close()
	for _, q := range t.queues[1:] {
		if cerr := q.file.Close(); !errors.Is(cerr, os.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// Status describes the port as it is now.
func (t *TAP) Status() Status {
	st := t.counters.status()
	st.Offloads = maps.Clone(t.offloads)
	if t.cut.Load() {
		st.Offloads["writing"] = "the kernel does not take all kinds of super-frames"
	}
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

// ReadFrames implements [overlay.SegmentedPort]: it reads the first queue. It is not to be mixed with Read.
func (t *TAP) ReadFrames(frames []overlay.Frame) (int, error) { return t.ReadQueue(0, frames) }

// Queues implements [overlay.QueuedPort].
func (t *TAP) Queues() int { return len(t.queues) }

// ReadQueue implements [overlay.QueuedPort]. It panics if there is no such queue: they are numbered from 0 to Queues()-1.
func (t *TAP) ReadQueue(queue int, frames []overlay.Frame) (int, error) {
	if t.closed.Load() {
		return 0, t.fail("read", nil)
	}
	q := t.queues[queue]
	n, err := q.direct.read(q.raw, frames)
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

// WriteFrames implements [overlay.SegmentedPort].
func (t *TAP) WriteFrames(frames []overlay.Frame) error {
	w := t.writers.Get().(*tapWriter)
	err := t.writeWith(w, frames)
	t.writers.Put(w)
	return err
}

// writeWith writes the frames of each flow to one queue: the kernel has frames that go the other way come from there as well.
func (t *TAP) writeWith(w *tapWriter, frames []overlay.Frame) error {
	for len(frames) > 0 {
		queue, n := t.queueOf(&frames[0]), 1
		for n < len(frames) && (len(t.queues) == 1 || t.queueOf(&frames[n]) == queue) {
			n++
		}
		err := w.write(t.queues[queue].raw, frames[:n])
		t.counters.refused.Add(w.refused)
		if w.cut.used {
			t.cut.Store(true)
		}
		if err != nil {
			return t.fail("write", err)
		}
		frames = frames[n:]
	}
	return nil
}

func (t *TAP) queueOf(f *overlay.Frame) int {
	if len(t.queues) == 1 {
		return 0
	}
	return int(flowHash(f.Data) % uint32(len(t.queues)))
}

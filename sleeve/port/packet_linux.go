package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	packetBuffer = 8 << 20                // bytes; the kernel may grant less
	downInterval = 200 * time.Millisecond // of looking whether an interface that is down is still there
)

var _ overlay.SegmentedPort = (*Packet)(nil)

// Packet is a packet socket on an interface: it reads what arrives there, for whomever it is, and writes what leaves there.
// What it writes itself it does not read. It implements [overlay.SegmentedPort], with any number of goroutines writing.
//
// The interface stays as it is, except for being promiscuous while the port is open. Frames arrive in addition to what the
// system does with them: the interface should have no addresses.
type Packet struct {
	device
	index        int
	describesUDP bool
	down         bool          // the reader's
	reader       *packetReader // made when it is needed: a reader uses one of the two
	direct       *packetDirect
	writers      sync.Pool // of *packetWriter
}

// OpenPacket opens a packet socket. The error wraps [os.ErrNotExist] if there is no such interface, and [os.ErrPermission] if
// packet sockets may not be used.
func OpenPacket(c PacketConfig) (*Packet, error) {
	p := &Packet{describesUDP: describesUDP()}
	p.name = c.Interface
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("port: packet socket on %s: %w", c.Interface, err)
	}
	p.writers.New = func() any { return newPacketWriter() }
	return p, nil
}

func (p *Packet) open() (err error) {
	if err := checkName(p.name); err != nil {
		return err
	}
	inet, err := openInet()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = inet.Close()
		}
	}()
	ifr, err := request(inet, unix.SIOCGIFINDEX, p.name, func(*unix.Ifreq) {})
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", os.ErrNotExist, err)
	}
	if err != nil {
		return err
	}
	p.index = int(ifr.Uint32())
	// Without a protocol it hears nothing until it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err = errors.Join(listen(fd, p.index), p.device.open(fd, inet)); err != nil {
		_ = p.file.Close()
	}
	return err
}

// listen makes a packet socket hear an interface.
func listen(fd, index int) error {
	for _, option := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
	} {
		if err := unix.SetsockoptInt(fd, option.level, option.name, option.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	// Not in kernels before 4.20; the reader checks as well.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer) != nil { // not privileged
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, packetBuffer)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	promiscuous := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous)
	return os.NewSyscallError("setsockopt", err)
}

// Status describes the port as it is now.
func (p *Packet) Status() Status {
	_ = p.raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			p.counters.overflows.Add(uint64(st.Drops)) // reading sets it back to zero
		}
	})
	st := p.counters.status()
	st.Offloads = map[string]string{"TCP segmentation": inUse, "UDP segmentation": inUse}
	switch {
	case !p.describesUDP:
		st.Offloads["UDP segmentation"] = "not in use: it needs Linux 6.2; what the interface brings is lost as malformed"
	case p.cut.Load():
		st.Offloads["UDP segmentation"] = "reading only: the kernel does not take all kinds of super-frames"
	}
	return st
}

// describesUDP reports whether the header before packets has words for super-frames of UDP: since Linux 6.2. There is no way to
// ask without sending one.
func describesUDP() bool {
	var u unix.Utsname
	var major, minor int
	_ = unix.Uname(&u)
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return true // nothing speaks against it
	}
	return major > 6 || major == 6 && minor >= 2
}

// Read implements [overlay.Port].
func (p *Packet) Read(bufs [][]byte, sizes []int) (int, error) {
	if p.reader == nil {
		p.reader = newPacketReader(&p.counters)
	}
	return p.readWith(func() (int, error) { return p.reader.read(p.raw, bufs, sizes) })
}

// ReadFrames implements [overlay.SegmentedPort]. It is not to be mixed with Read.
func (p *Packet) ReadFrames(frames []overlay.Frame) (int, error) {
	if p.direct == nil {
		p.direct = newPacketDirect(&p.counters)
	}
	return p.readWith(func() (int, error) { return p.direct.read(p.raw, frames) })
}

// readWith reads until there is something, through times when the interface is down.
func (p *Packet) readWith(read func() (int, error)) (int, error) {
	for !p.closed.Load() {
		n, err := read()
		switch {
		case err == nil:
			if p.down {
				p.down = false
				_ = p.file.SetReadDeadline(time.Time{})
			}
			return n, nil
		case errors.Is(err, unix.EINVAL): // a packet that is lost, and counted
			continue
		case !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, os.ErrDeadlineExceeded), p.gone():
			return 0, p.fail("read", err)
		}
		// The interface was taken down. It may come up again, but the kernel does not tell when it goes for good.
		p.down = true
		_ = p.file.SetReadDeadline(time.Now().Add(downInterval))
	}
	return 0, p.fail("read", nil)
}

// gone reports whether the interface does not exist any more, or is another one of the same name.
func (p *Packet) gone() bool {
	ifr, err := request(p.inet, unix.SIOCGIFINDEX, p.name, func(*unix.Ifreq) {})
	return err != nil || int(ifr.Uint32()) != p.index
}

// Write implements [overlay.Port].
func (p *Packet) Write(frames [][]byte) error {
	w := p.writers.Get().(*packetWriter)
	for _, data := range frames {
		w.own = append(w.own, overlay.Frame{Data: data})
	}
	err := p.writeWith(w, w.own)
	clear(w.own)
	w.own = w.own[:0]
	p.writers.Put(w)
	return err
}

// WriteFrames implements [overlay.SegmentedPort].
func (p *Packet) WriteFrames(frames []overlay.Frame) error {
	w := p.writers.Get().(*packetWriter)
	err := p.writeWith(w, frames)
	p.writers.Put(w)
	return err
}

func (p *Packet) writeWith(w *packetWriter, frames []overlay.Frame) error {
	err := w.write(p.raw, frames)
	p.counters.refused.Add(w.refused)
	if w.cut.used {
		p.cut.Store(true)
	}
	if err != nil {
		return p.fail("write", err)
	}
	return nil
}

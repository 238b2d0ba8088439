package fastdp

import (
	"encoding/binary"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/ethtool"
)

// kernelDevices are those of a network namespace: a descriptor, or 0 for that of the caller.
type kernelDevices struct{ netns int }

// vnetHeader precedes frames of a packet socket and says what is to be finished: struct virtio_net_hdr, in native byte order.
const (
	vnetHeader     = 10
	vnetNeedsCsum  = 1
	vnetGSOTCPv4   = 1
	vnetGSOType    = 1 // offsets
	vnetHeaderLen  = 2
	vnetGSOSize    = 4
	vnetCsumStart  = 6
	vnetCsumOffset = 8
)

func (d kernelDevices) send(device string, frame []byte, segment int) error {
	fd, err := d.socket(unix.AF_PACKET, unix.SOCK_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	b := make([]byte, vnetHeader, vnetHeader+len(frame))
	b[0], b[vnetGSOType] = vnetNeedsCsum, vnetGSOTCPv4
	binary.NativeEndian.PutUint16(b[vnetHeaderLen:], testPayload)
	binary.NativeEndian.PutUint16(b[vnetGSOSize:], uint16(segment))
	binary.NativeEndian.PutUint16(b[vnetCsumStart:], testTCP)
	binary.NativeEndian.PutUint16(b[vnetCsumOffset:], tcpChecksum)
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}), Ifindex: int(ifr.Uint32()), Halen: 6,
	}
	return os.NewSyscallError("sendto", unix.Sendto(fd, append(b, frame...), unix.MSG_DONTWAIT, to))
}

func (d kernelDevices) offloads(device string) (on bool, err error) {
	fd, err := d.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return ethtool.Checksums(fd, device)
}

func (d kernelDevices) setOffloads(device string, on bool) error {
	fd, err := d.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return ethtool.SetChecksums(fd, device, on)
}

// socket opens a socket in the namespace.
func (d kernelDevices) socket(domain, typ int) (fd int, err error) {
	open := func() {
		fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		err = os.NewSyscallError("socket", err)
	}
	runtime.LockOSThread()
	here := d.netns == 0 || d.isHere()
	if here {
		open()
	}
	runtime.UnlockOSThread()
	if here {
		return fd, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and nobody else gets it
		if err = os.NewSyscallError("setns", unix.Setns(d.netns, unix.CLONE_NEWNET)); err == nil {
			open()
		}
	}()
	<-done
	return fd, err
}

// isHere reports whether the calling thread is in the namespace: entering one takes privileges, being in it does not.
func (d kernelDevices) isHere() bool {
	var want, here unix.Stat_t
	return unix.Fstat(d.netns, &want) == nil && unix.Stat("/proc/thread-self/ns/net", &here) == nil && want.Dev == here.Dev && want.Ino == here.Ino
}

// Package ethtool turns offloads of network devices on and off: linux/ethtool.h.
package ethtool

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Checksums reports whether a device takes packets whose checksums are unfinished. fd is any socket in the device's network
// namespace.
func Checksums(fd int, device string) (on bool, err error) {
	value, err := ask(fd, device, unix.ETHTOOL_GTXCSUM, 0)
	return value != 0, err
}

// SetChecksums says whether a device takes packets whose checksums are unfinished. If not, the kernel finishes them, and, since that
// goes with it, cuts long ones to the MTU.
func SetChecksums(fd int, device string, on bool) error {
	var value uint32
	if on {
		value = 1
	}
	_, err := ask(fd, device, unix.ETHTOOL_STXCSUM, value)
	return err
}

// ask gives a command to a device, with a value, and returns the value that comes back.
func ask(fd int, device string, command, data uint32) (uint32, error) {
	value := struct{ command, data uint32 }{command, data}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the kernel's struct ifreq is longer than what this request uses
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return 0, os.NewSyscallError("ioctl", errno)
	}
	return value.data, nil
}

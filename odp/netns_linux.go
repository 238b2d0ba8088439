package odp

import (
	"os"
	"runtime"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const threadNetNS = "/proc/thread-self/ns/net"

// openNetNS opens the network namespace of the calling thread; nil if there is no way to it.
func openNetNS() *os.File {
	f, err := os.Open(threadNetNS)
	if err != nil {
		return nil
	}
	return f
}

// dialNetNS opens a socket in a network namespace. Entering one takes privileges, being in it already does not.
func dialNetNS(protocol, ns int) (*netlink.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var want, here unix.Stat_t
	if unix.Fstat(ns, &want) == nil && unix.Stat(threadNetNS, &here) == nil && want.Dev == here.Dev && want.Ino == here.Ino {
		ns = 0
	}
	return netlink.Dial(protocol, &netlink.Config{NetNS: ns})
}

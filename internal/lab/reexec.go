package lab

import (
	"os"
	"slices"
)

// reexecMark is in the environment of a process that Reexec started. It keeps a system that lets users make user namespaces,
// but gives them no rights inside, from starting us again and again.
const reexecMark = "OVERWEAVE_LAB_REEXEC=1"

// Check returns nil if this process can make network namespaces and devices in them. It has made one to find out.
func Check() error { return check() }

// Reexec makes sure that this program can make namespaces. If this process can, done is false and the program goes on. Else
// it runs the program once more with the same arguments, as root of a new user namespace, with network and mount
// namespaces of its own, and waits for it: then done is true, and code is what this process is to exit with. Signals to
// this process that ask to stop go to the other, which dies when this process does.
//
// Call it first thing in main, before anything is opened or written. The error wraps [ErrNotPermitted] if the system does
// not allow it.
func Reexec() (code int, done bool, err error) {
	if err := check(); err != nil {
		return reexec()
	}
	if slices.Contains(os.Environ(), reexecMark) {
		return 0, false, loopbackUp() // the new namespace is empty but for that
	}
	return 0, false, nil
}

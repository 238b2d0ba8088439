package device

import (
	"errors"
	"os"
)

var (
	// ErrNoNetNS says that a reference names no network namespace.
	ErrNoNetNS = errors.New("no such network namespace")
	// ErrOwnNetNS says that a container's namespace is asked for and the host's own is given.
	ErrOwnNetNS = errors.New("this is the host's own network namespace")
)

// NetNS is an open network namespace. The namespace lives at least as long as the NetNS is open. It is safe for concurrent
// use.
type NetNS struct {
	f *os.File
}

// Fd returns the descriptor that holds the namespace; it stays the NetNS's.
func (n *NetNS) Fd() int { return int(n.f.Fd()) }

// Close gives the descriptor back. It is idempotent; calls of Do that run go on to their end.
func (n *NetNS) Close() error {
	if err := n.f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

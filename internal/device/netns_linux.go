package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The first entry of each process's namespaces belongs to its main thread, which need not be the one that asks.
const threadNetNS = "/proc/thread-self/ns/net"

// netNSDirs is where tools keep named namespaces. Where both exist they are mostly one folder.
var netNSDirs = []string{"/run/netns", "/var/run/netns"}

// notThere is what the system answers to a path that leads nowhere.
var notThere = []error{unix.ENOENT, unix.ESRCH, unix.ENOTDIR, unix.ENAMETOOLONG, unix.ELOOP, unix.EINVAL}

// OpenNetNS opens the network namespace at a path, such as [ResolveNetNS] returns. The error wraps [ErrNoNetNS] if there is
// none, and [os.ErrPermission] if it may not be opened.
func OpenNetNS(path string) (*NetNS, error) {
	f, err := os.Open(path)
	if slices.ContainsFunc(notThere, func(none error) bool { return errors.Is(err, none) }) {
		return nil, fmt.Errorf("%q: %w", path, ErrNoNetNS)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a network namespace: %w%s", err, hint(err))
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return nil, fmt.Errorf("%q is not a network namespace: %w", path, ErrNoNetNS)
	}
	return &NetNS{f: f}, nil
}

// CurrentNetNS opens the network namespace of the calling thread.
func CurrentNetNS() (*NetNS, error) { return OpenNetNS(threadNetNS) }

// ResolveNetNS finds the network namespace that people mean by ref: a path if there is a slash in it, the namespace of a
// process if it is a decimal number, and else a name below /run/netns or /var/run/netns. It returns a path for [OpenNetNS],
// and has opened it once, so its errors are those of OpenNetNS.
func ResolveNetNS(ref string) (string, error) {
	var paths []string
	switch {
	case strings.Contains(ref, "/"):
		paths = []string{ref}
	case isNumber(ref):
		paths = []string{filepath.Join("/proc", ref, "ns/net")}
	case ref != "" && ref != "." && ref != "..":
		for _, dir := range netNSDirs {
			paths = append(paths, filepath.Join(dir, ref))
		}
	}
	for _, path := range paths {
		ns, err := OpenNetNS(path)
		if err == nil {
			return path, ns.Close()
		}
		if !errors.Is(err, ErrNoNetNS) {
			return "", err
		}
	}
	return "", fmt.Errorf("%q is no path, no name in %s, and no process: %w", ref, netNSDirs[0], ErrNoNetNS)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// Do runs fn on the calling goroutine, whose thread is in the namespace meanwhile. Sockets and processes that fn starts
// belong to the namespace; goroutines that it starts do not. Calls may be nested. After Close the error wraps [os.ErrClosed].
func (n *NetNS) Do(fn func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open(threadNetNS)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := enter(n.f); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering a network namespace: %w%s", err, hint(err))
	}
	defer func() {
		if back := enter(home); back != nil {
			// The thread is lost to others: still locked, it ends together with this goroutine.
			err = errors.Join(err, fmt.Errorf("returning to the host's network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// enter puts the calling thread into a namespace. Control keeps the descriptor from being closed under it.
func enter(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var setns error
	if err := conn.Control(func(fd uintptr) { setns = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return os.ErrClosed // the only reason there is
	}
	return setns
}

// same reports whether two open namespaces are one.
func (n *NetNS) same(other *NetNS) (bool, error) {
	a, err := n.f.Stat()
	if err != nil {
		return false, err
	}
	b, err := other.f.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

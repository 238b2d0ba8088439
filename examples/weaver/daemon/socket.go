package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// socketMode lets the owner of the daemon use its control socket, and nobody else.
const socketMode = 0o600

// listenUnix opens a Unix socket, which at no time others may open. It is made under another name and then put in place, over
// one that a dead daemon left.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("another daemon listens at %s", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("control socket %s: there is a file of that name, and it is no socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(temporary)                  // of a daemon that died with it, and had our number, as in containers all have
	old := syscall.Umask(0o777 &^ socketMode) // of the process, in which nothing else makes files yet
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // the name changes; socketFile removes the right one
	if err := os.Rename(temporary, path); err != nil {
		_ = l.Close()
		_ = os.Remove(temporary)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &socketFile{Listener: l, path: path}, nil
}

// socketFile removes its file when it is closed.
type socketFile struct {
	net.Listener
	path string
}

func (s *socketFile) Close() error {
	err := s.Listener.Close()
	if err == nil {
		_ = os.Remove(s.path)
	}
	return err
}

package dnsserver

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	resolvConfInterval = 5 * time.Second // between two looks at the file
	resolvConfSize     = 64 << 10        // bytes that are read of it
	dnsPort            = 53
)

// resolvConf follows a resolver file. It is safe for concurrent use.
type resolvConf struct {
	path string // empty: no servers
	log  *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	seen    fileMark // of what current is from
	current []netip.AddrPort
	failing bool // the last look failed, and was logged
}

// fileMark tells two contents of a file apart.
type fileMark struct {
	modified time.Time
	size     int64
}

// servers returns the servers of the file. If it cannot be read, those that it had stay. The slice is shared.
func (r *resolvConf) servers(now time.Time) []netip.AddrPort {
	if r.path == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.looked.IsZero() && now.Sub(r.looked) < resolvConfInterval {
		return r.current
	}
	r.looked = now
	err := r.read()
	if err != nil && !r.failing {
		r.log.Warn("resolver file not read", "path", r.path, "err", err)
	}
	r.failing = err != nil
	return r.current
}

func (r *resolvConf) read() error {
	file, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	mark := fileMark{info.ModTime(), info.Size()}
	if mark == r.seen {
		return nil
	}
	content, err := io.ReadAll(io.LimitReader(file, resolvConfSize))
	if err != nil {
		return err
	}
	var servers []netip.AddrPort
	for _, addr := range parseResolvConf(string(content)) {
		servers = append(servers, netip.AddrPortFrom(addr, dnsPort))
	}
	r.seen, r.current = mark, servers
	return nil
}

// parseResolvConf returns the addresses of the nameserver lines, in their order and each once. All else is passed over,
// whatever it says: options come and go with the systems that write the file.
func parseResolvConf(content string) []netip.Addr {
	var addrs []netip.Addr
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if addr = addr.Unmap(); err == nil && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

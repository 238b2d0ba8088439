package dnsserver

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseResolvConf(t *testing.T) {
	const content = `# comment
; nameserver 1.1.1.1
nameserver 10.0.0.1
	nameserver   fd00::1  # note
nameserver fe80::1%eth0
nameserver
nameserver ns.example.com
nameserver 10.0.0.1
NAMESERVER 10.0.0.9
domain example.com
search a b
options edns0 trust-ad whatever: ndots:x timeout:
sortlist 1.2.3.4
nameserver ::ffff:10.0.0.2`
	require.Equal(t, []netip.Addr{
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("10.0.0.2"),
	}, parseResolvConf(content))
	require.Empty(t, parseResolvConf(""))
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, parseResolvConf("nameserver 10.0.0.1\r\n"))
}

func TestResolvConfFollowsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Unix(1500000000, 0)
	r := &resolvConf{path: path, log: slog.New(slog.DiscardHandler)}
	write := func(content string) {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.NoError(t, os.Chtimes(path, now, now))
	}
	servers := func(addrs ...string) (out []netip.AddrPort) {
		for _, a := range addrs {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr(a), 53))
		}
		return out
	}
	require.Empty(t, r.servers(now), "no file yet")
	write("nameserver 10.0.0.1\n")
	require.Empty(t, r.servers(now.Add(4*time.Second)), "not looked at yet")
	now = now.Add(5 * time.Second)
	require.Equal(t, servers("10.0.0.1"), r.servers(now))
	write("nameserver 10.0.0.2\nnameserver fd00::1\n")
	now = now.Add(5 * time.Second)
	require.Equal(t, servers("10.0.0.2", "fd00::1"), r.servers(now))
	require.NoError(t, os.Remove(path))
	now = now.Add(5 * time.Second)
	require.Equal(t, servers("10.0.0.2", "fd00::1"), r.servers(now), "the last good content stays")
	require.Empty(t, (&resolvConf{}).servers(now), "no path")
}

// TestResolvConfServer gives a server the path, and reads the upstreams off its status. One at our own address is another
// server, as our port is not that of DNS.
func TestResolvConfServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(path, []byte("nameserver 10.0.0.1\nnameserver 127.0.0.1\noptions trust-ad\n"), 0o600))
	s := start(t, Config{ResolvConf: path})
	require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("127.0.0.1:53")}, s.Status().Upstreams)
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.1\noptions trust-ad\n")
	f.Add("nameserver fe80::1%eth0\r\nsearch a b\n")
	f.Fuzz(func(t *testing.T, content string) {
		addrs := parseResolvConf(content)
		require.LessOrEqual(t, len(addrs), strings.Count(content, "nameserver"))
		for i, a := range addrs {
			require.True(t, a.IsValid())
			require.False(t, slices.Contains(addrs[:i], a))
		}
	})
}

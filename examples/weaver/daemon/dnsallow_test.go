package daemon

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDNSClients: the daemon is no resolver for the internet, unless that is wanted.
func TestDNSClients(t *testing.T) {
	d := &daemon{cfg: Config{Range: netip.MustParsePrefix("198.51.100.0/24")}}
	allowed := func(s string) bool {
		a := netip.MustParseAddr(s)
		return slices.ContainsFunc(d.dnsClients(), func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for _, s := range []string{"127.0.0.1", "10.1.2.3", "172.17.0.5", "192.168.1.1", "198.51.100.7", "::1", "fe80::1", "fd00::1"} {
		require.True(t, allowed(s), s)
	}
	for _, s := range []string{"8.8.8.8", "198.51.101.1", "2001:db8::1"} {
		require.False(t, allowed(s), s)
	}
	d.cfg.DNSAllow = []netip.Prefix{netip.MustParsePrefix("8.8.8.0/24")}
	require.True(t, allowed("8.8.8.8"))
	require.False(t, allowed("10.1.2.3"))
}

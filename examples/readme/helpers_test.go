package readme

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// tick fires soon; for waiting on what another goroutine does.
func tick() <-chan time.Time { return time.After(time.Millisecond) }

// ask asks a DNS server for the addresses of a name.
func ask(server netip.AddrPort, name string) []netip.Addr {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.String())
	}}
	addrs, err := r.LookupNetIP(context.Background(), "ip4", name)
	check(err)
	return addrs
}

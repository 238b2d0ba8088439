package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"
)

const gatewayPoll = 20 * time.Millisecond

// gateway returns the address of this host by which a container that has addrs reaches everything else. It waits until the host
// has one: both may be waiting for the same ring.
func (a *attacher) gateway(ctx context.Context, addrs []netip.Prefix) (netip.Addr, error) {
	if !a.d.cfg.Expose {
		return netip.Addr{}, fmt.Errorf("%w: a default route leads to the host's address on the overlay, and it has none: "+
			`launch it with --expose, or set "defaultRoute" to false`, errUnfit)
	}
	tick := time.NewTicker(gatewayPoll)
	defer tick.Stop()
	for {
		host, trouble := a.exposed()
		if len(host) > 0 {
			return chooseGateway(host, addrs)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return netip.Addr{}, fmt.Errorf("%w: the host has no address on the overlay yet: %s", ctx.Err(), cmp.Or(trouble, "it waits for one"))
		}
	}
}

// chooseGateway returns the first of the host's addresses whose subnet has one of the container's: only then the host knows the
// way back. The subnet of the container may be a part of that one, so that the gateway is outside it. Weave Net (section 4.7 of
// the ipam specification) gives the host one more address then, in each such subnet.
func chooseGateway(host, addrs []netip.Prefix) (netip.Addr, error) {
	for _, h := range host {
		for _, addr := range addrs {
			if h.Contains(addr.Addr()) {
				return h.Addr(), nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: the host's address on the overlay, %v, is in no subnet with %v: "+
		`choose a subnet of --ipalloc-default-subnet, or set "defaultRoute" to false`, errUnfit, host, addrs)
}

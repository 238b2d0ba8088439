package device_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// everywhere is the default route as routes lists it.
const everywhere = "0.0.0.0/0"

// A container reaches a network behind its host by the host's address, whose subnet is larger than its own. Asking again
// changes nothing.
func TestDefaultRoute(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	outside := netip.MustParsePrefix("192.0.2.1/32")
	within(t, h, func() {
		_, err := device.AddAddress("weave", prefix(9))
		require.NoError(t, err)
		_, err = device.AddAddress("lo", outside)
		require.NoError(t, err)
	})
	a := attachment(c[0], 1)
	a.Addresses = []netip.Prefix{netip.MustParsePrefix("10.32.1.1/24")}
	a.Gateway, a.NoMulticastRoute = prefix(9).Addr(), true
	attach(t, h, a)
	require.ElementsMatch(t, []string{everywhere, "10.32.1.0/24"}, routes(t, c[0]))
	require.EqualValues(t, 1000, transfer(t, c[0], h.Namespace, outside.Addr(), 1000))
	require.EqualValues(t, 1000, transfer(t, h.Namespace, c[0], a.Addresses[0].Addr(), 1000))

	attach(t, h, a)
	within(t, c[0], func() { require.Equal(t, []netip.Addr{a.Gateway}, must(device.Gateways("ethwe"))) })
	a.Gateway = netip.MustParseAddr("fd00::1")
	within(t, h, func() {
		_, err := device.Attach(t.Context(), a)
		require.ErrorContains(t, err, "gateway")
	})
}

// What fails leaves no route; a default route by another way is a reason to fail, and stays.
func TestDefaultRouteIsTakenBack(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	a := attachment(c[0], 1)
	attach(t, h, a)
	before := routes(t, c[0])
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	more := a
	more.Addresses, more.Gateway = []netip.Prefix{prefix(1), prefix(2)}, prefix(9).Addr()
	fails := func(ctx context.Context, want error) {
		t.Helper()
		before := routes(t, c[0])
		within(t, h, func() {
			_, err := device.Attach(ctx, more)
			require.ErrorIs(t, err, want)
		})
		require.Equal(t, before, routes(t, c[0]))
	}
	fails(ended, context.Canceled)
	within(t, c[0], func() {
		link := must(netlink.LinkByName("ethwe"))
		require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: prefix(8).Addr().AsSlice()}))
	})
	fails(t.Context(), device.ErrRouted)
	require.Equal(t, append([]string{everywhere}, before...), routes(t, c[0]))
}

// A container may have several interfaces on a bridge. Those that lead elsewhere are told apart.
func TestPorts(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	first, second := attachment(c[0], 1), attachment(c[0], 2)
	second.Interface = "eth7"
	attach(t, h, first)
	attach(t, h, second)
	within(t, h, func() {
		_, err := device.EnsureBridge(device.Bridge{Name: "other"})
		require.NoError(t, err)
		elsewhere := attachment(c[0], 3)
		elsewhere.Interface, elsewhere.Bridge = "eth8", "other"
		_, err = device.Attach(t.Context(), elsewhere)
		require.NoError(t, err)

		require.ElementsMatch(t, []string{first.HostName, second.HostName, elsewhere.HostName}, must(device.Ports(c[0].Path())))
		require.Empty(t, must(device.Ports(c[1].Path())))
		require.Equal(t, second.HostName, must(device.PortOf(c[0].Path(), "eth7", "weave")))
		_, err = device.PortOf(c[0].Path(), "eth8", "weave")
		require.ErrorIs(t, err, device.ErrWrongKind)
		_, err = device.PortOf(c[0].Path(), "sixteen-bytes-16", "weave")
		require.ErrorContains(t, err, "no name")
		_, err = device.Ports(h.Path())
		require.ErrorIs(t, err, device.ErrOwnNetNS)
	})
}

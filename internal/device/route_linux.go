package device

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var everywhere = netip.MustParsePrefix("0.0.0.0/0")

// addRoutes gives a container the routes that it is to have and lacks.
func (at *attacher) addRoutes(guest netlink.Link) error {
	if at.Gateway.IsValid() {
		if err := at.addDefaultRoute(guest); err != nil {
			return failed(err, "adding a default route by %s", at.Gateway)
		}
	}
	if at.NoMulticastRoute {
		return nil
	}
	route := &netlink.Route{LinkIndex: guest.Attrs().Index, Dst: ipNet(multicast), Scope: netlink.SCOPE_LINK}
	if err := at.addRoute(route); !errors.Is(err, unix.EEXIST) {
		return failed(err, "adding a route to %s", multicast)
	}
	return nil
}

// addDefaultRoute takes it on trust that the gateway is on the other side: its subnet may be larger than the container's.
func (at *attacher) addDefaultRoute(guest netlink.Link) error {
	route := &netlink.Route{
		LinkIndex: guest.Attrs().Index, Dst: ipNet(everywhere), Gw: at.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}
	err := at.addRoute(route)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	gateways, err := gateways(guest)
	if err == nil && !slices.Contains(gateways, at.Gateway) {
		err = ErrRouted
	}
	return err
}

func (at *attacher) addRoute(route *netlink.Route) error {
	if err := netlink.RouteAdd(route); err != nil {
		return err
	}
	at.undo.add(func() error {
		return at.ns.Do(func() error {
			if err := netlink.RouteDel(route); !errors.Is(err, unix.ESRCH) { // it may have gone with its address
				return err
			}
			return nil
		})
	})
	return nil
}

// Gateways returns where the IPv4 default routes by a device lead.
func Gateways(device string) ([]netip.Addr, error) {
	link, err := linkByName(device)
	if err != nil {
		return nil, failed(err, "device %s", device)
	}
	list, err := gateways(link)
	return list, failed(err, "listing the routes of %s", device)
}

func gateways(link netlink.Link) (list []netip.Addr, err error) {
	routes, err := complete(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_V4) })
	for _, r := range routes {
		gateway, ok := netip.AddrFromSlice(r.Gw.To4())
		if ok && (r.Dst == nil || r.Dst.String() == everywhere.String()) {
			list = append(list, gateway)
		}
	}
	return list, err
}

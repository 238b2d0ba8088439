package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
)

// state is what an interface in a container is like, as somebody says or as it is.
type state struct {
	mac      string
	addrs    []netip.Prefix
	gateways []netip.Addr // of default routes
}

// check compares what the runtime was told with what the daemon knows, and with what the container has.
func check(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	told, err := c.previous()
	if err != nil {
		return err
	}
	if told == nil {
		return invalid("prevResult: it is missing")
	}
	report, err := c.client().Report(ctx)
	if err != nil {
		return c.failure(err)
	}
	id := c.id(args.ContainerID, args.IfName)
	i := slices.IndexFunc(report.Attachments, func(att api.Attachment) bool { return att.ID == id })
	if i < 0 {
		return fmt.Errorf("the daemon does not know %s", id)
	}
	want, err := expected(told, report.Attachments[i], args.IfName, args.Netns)
	if err != nil {
		return err
	}
	got, err := look(args.IfName, args.Netns)
	if err != nil {
		return err
	}
	return compare(want, got, args.IfName)
}

// expected returns what a result says of our interface. It fails if the daemon knows otherwise. Of default routes only ours
// counts: others may have changed the rest.
func expected(told *types100.Result, att api.Attachment, iface, netns string) (want state, err error) {
	inside := slices.IndexFunc(told.Interfaces, func(i *types100.Interface) bool {
		return i.Name == iface && i.Sandbox == netns
	})
	if inside < 0 {
		return want, invalid("prevResult: it has no interface %s in %s", iface, netns)
	}
	want.mac = told.Interfaces[inside].Mac
	for _, ip := range told.IPs {
		if ip.Interface == nil || *ip.Interface != inside {
			continue
		}
		addr, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return want, invalid("prevResult: %v", err)
		}
		if !slices.Contains(att.Addresses, addr) {
			return want, fmt.Errorf("%s has not been given the address %s, but has %v", att.ID, addr, att.Addresses)
		}
		want.addrs = append(want.addrs, addr)
	}
	for _, route := range told.Routes {
		if ones, _ := route.Dst.Mask.Size(); ones == 0 && att.Gateway.IsValid() && route.GW.Equal(att.Gateway.AsSlice()) {
			want.gateways = append(want.gateways, att.Gateway)
		}
	}
	return want, nil
}

// look returns what is in the container.
func look(name, netns string) (got state, err error) {
	path, err := device.ResolveNetNS(netns)
	if err != nil {
		return got, err
	}
	ns, err := device.OpenNetNS(path)
	if err != nil {
		return got, err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		iface, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if iface.Flags&net.FlagUp == 0 {
			return fmt.Errorf("%s is down", name)
		}
		got.mac = iface.HardwareAddr.String()
		var errAddrs, errRoutes error
		got.addrs, errAddrs = device.Addresses(name)
		got.gateways, errRoutes = device.Gateways(name)
		return errors.Join(errAddrs, errRoutes)
	})
	return got, err
}

// compare says what is missing. What there is besides is the container's own affair, or that of other plugins.
func compare(want, got state, iface string) error {
	if want.mac != got.mac {
		return fmt.Errorf("%s has the MAC address %s, not %s", iface, got.mac, want.mac)
	}
	for _, addr := range want.addrs {
		if !slices.Contains(got.addrs, addr) {
			return fmt.Errorf("%s has not the address %s, but %v", iface, addr, got.addrs)
		}
	}
	for _, gateway := range want.gateways {
		if !slices.Contains(got.gateways, gateway) {
			return fmt.Errorf("%s has no default route by %s", iface, gateway)
		}
	}
	return nil
}

// status tells whether containers can be attached now.
func status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err == nil {
		_, err = c.request()
	}
	if err != nil {
		return err
	}
	report, err := c.client().Report(ctx)
	why := hindrance(report, c.wantsDefaultRoute())
	if err != nil {
		why = err.Error()
	}
	if why != "" {
		return types.NewError(types.ErrPluginNotAvailable, "network "+c.Name, why)
	}
	return nil
}

// hindrance says why no container can be attached; it is empty if there is no reason. That nobody has asked for an address yet
// is none: the first that does has peers agree on a ring.
func hindrance(r api.Report, defaultRoute bool) string {
	s := r.IPAM
	switch {
	case s == nil:
		return "the daemon gives no addresses: it runs without --ipalloc-range"
	case s.NotGiving != "" && (s.State != "idle" || s.Released):
		return s.NotGiving
	case s.FreeIPs == 0 && len(s.PendingAllocates) > 0:
		return s.State
	case defaultRoute && len(r.Bridge.Addresses) == 0:
		return cmp.Or(r.Bridge.Trouble, `the host has no address on the overlay (yet): launch the daemon with --expose, or set "defaultRoute" to false`)
	}
	return ""
}

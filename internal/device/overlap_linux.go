package device

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Overlap says which route of this host leads to addresses of a range, "" if none does. Routes by the device of the given name do
// not count, and neither does the one to everywhere.
func Overlap(r netip.Prefix, except string) (string, error) {
	family := unix.AF_INET
	if r.Addr().Is6() {
		family = unix.AF_INET6
	}
	routes, err := complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
	if err != nil {
		return "", failed(err, "listing routes")
	}
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(route.Dst.IP)
		bits, _ := route.Dst.Mask.Size()
		dst := netip.PrefixFrom(addr.Unmap(), bits)
		if bits == 0 || !dst.Overlaps(r) {
			continue
		}
		name := "no device"
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
			name = link.Attrs().Name
		}
		if name != except {
			return fmt.Sprintf("%s by %s", dst, name), nil
		}
	}
	return "", nil
}

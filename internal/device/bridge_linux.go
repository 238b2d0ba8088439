package device

import (
	"bytes"
	"errors"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxPortMTU is the largest MTU, in bytes, that a TAP takes: it counts the Ethernet header in.
const maxPortMTU = 65535 - 14

// EnsureBridge makes a bridge, or adopts the one of that name, and puts it up. The error wraps [ErrWrongKind] if the name
// belongs to something else. If it fails, a bridge that was not there before is not there afterwards.
func EnsureBridge(b Bridge) (created bool, err error) {
	if err := checkNames(b.Name); err != nil {
		return false, err
	}
	bridge, err := linkOfType(b.Name, "bridge")
	if errors.Is(err, ErrNoDevice) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = b.Name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return false, failed(err, "making bridge %s", b.Name)
		}
		created = true
		bridge, err = linkOfType(b.Name, "bridge")
	}
	if err == nil {
		err = setUpBridge(bridge, b, created)
	}
	if err == nil {
		return created, nil
	}
	if created {
		err = errors.Join(err, RemoveBridge(b.Name))
	}
	return false, failed(err, "setting up bridge %s", b.Name)
}

// setUpBridge gives a bridge its settings. The address comes in a step of its own, also because old kernels would miss the
// entry in the forwarding table otherwise; once set, ports that come and go do not change it.
func setUpBridge(bridge netlink.Link, b Bridge, created bool) error {
	attrs := bridge.Attrs()
	if b.MAC != nil && !bytes.Equal(attrs.HardwareAddr, b.MAC) {
		if err := netlink.LinkSetHardwareAddr(bridge, b.MAC); err != nil {
			return failed(err, "setting its address to %s", b.MAC)
		}
	}
	if created && attrs.MTU == b.MTU {
		// Only a change tells the kernel that the MTU is meant, and not to be that of the smallest port.
		if err := netlink.LinkSetMTU(bridge, b.MTU-1); err != nil {
			return failed(err, "setting its MTU")
		}
		attrs.MTU--
	}
	if b.MTU != 0 && attrs.MTU != b.MTU {
		if err := netlink.LinkSetMTU(bridge, b.MTU); err != nil {
			return failed(err, "setting its MTU to %d", b.MTU)
		}
	}
	ignoreRouterAdvertisements(b.Name)
	hastenNeighbours(b.Name)
	return netlink.LinkSetUp(bridge)
}

// RemoveBridge removes a bridge; its ports remain. Removing one that does not exist is not an error.
func RemoveBridge(name string) error { return remove(name, "bridge") }

// EnsurePair makes a veth pair, or adopts it, connects its inner end to the bridge, and puts both ends up. The host itself
// neither speaks nor listens on the outer end.
//
// Without p.Offload, frames reach the outer end as they would go onto a wire: with their checksums computed, and no longer
// than the MTU. The inner end is told to offer no offloads, so the kernel finishes each frame before it passes, whoever sent it.
func EnsurePair(p Pair) (created bool, err error) {
	if err := checkNames(p.Inner, p.Outer); err != nil {
		return false, err
	}
	bridge, err := linkOfType(p.Bridge, "bridge")
	if err != nil {
		return false, failed(err, "bridge %s", p.Bridge)
	}
	if p.MTU == 0 {
		p.MTU = bridge.Attrs().MTU
	}
	inner, outer, err := findPair(p)
	if errors.Is(err, ErrNoDevice) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = p.Inner, p.MTU
		veth := netlink.NewVeth(attrs)
		veth.PeerName = p.Outer
		if err := netlink.LinkAdd(veth); err != nil {
			return false, failed(err, "making the veth pair %s, %s", p.Inner, p.Outer)
		}
		created = true
		inner, outer, err = findPair(p)
	}
	if err == nil {
		err = setUpPair(p, bridge, inner, outer)
	}
	if err == nil {
		return created, nil
	}
	if created {
		err = errors.Join(err, RemovePair(p.Inner))
	}
	return false, failed(err, "setting up the veth pair %s, %s", p.Inner, p.Outer)
}

// findPair returns both ends, or ErrNoDevice if there is none of them, or ErrWrongKind if they are not a pair.
func findPair(p Pair) (inner, outer netlink.Link, err error) {
	inner, err = linkOfType(p.Inner, "veth")
	if err != nil {
		return nil, nil, err
	}
	outer, err = linkOfType(p.Outer, "veth")
	if errors.Is(err, ErrNoDevice) || err == nil && !paired(inner, outer) {
		return nil, nil, failed(ErrWrongKind, "%s and %s are not the ends of one pair", p.Inner, p.Outer)
	}
	return inner, outer, err
}

// paired reports whether two veth devices point at each other.
func paired(a, b netlink.Link) bool {
	return a.Attrs().ParentIndex == b.Attrs().Index && b.Attrs().ParentIndex == a.Attrs().Index
}

func setUpPair(p Pair, bridge, inner, outer netlink.Link) error {
	for _, end := range []netlink.Link{inner, outer} {
		if err := netlink.LinkSetMTU(end, p.MTU); err != nil {
			return failed(err, "setting the MTU to %d", p.MTU)
		}
	}
	if !p.Offload {
		if err := noChecksumOffload(p.Inner); err != nil {
			return err
		}
	}
	ignoreRouterAdvertisements(p.Inner)
	stayOut(p.Outer)
	if err := netlink.LinkSetARPOff(outer); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(outer); err != nil {
		return err
	}
	return addPort(bridge, inner)
}

// RemovePair removes a veth pair, of which one end is given. Removing one that does not exist is not an error.
func RemovePair(name string) error { return remove(name, "veth") }

// AddPort makes a device, such as a TAP, a port of a bridge with the bridge's MTU, as far as it can have that, and puts it
// up.
func AddPort(bridge, name string) error {
	br, err := linkOfType(bridge, "bridge")
	if err != nil {
		return failed(err, "bridge %s", bridge)
	}
	port, err := linkByName(name)
	if err != nil {
		return failed(err, "port %s", name)
	}
	mtu := min(br.Attrs().MTU, maxPortMTU)
	if err := netlink.LinkSetMTU(port, mtu); err != nil {
		return failed(err, "setting the MTU of %s to %d", name, mtu)
	}
	ignoreRouterAdvertisements(name)
	return failed(addPort(br, port), "making %s a port of %s", name, bridge)
}

// SetUp puts a device up, with an MTU in bytes and, unless it is nil, a MAC address.
func SetUp(name string, mtu int, mac net.HardwareAddr) error {
	link, err := linkByName(name)
	if err != nil {
		return failed(err, "%s", name)
	}
	if mac != nil && !bytes.Equal(link.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return failed(err, "setting the address of %s to %s", name, mac)
		}
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return failed(err, "setting the MTU of %s to %d", name, mtu)
	}
	ignoreRouterAdvertisements(name)
	return failed(netlink.LinkSetUp(link), "putting %s up", name)
}

// addPort puts a device up and into a bridge.
func addPort(bridge, port netlink.Link) error {
	if port.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(port)
}

// linkByName finds a device; the error wraps ErrNoDevice if there is none.
func linkByName(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, ErrNoDevice
	}
	return link, err
}

// linkOfType is linkByName for a device of a certain kind; the error wraps ErrWrongKind if it is of another.
func linkOfType(name, kind string) (netlink.Link, error) {
	link, err := linkByName(name)
	if err == nil && link.Type() != kind {
		return nil, failed(ErrWrongKind, "%s is not a %s", name, kind)
	}
	return link, err
}

// remove removes a device of a certain kind, if it is there.
func remove(name, kind string) error {
	link, err := linkOfType(name, kind)
	if errors.Is(err, ErrNoDevice) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, unix.ENODEV) { // it went in the same moment, as with its namespace
		return nil
	}
	return failed(err, "removing %s", name)
}

// BridgeAddr returns the MAC address of a bridge, nil if there is no bridge of that name.
func BridgeAddr(name string) net.HardwareAddr {
	bridge, err := linkOfType(name, "bridge")
	if err != nil {
		return nil
	}
	return bridge.Attrs().HardwareAddr
}

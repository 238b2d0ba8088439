package device

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// PortOf returns the name of the host's end of the veth pair of which a container has the end called iface; "" if the
// container has no such interface. The error wraps [ErrWrongKind] if there is one that does not lead to the bridge; its other
// errors are those of [Attach].
func PortOf(netns, iface, bridge string) (string, error) {
	if err := checkNames(iface); err != nil {
		return "", err
	}
	ns, err := openContainer(netns)
	if err != nil {
		return "", err
	}
	defer ns.Close()
	br, err := linkByName(bridge)
	if err != nil {
		return "", failed(err, "bridge %s", bridge)
	}
	host, err := ns.portOf(iface, br)
	if errors.Is(err, ErrNoDevice) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return host.Attrs().Name, nil
}

// portOf returns the host's end of the pair of which a namespace has the end of that name. The error wraps ErrNoDevice if it
// has none.
func (n *NetNS) portOf(iface string, bridge netlink.Link) (netlink.Link, error) {
	var guest netlink.Link
	err := n.Do(func() (err error) {
		guest, err = linkOfType(iface, "veth")
		return err
	})
	if err != nil {
		return nil, err
	}
	host, err := netlink.LinkByIndex(guest.Attrs().ParentIndex)
	if err != nil || !paired(guest, host) {
		return nil, failed(ErrWrongKind, "%s does not lead to this host", iface)
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index {
		return nil, failed(ErrWrongKind, "%s does not lead to %s", iface, bridge.Attrs().Name)
	}
	return host, nil
}

// Ports returns the names of the host's ends of all veth pairs that lead to a container. Its errors are those of [OpenNetNS],
// and [ErrOwnNetNS].
func Ports(netns string) ([]string, error) {
	ns, err := openContainer(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var guests []netlink.Link
	err = ns.Do(func() (err error) {
		guests, err = complete(netlink.LinkList)
		return err
	})
	if err != nil {
		return nil, failed(err, "listing the network devices of %s", netns)
	}
	var names []string
	for _, guest := range guests {
		if guest.Type() != "veth" {
			continue
		}
		if host, err := netlink.LinkByIndex(guest.Attrs().ParentIndex); err == nil && paired(guest, host) {
			names = append(names, host.Attrs().Name)
		}
	}
	return names, nil
}

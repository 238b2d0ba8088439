package device

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddress gives a device an IPv4 address and tells its neighbours. It returns false if it had the address already.
func AddAddress(device string, addr netip.Prefix) (added bool, err error) {
	if err := checkAddresses(addr); err != nil {
		return false, err
	}
	link, err := linkByName(device)
	if err != nil {
		return false, failed(err, "device %s", device)
	}
	added, err = addAddress(link, addr)
	if err != nil {
		return false, failed(err, "adding %s to %s", addr, device)
	}
	if added {
		_ = announce(link, addr.Addr()) // neighbours that are not told find out a little later
	}
	return added, nil
}

// RemoveAddress takes an IPv4 address from a device. Removing one that it does not have is not an error.
func RemoveAddress(device string, addr netip.Prefix) error {
	if err := checkAddresses(addr); err != nil {
		return err
	}
	link, err := linkByName(device)
	if errors.Is(err, ErrNoDevice) {
		return nil
	}
	if err == nil {
		err = removeAddress(link, addr)
	}
	return failed(err, "removing %s from %s", addr, device)
}

// Addresses lists the IPv4 addresses of a device.
func Addresses(device string) ([]netip.Prefix, error) {
	link, err := linkByName(device)
	if err != nil {
		return nil, failed(err, "device %s", device)
	}
	addrs, err := addresses(link)
	return addrs, failed(err, "listing the addresses of %s", device)
}

func addAddress(link netlink.Link, addr netip.Prefix) (added bool, err error) {
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)})
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	return err == nil, err
}

// removeAddress removes one address. With the first address of a subnet the kernel may remove the others, too; it is told
// not to, and where it cannot be told they are put back.
func removeAddress(link netlink.Link, addr netip.Prefix) error {
	before, err := addresses(link)
	if err != nil {
		return err
	}
	sysctl("ipv4/conf", link.Attrs().Name, "promote_secondaries", "1")
	err = netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(addr)})
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, other := range before {
		if other == addr {
			continue
		}
		if _, err := addAddress(link, other); err != nil {
			return err
		}
	}
	return nil
}

func addresses(link netlink.Link) ([]netip.Prefix, error) {
	list, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			ones, _ := a.Mask.Size()
			out = append(out, netip.PrefixFrom(ip, ones))
		}
	}
	return out, nil
}

// ipNet converts a prefix; unlike [netip.Prefix.Masked] it keeps the host part.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// announce sends a gratuitous ARP request (RFC 5227 section 3) for an IPv4 address, so that neighbours who know it at
// another MAC address learn better.
func announce(link netlink.Link, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{
		Protocol: htons(unix.ETH_P_ARP),
		Ifindex:  link.Attrs().Index,
		Halen:    6,
		Addr:     [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	return unix.Sendto(fd, announcement(link.Attrs().HardwareAddr, addr), 0, to)
}

// announcement returns the ARP packet (RFC 826): a request for the sender's own address, with no target hardware address.
func announcement(mac net.HardwareAddr, addr netip.Addr) []byte {
	const ethernet, request = 1, 1
	var p []byte
	p = binary.BigEndian.AppendUint16(p, ethernet)
	p = binary.BigEndian.AppendUint16(p, unix.ETH_P_IP)
	p = append(p, 6, 4)
	p = binary.BigEndian.AppendUint16(p, request)
	p = append(append(p, mac...), addr.AsSlice()...)
	return append(append(p, make([]byte, 6)...), addr.AsSlice()...)
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

package ipsec

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const probePort = 6784

// Probe finds out whether the running kernel can do what this package needs: ESP with AES-GCM, and policies that see the ports of
// VXLAN. It tries both in a network namespace of its own, which takes CAP_SYS_ADMIN. The error wraps [errors.ErrUnsupported]
// if the kernel cannot; others mean that there was no telling. Call it once, and do without encryption in the kernel if it fails.
func Probe() error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and its namespace with it
		done <- probe()
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("ipsec: probe: %w", err)
	}
	return nil
}

func probe() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	k, err := OpenKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	here := netip.MustParseAddr("192.0.2.1")
	there := here.Next()
	sa := Association{Selector: tuple{here, there, probePort}.selector(Out), SPI: minSPI, ReqID: firstReqID}
	if err := k.AddAssociation(sa); err != nil {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	device, err := probeDevice(h, here, there)
	if err != nil {
		return fmt.Errorf("VXLAN device: %w", err)
	}
	if failed, err := probeSend(h, device); err != nil || failed > 0 {
		return errors.Join(err, fmt.Errorf("VXLAN without policies: %d packets failed", failed))
	}
	for _, p := range blocks(probePort) {
		if err := k.PutPolicy(p); err != nil && p.Src.Addr().Is4() {
			return err
		}
	}
	switch failed, err := probeSend(h, device); {
	case err != nil:
		return err
	case failed == 0:
		return fmt.Errorf("%w: VXLAN of this kernel hides ports from policies", errors.ErrUnsupported)
	}
	return nil
}

// probeDevice makes a VXLAN device that sends over another one; the loopback device is exempt from policies.
func probeDevice(h *netlink.Handle, here, there netip.Addr) (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "under"
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}); err != nil {
		return 0, err
	}
	attrs.Name = "probe"
	if err := h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Group: ip(there), Port: probePort}); err != nil {
		return 0, err
	}
	for _, name := range []string{"far", "under", "probe"} {
		l, err := h.LinkByName(name)
		if err != nil {
			return 0, err
		}
		if name == "under" {
			err = h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(here, 24))})
		}
		if err = errors.Join(err, h.LinkSetUp(l)); err != nil {
			return 0, err
		}
		index = l.Attrs().Index
	}
	return index, nil
}

// probeSend sends a frame with a device, and returns how many packets of it have failed since it is there.
func probeSend(h *netlink.Handle, device int) (failed uint64, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	frame := make([]byte, 60)
	frame[0], frame[6], frame[12], frame[13] = 2, 2, 0x88, 0xb5 // an EtherType for experiments
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device, Halen: 6}); err != nil {
		return 0, err
	}
	l, err := h.LinkByIndex(device)
	if err != nil {
		return 0, err
	}
	s := l.Attrs().Statistics
	return s.TxErrors + s.TxDropped, nil
}

package lab

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "switch"

	pollFor   = 2 * time.Second
	pollEvery = time.Millisecond

	netemQueue = 10_000   // packets; what a fast and long path has under way
	tbfQueue   = 50       // milliseconds of packets that wait
	tbfBurst   = 64 << 10 // bytes at least; segmentation offload makes packets that long
)

// addBridge makes a namespace the inside of a switch.
func addBridge(ns *Namespace) error {
	return ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	})
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// addPort makes a device a port of the switch in its namespace.
func addPort(e end) error {
	return e.do(func(dev netlink.Link) error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(dev, bridge)
	})
}

// addVeth makes a pair of devices, the first with the given index, puts them up, and waits until they are.
func addVeth(ends [2]end, mtu, index int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ends[0].device
	attrs.MTU, attrs.Index = mtu, index
	veth := netlink.NewVeth(attrs)
	veth.PeerName = ends[1].device
	veth.PeerNamespace = netlink.NsFd(ends[1].ns.netns.Fd())
	if err := ends[0].ns.Do(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return err
	}
	for _, step := range []func(end) error{setUp, waitUp} {
		for _, e := range ends {
			if err := step(e); err != nil {
				removeDevice(ends[0])
				return err
			}
		}
	}
	return nil
}

func setUp(e end) error { return e.do(netlink.LinkSetUp) }

// waitUp waits until the kernel uses a device that was put up; before, it loses packets.
func waitUp(e end) error {
	return e.do(func(dev netlink.Link) error {
		return soon(func() (bool, error) {
			now, err := netlink.LinkByIndex(dev.Attrs().Index)
			return err == nil && now.Attrs().OperState == netlink.OperUp, err
		})
	})
}

// soon waits for what the kernel does a moment after it was told. If that takes very long, something is wrong that will
// show in other ways.
func soon(done func() (bool, error)) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for range pollFor / pollEvery {
		if ok, err := done(); ok || err != nil {
			return err
		}
		<-poll.C
	}
	return nil
}

// removeDevice takes back what was made a moment ago.
func removeDevice(e end) { _ = e.do(netlink.LinkDel) }

// addAddress adds an address and waits until it is in use.
func addAddress(e end, addr netip.Prefix) error {
	return e.do(func(dev netlink.Link) error {
		ip := &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}
		if addr.Addr().Is4() {
			return netlink.AddrAdd(dev, &netlink.Addr{IPNet: ip})
		}
		// In a lab nobody else has it: no need to ask.
		if err := netlink.AddrAdd(dev, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
		return soon(func() (bool, error) { return solicited(dev.Attrs().Name, addr.Addr()) })
	})
}

// solicited reports whether those who look for an address of a device find it: they ask a group that the kernel joins a moment after
// it has added the address. A question before that is repeated after a second.
func solicited(device string, addr netip.Addr) (bool, error) {
	b := addr.As16()
	group := hex.EncodeToString(append([]byte{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}, b[13:]...))
	joined, err := os.ReadFile("/proc/thread-self/net/igmp6")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(joined)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == device && f[2] == group {
			return true, nil
		}
	}
	return false, nil
}

func setMTU(e end, mtu int) error {
	return e.do(func(dev netlink.Link) error { return netlink.LinkSetMTU(dev, mtu) })
}

// do runs fn in the namespace of the device.
func (e end) do(fn func(netlink.Link) error) error {
	return e.ns.Do(func() error {
		dev, err := netlink.LinkByName(e.device)
		if err != nil {
			return fmt.Errorf("%s: %w", e.device, err)
		}
		if err := fn(dev); err != nil {
			return fmt.Errorf("%s: %w", e.device, err)
		}
		return nil
	})
}

// setQueue sets what becomes of packets that leave by a device.
func setQueue(e end, cut bool, s Shape) error {
	return e.do(func(dev netlink.Link) error {
		attrs := netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Parent: netlink.HANDLE_ROOT}
		qdisc := queueFor(attrs, cut, s)
		if qdisc == nil {
			return removeQueue(attrs)
		}
		err := netlink.QdiscReplace(qdisc)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w: it lacks %s", ErrNoShaping, qdisc.Type())
		}
		return err
	})
}

// queueFor returns the queueing discipline for a shape, nil if the kernel's own does.
func queueFor(attrs netlink.QdiscAttrs, cut bool, s Shape) netlink.Qdisc {
	switch {
	case cut:
		return &netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "blackhole"}
	case s.Delay > 0 || s.Loss > 0:
		return netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{
			Latency: uint32(s.Delay.Microseconds()),
			Loss:    float32(s.Loss * 100),
			Limit:   netemQueue,
			Rate64:  s.Rate,
		})
	case s.Rate > 0:
		burst := uint32(max(tbfBurst, min(s.Rate/100, 1<<30)))
		wait := uint32(min(s.Rate*tbfQueue/1000, 1<<30))
		return &netlink.Tbf{
			QdiscAttrs: attrs,
			Rate:       s.Rate,
			Buffer:     netlink.Xmittime(s.Rate, burst),
			Limit:      burst + wait,
		}
	default:
		return nil
	}
}

// removeQueue gives a device the kernel's own queue again.
func removeQueue(attrs netlink.QdiscAttrs) error {
	err := netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil // it has no other
	}
	return err
}

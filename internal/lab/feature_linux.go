package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// lacking is what kernels answer to a request that they know nothing of.
var lacking = []error{
	unix.ENOENT, unix.EOPNOTSUPP, unix.ENOTSUP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOSYS, unix.ENODEV, os.ErrNotExist,
}

func probe(f Feature) error {
	try, known := map[Feature]func() error{
		OpenVSwitch: tryOpenVSwitch, ESP: tryESP, Netem: tryNetem, Geneve: tryGeneve, ConntrackZones: tryConntrackZones, SMP: trySMP,
	}[f]
	if !known {
		return fmt.Errorf("lab: nothing is known of a kernel feature %q", f)
	}
	l, err := New()
	if err != nil {
		return err
	}
	defer l.Close()
	scratch, err := l.Host("scratch")
	if err != nil {
		return err
	}
	err = scratch.Do(try)
	for _, answer := range lacking {
		if errors.Is(err, answer) {
			return fmt.Errorf("%s: %w (%w)", f, ErrNoFeature, err)
		}
	}
	return err
}

func tryOpenVSwitch() error {
	_, err := netlink.GenlFamilyGet("ovs_datapath")
	return err
}

func tryESP() error {
	return netlink.XfrmStateAdd(&netlink.XfrmState{
		Src:   net.IPv4(127, 0, 0, 1),
		Dst:   net.IPv4(127, 0, 0, 2),
		Proto: netlink.XFRM_PROTO_ESP,
		Mode:  netlink.XFRM_MODE_TRANSPORT,
		Spi:   1,
		Aead:  &netlink.XfrmStateAlgo{Name: "rfc4106(gcm(aes))", Key: make([]byte, 36), ICVLen: 128},
	})
}

func tryNetem() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	attrs := netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Parent: netlink.HANDLE_ROOT}
	return netlink.QdiscReplace(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: 1, Limit: 1}))
}

func tryGeneve() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	return netlink.LinkAdd(&netlink.Geneve{LinkAttrs: attrs, ID: 1, Remote: net.IPv4(127, 0, 0, 1)})
}

// tryConntrackZones asks for a connection in a zone, and does not say which: a kernel with zones finds fault with the latter.
func tryConntrackZones() error {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_ACK)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	r.AddData(nl.NewRtAttr(nl.CTA_ZONE, nl.BEUint16Attr(1)))
	if _, err := r.Execute(unix.NETLINK_NETFILTER, 0); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func trySMP() error {
	if runtime.NumCPU() < 2 {
		return unix.ENODEV
	}
	return nil
}

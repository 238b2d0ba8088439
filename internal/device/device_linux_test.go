package device_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

func TestMain(m *testing.M) {
	if child := children[os.Getenv(childVariable)]; child != nil {
		os.Exit(child())
	}
	labtest.Enter()
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second

// peerMAC is the MAC address of a host's bridge.
func peerMAC(host string) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, host[0]} }

// newHost returns a host with a bridge, and as many containers behind it, not attached.
//
//	[weave]   a1  a2 ...
func newHost(t *testing.T, l *lab.Lab, name string, containers int) (*lab.Host, []*lab.Namespace) {
	h, err := l.Host(name)
	require.NoError(t, err)
	within(t, h, func() {
		created, err := device.EnsureBridge(device.Bridge{Name: "weave", MAC: peerMAC(name), MTU: 1500})
		require.NoError(t, err)
		require.True(t, created)
	})
	var behind []*lab.Namespace
	for i := range containers {
		c, err := h.Container(name + string(rune('1'+i)))
		require.NoError(t, err)
		behind = append(behind, c)
	}
	return h, behind
}

// within runs a part of a test on a host or in a container.
func within(t *testing.T, where interface{ Do(func() error) error }, fn func()) {
	require.NoError(t, where.Do(func() error { fn(); return nil }))
}

// devices lists the names of the devices here.
func devices(t *testing.T) []string {
	list, err := netlink.LinkList()
	require.NoError(t, err)
	var names []string
	for _, l := range list {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func attrs(t *testing.T, name string) *netlink.LinkAttrs {
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	return link.Attrs()
}

// setting reads a file below /proc/sys/net; "" if this kernel or this user namespace does not have it.
func setting(t *testing.T, path string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
	if os.IsNotExist(err) {
		return ""
	}
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

func TestBridgeIsMadeAdoptedAndRemoved(t *testing.T) {
	h, err := labtest.New(t).Host("a")
	require.NoError(t, err)
	within(t, h, func() {
		before := devices(t)
		for i := range 3 {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, byte(i / 2)} // the third one differs
			created, err := device.EnsureBridge(device.Bridge{Name: "weave", MAC: mac, MTU: 65535})
			require.NoError(t, err)
			require.Equal(t, i == 0, created)
			require.Equal(t, mac, device.BridgeAddr("weave"))
			require.Equal(t, 65535, attrs(t, "weave").MTU)
			require.NotZero(t, attrs(t, "weave").Flags&net.FlagUp)
		}
		require.Equal(t, "0", setting(t, "ipv6/conf/weave/accept_ra"))
		require.Equal(t, "5", setting(t, "ipv4/neigh/weave/base_reachable_time"))
		require.True(t, must(device.Exists("weave")))
		require.NoError(t, device.RemoveBridge("weave"))
		require.NoError(t, device.RemoveBridge("weave"))
		require.False(t, must(device.Exists("weave")))
		require.Equal(t, before, devices(t))
	})
}

func TestBridgeKeepsAddressAndMTUWhenPortsComeAndGo(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	within(t, h, func() {
		created, err := device.EnsurePair(device.Pair{Bridge: "weave", Inner: "in", Outer: "out", MTU: 1300})
		require.NoError(t, err)
		require.True(t, created)
		require.Equal(t, 1300, attrs(t, "out").MTU)
		require.Equal(t, 1500, attrs(t, "weave").MTU)
		require.Equal(t, peerMAC("a"), attrs(t, "weave").HardwareAddr)
		require.NoError(t, device.RemovePair("out"))
		require.NoError(t, device.RemovePair("in"))
		require.Equal(t, peerMAC("a"), attrs(t, "weave").HardwareAddr)
		require.Equal(t, []string{"lo", "weave"}, devices(t))
	})
}

func TestPairIsAdopted(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	pair := device.Pair{Bridge: "weave", Inner: "vethwe-bridge", Outer: "vethwe-pcap"}
	within(t, h, func() {
		for i := range 2 {
			created, err := device.EnsurePair(pair)
			require.NoError(t, err)
			require.Equal(t, i == 0, created)
			require.Equal(t, attrs(t, "weave").Index, attrs(t, pair.Inner).MasterIndex)
			require.Zero(t, attrs(t, pair.Outer).MasterIndex)
			require.Equal(t, 1500, attrs(t, pair.Outer).MTU)
			require.Equal(t, "1", setting(t, "ipv6/conf/vethwe-pcap/disable_ipv6"))
		}
		_, err := device.EnsurePair(device.Pair{Bridge: "weave", Inner: "vethwe-bridge", Outer: "other"})
		require.ErrorIs(t, err, device.ErrWrongKind)
		require.NotContains(t, devices(t), "other")
	})
}

func TestPortGetsTheMTUOfItsBridge(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	within(t, h, func() {
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name, veth.PeerName = "port", "other"
		require.NoError(t, netlink.LinkAdd(veth))
		ports := []string{"port"}
		tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap"}, Mode: netlink.TUNTAP_MODE_TAP}
		if err := netlink.LinkAdd(tap); err == nil { // not every user may have one
			ports = append(ports, "tap")
		}
		for _, mtu := range []int{1400, 65535} {
			_, err := device.EnsureBridge(device.Bridge{Name: "weave", MTU: mtu})
			require.NoError(t, err)
			for _, port := range ports {
				require.NoError(t, device.AddPort("weave", port))
				require.Equal(t, min(mtu, 65521), attrs(t, port).MTU)
				require.Equal(t, attrs(t, "weave").Index, attrs(t, port).MasterIndex)
			}
			require.Equal(t, mtu, attrs(t, "weave").MTU)
		}
	})
}

func TestWhatCannotBeSaysSo(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	within(t, h, func() {
		before := devices(t)
		_, err := device.EnsureBridge(device.Bridge{Name: "lo"})
		require.ErrorIs(t, err, device.ErrWrongKind)
		require.ErrorIs(t, device.RemovePair("weave"), device.ErrWrongKind)
		require.ErrorIs(t, device.RemoveBridge("lo"), device.ErrWrongKind)
		for _, name := range []string{"", "sixteen-bytes-16"} {
			_, err = device.EnsureBridge(device.Bridge{Name: name})
			require.ErrorContains(t, err, "1 to 15 bytes")
			_, err = device.EnsurePair(device.Pair{Bridge: "weave", Inner: "in", Outer: name})
			require.ErrorContains(t, err, "1 to 15 bytes")
		}
		_, err = device.EnsurePair(device.Pair{Bridge: "none", Inner: "in", Outer: "out"})
		require.ErrorIs(t, err, device.ErrNoDevice)
		require.ErrorIs(t, device.AddPort("none", "lo"), device.ErrNoDevice)
		require.ErrorIs(t, device.AddPort("weave", "none"), device.ErrNoDevice)
		require.Nil(t, device.BridgeAddr("none"))
		require.Nil(t, device.BridgeAddr("lo"), "no bridge")

		_, err = device.EnsureBridge(device.Bridge{Name: "new", MTU: 1 << 20})
		require.ErrorContains(t, err, "MTU")
		_, err = device.EnsureBridge(device.Bridge{Name: "new", MAC: net.HardwareAddr{1, 0, 0, 0, 0, 0}})
		require.ErrorContains(t, err, "01:00:00:00:00:00", "a group address")
		_, err = device.EnsurePair(device.Pair{Bridge: "weave", Inner: "in", Outer: "out", MTU: 1})
		require.Error(t, err)
		require.Equal(t, before, devices(t), "nothing stays behind")
	})
}

func TestAddressesOfTheHost(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	addr := netip.MustParsePrefix("10.32.0.1/12")
	within(t, h, func() {
		for i := range 2 {
			added, err := device.AddAddress("weave", addr)
			require.NoError(t, err)
			require.Equal(t, i == 0, added)
		}
		got, err := device.Addresses("weave")
		require.NoError(t, err)
		require.Equal(t, []netip.Prefix{addr}, got)
		for range 2 {
			require.NoError(t, device.RemoveAddress("weave", addr))
		}
		got, err = device.Addresses("weave")
		require.NoError(t, err)
		require.Empty(t, got)

		require.NoError(t, device.RemoveAddress("none", addr))
		_, err = device.AddAddress("none", addr)
		require.ErrorIs(t, err, device.ErrNoDevice)
		for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("fd00::1/64")} {
			_, err = device.AddAddress("weave", bad)
			require.ErrorContains(t, err, "IPv4")
			require.ErrorContains(t, device.RemoveAddress("weave", bad), "IPv4")
		}
	})
}

// TestListsAreWhole lists devices while others come and go, which interrupts the kernel's answers.
func TestListsAreWhole(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	pair := device.Pair{Bridge: "weave", Inner: "in", Outer: "out"}
	within(t, h, func() {
		_, err := device.EnsurePair(pair)
		require.NoError(t, err)
	})
	done := make(chan error)
	go func() {
		done <- h.Do(func() error {
			for range 30 {
				if _, err := device.EnsurePair(device.Pair{Bridge: "weave", Inner: "come", Outer: "go"}); err != nil {
					return err
				}
				if err := device.RemovePair("come"); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	for {
		within(t, h, func() {
			all, err := device.Veths()
			require.NoError(t, err)
			require.True(t, all["in"] && all["out"])
		})
		select {
		case err := <-done:
			require.NoError(t, err)
			return
		default:
		}
	}
}

// TestOverlap: only a route that leads to the range by another device than ours is in the way.
func TestOverlap(t *testing.T) {
	h, _ := newHost(t, labtest.New(t), "a", 0)
	within(t, h, func() {
		_, err := device.AddAddress("weave", netip.MustParsePrefix("10.40.0.1/24"))
		require.NoError(t, err)
		weave, err := netlink.LinkByName("weave")
		require.NoError(t, err)
		require.NoError(t, netlink.RouteAdd(&netlink.Route{
			LinkIndex: weave.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
		}))
		for _, tt := range []struct{ r, except, want string }{
			{"10.32.0.0/12", "", "10.40.0.0/24 by weave"},
			{"10.40.0.128/25", "", "10.40.0.0/24 by weave"},
			{"10.32.0.0/12", "weave", ""},
			{"10.41.0.0/16", "", ""},
			{"2001:db8::/64", "", ""},
		} {
			route, err := device.Overlap(netip.MustParsePrefix(tt.r), tt.except)
			require.NoError(t, err)
			require.Equal(t, tt.want, route)
		}
	})
}

package device_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

func prefix(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, 0, byte(i)}), 12)
}

// attachment is the i-th container's, whose address is 10.32.0.i.
func attachment(c *lab.Namespace, i int) device.Attachment {
	return device.Attachment{
		Bridge: "weave", NetNS: c.Path(), HostName: device.HostName(fmt.Sprint(i)), Addresses: []netip.Prefix{prefix(i)},
	}
}

func attach(t *testing.T, h *lab.Host, a device.Attachment) (done device.Attached) {
	within(t, h, func() {
		var err error
		done, err = device.Attach(t.Context(), a)
		require.NoError(t, err)
	})
	return done
}

// transfer sends size bytes over TCP and returns what arrived.
func transfer(t *testing.T, from, to *lab.Namespace, at netip.Addr, size int) int64 {
	ln, err := to.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := from.DialContext(ctx, "tcp", ln.Addr().String())
	require.NoError(t, err)
	in, err := ln.Accept()
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, in.SetDeadline(time.Now().Add(patience)))
	go func() {
		_, _ = out.Write(make([]byte, size))
		_ = out.Close()
	}()
	n, err := io.Copy(io.Discard, in)
	require.NoError(t, err)
	return n
}

// a1 --- [weave] --- a2       the host has an address, too
func TestContainersAndTheirHostReachEachOther(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	for i, c := range c {
		done := attach(t, h, attachment(c, i+1))
		require.True(t, done.Created)
		require.Equal(t, []netip.Prefix{prefix(i + 1)}, done.Added)
		within(t, c, func() {
			require.Equal(t, done.MAC, attrs(t, "ethwe").HardwareAddr)
			require.Equal(t, 1500, attrs(t, "ethwe").MTU)
		})
	}
	within(t, h, func() {
		_, err := device.AddAddress("weave", prefix(9))
		require.NoError(t, err)
	})
	require.EqualValues(t, 1000, transfer(t, c[0], c[1], prefix(2).Addr(), 1000))
	require.EqualValues(t, 1000, transfer(t, h.Namespace, c[1], prefix(2).Addr(), 1000))
	require.EqualValues(t, 1000, transfer(t, c[0], h.Namespace, prefix(9).Addr(), 1000))
}

func TestContainerGetsWhatItsAttachmentSays(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	a := attachment(c[0], 1)
	a.Interface, a.MTU, a.MAC = "eth7", 1300, net.HardwareAddr{2, 1, 2, 3, 4, 5}
	require.Equal(t, a.MAC, attach(t, h, a).MAC)
	within(t, h, func() {
		require.Equal(t, 1300, attrs(t, a.HostName).MTU)
		require.Equal(t, "0", setting(t, "ipv6/conf/"+a.HostName+"/accept_ra"))
	})
	within(t, c[0], func() {
		require.Equal(t, a.MAC, attrs(t, "eth7").HardwareAddr)
		require.Equal(t, 1300, attrs(t, "eth7").MTU)
		require.Equal(t, "1", setting(t, "ipv4/neigh/eth7/ucast_solicit"))
	})
	require.ElementsMatch(t, []string{"10.32.0.0/12", "224.0.0.0/4"}, routes(t, c[0]))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func routes(t *testing.T, c *lab.Namespace) (dsts []string) {
	within(t, c, func() {
		list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		require.NoError(t, err)
		for _, r := range list {
			dsts = append(dsts, r.Dst.String())
		}
	})
	return dsts
}

func TestAttachAgainAddsWhatIsMissing(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	before := [][]string{devicesOf(t, h), devicesOf(t, c[0])}
	a := attachment(c[0], 1)
	first := attach(t, h, a)
	again := attach(t, h, a)
	require.False(t, again.Created)
	require.Empty(t, again.Added)
	a.Addresses = append(a.Addresses, prefix(2))
	again = attach(t, h, a)
	require.Equal(t, device.Attached{MAC: first.MAC, Added: []netip.Prefix{prefix(2)}}, again)
	within(t, h, func() { require.NoError(t, device.RemovePair(a.HostName)) })
	require.Equal(t, before, [][]string{devicesOf(t, h), devicesOf(t, c[0])})
}

// A container has one port. Whoever asks for another is told so, and nothing is changed: else two attachments would have one
// interface, and the end of either would end both.
func TestContainerHasOnePort(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	a := attachment(c[0], 1)
	attach(t, h, a)
	within(t, h, func() {
		name, err := device.PortOf(a.NetNS, "ethwe", "weave")
		require.NoError(t, err)
		require.Equal(t, a.HostName, name)
		name, err = device.PortOf(c[1].Path(), "ethwe", "weave")
		require.NoError(t, err)
		require.Empty(t, name)
		_, err = device.PortOf(a.NetNS, "lo", "weave")
		require.ErrorIs(t, err, device.ErrWrongKind)
		_, err = device.PortOf(h.Path(), "ethwe", "weave")
		require.ErrorIs(t, err, device.ErrOwnNetNS)

		other := a
		other.HostName, other.Addresses = device.HostName("other"), []netip.Prefix{prefix(2)}
		_, err = device.Attach(t.Context(), other)
		require.ErrorIs(t, err, device.ErrAttached)
		require.ErrorContains(t, err, a.HostName)
	})
	within(t, c[0], func() { require.Equal(t, a.Addresses, must(device.Addresses("ethwe"))) })
}

// A host hears of ports that go with their containers.
func TestRemovalsAreSeen(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	a := attachment(c[0], 1)
	attach(t, h, a)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- h.Do(func() error { return device.WatchRemovals(ctx, func() { seen <- struct{}{} }) })
	}()
	<-seen // it listens
	veths := func() (all map[string]bool) {
		within(t, h, func() { all = must(device.Veths()) })
		return all
	}
	require.Contains(t, veths(), a.HostName)
	within(t, c[0], func() { require.NoError(t, netlink.LinkDel(must(netlink.LinkByName("ethwe")))) })
	<-seen
	require.NotContains(t, veths(), a.HostName)
	cancel()
	require.NoError(t, <-ended)
}

func devicesOf(t *testing.T, where interface{ Do(func() error) error }) (names []string) {
	within(t, where, func() { names = devices(t) })
	return names
}

// With its first address a device loses the others of the subnet, unless a setting says otherwise, which not all containers
// let us change.
func TestOtherAddressesStay(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	a := attachment(c[0], 1)
	a.Addresses = []netip.Prefix{prefix(1), prefix(2), prefix(3)}
	attach(t, h, a)
	for i, where := range []func(*testing.T, func()){withoutSettings, func(_ *testing.T, fn func()) { fn() }} {
		where(t, func() {
			within(t, c[0], func() { require.NoError(t, device.RemoveAddress("ethwe", a.Addresses[i])) })
		})
		within(t, c[0], func() { require.Equal(t, a.Addresses[i+1:], must(device.Addresses("ethwe"))) })
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	good := attachment(c[0], 1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	fails := func() {
		before := [][]string{devicesOf(t, h), devicesOf(t, c[0]), routes(t, c[0])}
		within(t, h, func() {
			bad := good
			bad.Addresses = []netip.Prefix{prefix(1), prefix(2)}
			_, err := device.Attach(ended, bad)
			require.ErrorIs(t, err, context.Canceled)
		})
		require.Equal(t, before, [][]string{devicesOf(t, h), devicesOf(t, c[0]), routes(t, c[0])})
	}
	fails()
	attach(t, h, good)
	fails()
	within(t, c[0], func() { require.Equal(t, []netip.Prefix{prefix(1)}, must(device.Addresses("ethwe"))) })
}

func TestAttachRefusesWhatItCannotDo(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	good := attachment(c[0], 1)
	for name, test := range map[string]struct {
		change func(*device.Attachment)
		want   error
	}{
		"no bridge":     {func(a *device.Attachment) { a.Bridge = "none" }, device.ErrNoDevice},
		"not a bridge":  {func(a *device.Attachment) { a.Bridge = "lo" }, device.ErrWrongKind},
		"no namespace":  {func(a *device.Attachment) { a.NetNS = "/proc/self/ns/none" }, device.ErrNoNetNS},
		"not one":       {func(a *device.Attachment) { a.NetNS = "/proc/self/ns/mnt" }, device.ErrNoNetNS},
		"our own":       {func(a *device.Attachment) { a.NetNS = h.Path() }, device.ErrOwnNetNS},
		"taken inside":  {func(a *device.Attachment) { a.Interface = "lo" }, device.ErrWrongKind},
		"taken outside": {func(a *device.Attachment) { a.HostName = "weave" }, os.ErrExist},
		"long name":     {func(a *device.Attachment) { a.HostName = "sixteen-bytes-16" }, nil},
		"IPv6 address":  {func(a *device.Attachment) { a.Addresses = []netip.Prefix{netip.MustParsePrefix("::1/128")} }, nil},
	} {
		bad := good
		test.change(&bad)
		within(t, h, func() {
			_, err := device.Attach(t.Context(), bad)
			require.Error(t, err, name)
			if test.want != nil {
				require.ErrorIs(t, err, test.want, name)
			}
		})
	}
	require.Equal(t, []string{"lo"}, devicesOf(t, c[0]))

	// An interface of the right name that leads elsewhere is not ours to use.
	within(t, h, func() {
		_, err := device.EnsureBridge(device.Bridge{Name: "other"})
		require.NoError(t, err)
		elsewhere := good
		elsewhere.Bridge = "other"
		_, err = device.Attach(t.Context(), elsewhere)
		require.NoError(t, err)
		_, err = device.Attach(t.Context(), good)
		require.ErrorIs(t, err, device.ErrWrongKind)
	})
}

func TestNeighboursAreTold(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	attach(t, h, attachment(c[0], 1))
	var heard *tap
	within(t, c[0], func() { heard = openTap(t, "ethwe") })

	done := attach(t, h, attachment(c[1], 2))
	arp := heard.next(func(p gopacket.Packet) bool { return p.Layer(layers.LayerTypeARP) != nil }).Layer(layers.LayerTypeARP).(*layers.ARP)
	require.EqualValues(t, layers.ARPRequest, arp.Operation)
	require.EqualValues(t, done.MAC, arp.SourceHwAddress)
	require.Equal(t, prefix(2).Addr().AsSlice(), arp.SourceProtAddress)
	require.Equal(t, prefix(2).Addr().AsSlice(), arp.DstProtAddress)
}

func TestNoDescriptorIsLost(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 1)
	open := func() int { return len(must(os.ReadDir("/proc/self/fd"))) }
	a := attachment(c[0], 1)
	bad := a
	bad.HostName = "weave"
	round := func() {
		within(t, h, func() {
			_, err := device.Attach(t.Context(), bad)
			require.Error(t, err)
			_, err = device.Attach(t.Context(), a)
			require.NoError(t, err)
			require.NoError(t, device.RemovePair(a.HostName))
		})
	}
	round()
	before := open()
	for range 5 {
		round()
	}
	require.Equal(t, before, open())
}

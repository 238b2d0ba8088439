package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/examples/weaver/demo"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestKernelPasswordForgotten starts a daemon without the password that it had before it was killed: what containers send does not
// go on in the clear.
func TestKernelPasswordForgotten(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	flags := []string{"--password=tell nobody"}
	ctx, c := newCluster(t, "", flags...)
	for _, h := range c.Hosts {
		require.NoError(t, h.Launch(ctx))
	}
	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx))
	}
	a, b := c.Hosts[0], c.Hosts[1]
	waitFor(t, func() bool { return carrier(ctx, a) == "fastdp2" && carrier(ctx, b) == "fastdp2" })
	seen := captureTunnels(t, a)
	s := labtest.NewStream(t, a.Container, b.Container, b.Address.Addr())
	s.GoOn()
	require.NoError(t, a.Kill())
	require.NoError(t, b.Kill()) // it would refuse a daemon without the password, which then ends
	s.GoOn()
	require.Zero(t, seen.clear.Load())
	require.NotZero(t, seen.esp.Load())
	flags[0] = "--password="
	require.NoError(t, a.Launch(ctx))
	waitFor(t, func() bool {
		r, err := a.Client.Report(ctx)
		return err == nil && r.Datapath != nil && r.Datapath.Running
	})
	before := seen.all.Load()
	require.NoError(t, a.Container.Do(func() error { return sendDatagrams(b.Address.Addr(), 20) }))
	waitFor(t, func() bool { return seen.all.Load() > before }) // the daemon tries to connect: the capture has caught up
	require.Zero(t, seen.clear.Load(), "packets in the clear")
	require.NoError(t, a.Do(func() error {
		policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		require.Empty(t, policies)
		return err
	}))
}

// TestKernelPortCut loses what goes to the UDP port of the tunnels: a stream goes on by sleeve, and returns when that is over.
func TestKernelPortCut(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	ctx, c := newCluster(t, "")
	for _, h := range c.Hosts {
		require.NoError(t, h.Launch(ctx))
	}
	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx))
	}
	a, b := c.Hosts[0], c.Hosts[1]
	bothUse := func(overlay string) {
		t.Helper()
		waitFor(t, func() bool {
			return strings.HasPrefix(link(ctx, a, b), overlay) && strings.HasPrefix(link(ctx, b, a), overlay)
		})
	}
	bothUse("fastdp2")
	s := labtest.NewStream(t, a.Container, b.Container, b.Address.Addr())
	block := func(request func(*netlink.XfrmPolicy) error) {
		_, all, err := net.ParseCIDR("0.0.0.0/0")
		require.NoError(t, err)
		for _, dir := range []netlink.Dir{netlink.XFRM_DIR_OUT, netlink.XFRM_DIR_IN} {
			policy := &netlink.XfrmPolicy{Src: all, Dst: all, Proto: unix.IPPROTO_UDP, DstPort: 6784, Dir: dir, Action: netlink.XFRM_POLICY_BLOCK}
			require.NoError(t, a.Do(func() error { return request(policy) }))
		}
	}
	for range 2 {
		block(netlink.XfrmPolicyAdd)
		bothUse("sleeve")
		s.GoOn()
		block(netlink.XfrmPolicyDel)
		bothUse("fastdp2")
		s.GoOn()
	}
	stall, unexplained := s.Longest()
	t.Log("longest stall", stall, "of which not for lack of processors", unexplained)
}

// TestKernelEncryptedRelay has the middle one of three hosts relay in its kernel what the others encrypt for it.
func TestKernelEncryptedRelay(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster, err := demo.NewCluster(demo.ClusterConfig{Hosts: 3, Password: "tell nobody", Daemon: weaverPath(t)})
	require.NoError(t, err)
	defer func() { require.NoError(t, cluster.Close()) }()
	a, b, c := cluster.Hosts[0], cluster.Hosts[1], cluster.Hosts[2]
	blackhole(t, a, c.Underlay)
	blackhole(t, c, a.Underlay)
	for _, h := range cluster.Hosts {
		require.NoError(t, h.Launch(ctx))
	}
	for _, h := range cluster.Hosts {
		require.NoError(t, h.Attach(ctx))
	}
	waitFor(t, func() bool {
		return link(ctx, a, b) == "fastdp2, encrypted" && link(ctx, b, a) == "fastdp2, encrypted" &&
			link(ctx, b, c) == "fastdp2, encrypted" && link(ctx, c, b) == "fastdp2, encrypted"
	})
	seen := captureTunnels(t, b)
	require.NoError(t, a.Reach(ctx, c.Address.Addr()))
	before := misses(ctx, t, b)
	_, err = a.Ping(ctx, c.Address.Addr(), 100)
	require.NoError(t, err)
	r, err := b.Client.Report(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, r.Datapath.Flows["relay"], "one for each direction: %+v", r.Datapath)
	require.Less(t, misses(ctx, t, b), before+50, "it goes by flows")
	waitFor(t, func() bool { return seen.esp.Load() >= 400 }) // each of 100 requests and answers comes and goes
	require.Zero(t, seen.clear.Load(), "packets in the clear")
}

// blackhole has a host reach another no more.
func blackhole(t *testing.T, h *demo.Host, other netip.Addr) {
	t.Helper()
	require.NoError(t, h.Do(func() error {
		to := &net.IPNet{IP: other.AsSlice(), Mask: net.CIDRMask(other.BitLen(), other.BitLen())}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Type: unix.RTN_BLACKHOLE})
	}))
}

// link says which overlay carries frames of a host to another, and whether it is encrypted; "" if none does.
func link(ctx context.Context, h, to *demo.Host) string {
	r, err := h.Client.Report(ctx)
	if err != nil {
		return ""
	}
	for _, c := range r.Router.Connections {
		if c.Name == to.Peer && c.State == "established" {
			if c.Encrypted {
				return c.Link.Overlay + ", encrypted"
			}
			return c.Link.Overlay
		}
	}
	return ""
}

// misses returns how many frames no flow matched on a host.
func misses(ctx context.Context, t *testing.T, h *demo.Host) uint64 {
	t.Helper()
	r, err := h.Client.Report(ctx)
	require.NoError(t, err)
	return r.Datapath.Counts["misses"]
}

// sendDatagrams sends some datagrams to a host; nobody listens for them.
func sendDatagrams(to netip.Addr, count int) error {
	conn, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	for range count {
		if _, err := conn.Write([]byte("in the clear")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
	return nil
}

// tunnelCapture counts packets that a host sends and gets.
type tunnelCapture struct{ clear, esp, all atomic.Uint64 }

// captureTunnels looks at the packets of a host until the test ends.
func captureTunnels(t *testing.T, h *demo.Host) *tunnelCapture {
	c := &tunnelCapture{}
	var fd int
	require.NoError(t, h.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}))
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { c.run(fd, ended) })
	t.Cleanup(func() {
		close(ended)
		wg.Wait()
		_ = unix.Close(fd)
	})
	return c
}

func (c *tunnelCapture) run(fd int, ended <-chan struct{}) {
	b := make([]byte, 65536)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == nil:
			c.see(b[:n])
		case err != unix.EAGAIN && err != unix.EINTR:
			return
		}
		select {
		case <-ended:
			return
		default:
		}
	}
}

// see counts a packet of IPv4.
func (c *tunnelCapture) see(b []byte) {
	c.all.Add(1)
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	switch header := int(b[0]&15) * 4; {
	case b[9] == unix.IPPROTO_ESP:
		c.esp.Add(1)
	case b[9] == unix.IPPROTO_UDP && len(b) >= header+4 && binary.BigEndian.Uint16(b[header+2:]) == 6784:
		c.clear.Add(1)
	}
}

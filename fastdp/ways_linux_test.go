package fastdp_test

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestIntegrationIPv6 has a tunnel over IPv6, with the overlay that can do that.
func TestIntegrationIPv6(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSitesAt(t, 2, func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:7::%d", i)) })
	a, b, c := s.connectBeside(fastdp.Name2)
	for _, st := range c.ends[0].Statuses() {
		if st.Overlay == fastdp.Name {
			require.Contains(t, st.Reason, "no usable addresses")
		}
	}
	atA, atB := s.station(a, 1), s.station(b, 1)
	askAll(t, atA, 1)
	echo(t, atB, stationAddr(a, 1), 3, 100)
	byFlows(t, a, func() { echo(t, atA, stationAddr(b, 1), 200, fastdp.DefaultMTU-28) })
	require.Equal(t, fastdp.Name2, c.ends[0].Status().Overlay)
	st := c.ends[0].Status()
	require.Equal(t, netip.AddrPortFrom(b.addr, fastdp.DefaultPort), st.Remote)
}

// TestIntegrationBridged has stations of one host behind a bridge, of which the datapath sees one port, and another attached
// straight to the datapath.
func TestIntegrationBridged(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s, a, b, _ := connectedSites(t)
	s.bridge(a)
	require.NoError(t, a.node.dp.AddPort(t.Context(), "vethwe-datapath"))
	awaitDevice(t, a.Namespace, "vethwe-datapath")
	awaitDevice(t, a.Namespace, "vethwe-bridge")
	first, second := s.bridged(a, 1), s.bridged(a, 2)
	direct, far := s.station(a, 3), s.station(b, 1)
	askAll(t, first, 3)
	askAll(t, far, 3)
	echo(t, direct, stationAddr(a, 1), 3, 100)
	echo(t, far, stationAddr(a, 2), 3, fastdp.DefaultMTU-28)
	byFlows(t, a, func() { echo(t, first, stationAddr(b, 1), 200, 100) })
	byFlows(t, a, func() { echo(t, first, stationAddr(a, 2), 200, 100) })
	echo(t, second, stationAddr(a, 3), 3, 100)
}

// bridge makes a bridge on a host, and a pair of devices of which one is its port.
func (s *sites) bridge(at *site) {
	require.NoError(s.t, at.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "weave", MTU: fastdp.DefaultMTU}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethwe-bridge", MTU: fastdp.DefaultMTU}, PeerName: "vethwe-datapath"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("vethwe-datapath")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(peer, fastdp.DefaultMTU); err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(veth, br); err != nil {
			return err
		}
		for _, l := range []netlink.Link{br, veth, peer} {
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	}))
}

// bridged adds a container that is attached to the bridge of a host.
func (s *sites) bridged(at *site, j int) *lab.Namespace {
	c := s.container(at, j)
	device := fmt.Sprintf("veth%d", j)
	require.NoError(s.t, at.Do(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("weave")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, br)
	}))
	awaitDevice(s.t, at.Namespace, device)
	awaitDevice(s.t, c, "eth0")
	return c
}

// TestIntegrationTagged has frames with a VLAN tag go by flows as others do.
func TestIntegrationTagged(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s, a, b, _ := connectedSites(t)
	atA, atB := s.station(a, 1), s.station(b, 1)
	tag(t, atA, 5, netip.MustParsePrefix("10.33.1.1/16"))
	tag(t, atB, 5, netip.MustParsePrefix("10.33.2.1/16"))
	echo(t, atA, netip.MustParseAddr("10.33.2.1"), 3, 100)
	byFlows(t, a, func() { echo(t, atA, netip.MustParseAddr("10.33.2.1"), 200, 1000) })
	echo(t, atB, stationAddr(a, 1), 3, 100) // without a tag
}

// tag adds a device to a container whose frames have a VLAN tag.
func tag(t *testing.T, c *lab.Namespace, id int, at netip.Prefix) {
	t.Helper()
	require.NoError(t, c.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "tagged", ParentIndex: eth.Attrs().Index}, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	}))
	setUp(t, c, "tagged", at)
	awaitDevice(t, c, "tagged")
}

// TestIntegrationTooBig narrows the way of a tunnel, next to the sender's host and behind a relay: the sender is told how long
// its packets may be.
func TestIntegrationTooBig(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newChain(t, 3)
	for _, at := range s.all {
		s.start(at)
	}
	a, b, c := s.all[0], s.all[1], s.all[2]
	s.w.connectAt(t, a.node, b.node, chainAddr(1, 1), chainAddr(1, 2)).awaitUse(t, fastdp.Name)
	s.w.connectAt(t, b.node, c.node, chainAddr(2, 1), chainAddr(2, 2)).awaitUse(t, fastdp.Name)
	atA, atB := s.station(a, 1), s.station(b, 1)
	s.station(c, 1)
	echo(t, atA, stationAddr(c, 1), 3, fastdp.DefaultMTU-28)
	echo(t, atA, stationAddr(b, 1), 3, fastdp.DefaultMTU-28)
	require.NoError(t, b.wire.SetMTU(1350)) // between b and c
	require.Equal(t, 1300, tellsMTU(t, atA, stationAddr(c, 1)), "through the relay: %+v", b.node.dp.Status())
	require.Equal(t, 1300, tellsMTU(t, atB, stationAddr(c, 1)), "%+v", b.node.dp.Status())
	require.NotZero(t, b.node.dp.Status().Counts["too_big"])
	require.NoError(t, a.wire.SetMTU(1320)) // between a and b
	require.Equal(t, 1270, tellsMTU(t, atA, stationAddr(b, 1)), "%+v", a.node.dp.Status())
	st := labtest.NewStream(t, atA, atB, stationAddr(b, 1))
	st.GoOn()
}

// tellsMTU sends datagrams of full length to a station until the sender's kernel knows of a smaller MTU, and returns that.
func tellsMTU(t *testing.T, from *lab.Namespace, to netip.Addr) (mtu int) {
	t.Helper()
	conn, err := from.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, echoPort).String())
	require.NoError(t, err)
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, _ = conn.Write(make([]byte, fastdp.DefaultMTU-28)) // fails once the kernel knows
		var got error
		err := raw.Control(func(fd uintptr) { mtu, got = syscall.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU) })
		return err == nil && got == nil && mtu < fastdp.DefaultMTU
	}, patience, 20*time.Millisecond, "nobody said that packets are too long")
	return mtu
}

// TestIntegrationPortCut loses what goes to the UDP port of the tunnels, and nothing else, with the overlay of the old peers.
func TestIntegrationPortCut(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	a, b, c := s.connectBeside(fastdp.Name)
	atA, atB := s.station(a, 1), s.station(b, 1)
	st := labtest.NewStream(t, atA, atB, stationAddr(b, 1))
	cut := cutPort(t, a, fastdp.DefaultPort)
	c.awaitUseWithin(t, "sleeve", time.Minute)
	require.Contains(t, c.ends[0].Statuses()[0].Reason, "no heartbeat")
	st.GoOn()
	echo(t, atB, stationAddr(a, 1), 10, 1000)
	cut()
	c.awaitUseWithin(t, fastdp.Name, time.Minute)
	st.GoOn()
	echo(t, atB, stationAddr(a, 1), 10, 1000)
	byFlows(t, a, func() { echo(t, atA, stationAddr(b, 1), 200, 100) })
}

// TestIntegrationTunnelDown sets the device of the tunnels down: it is put right, and frames pass again.
func TestIntegrationTunnelDown(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s, a, b, _ := connectedSites(t)
	atA := s.station(a, 1)
	s.station(b, 1)
	echo(t, atA, stationAddr(b, 1), 3, 100)
	tunnel := func() (l netlink.Link, err error) {
		err = a.Do(func() (err error) {
			l, err = netlink.LinkByName(fmt.Sprintf("vxlan-%d", fastdp.DefaultPort))
			return err
		})
		return l, err
	}
	l, err := tunnel()
	require.NoError(t, err)
	require.NoError(t, a.Do(func() error { return netlink.LinkSetDown(l) }))
	require.Eventually(t, func() bool {
		l, err := tunnel()
		return err == nil && l.Attrs().Flags&net.FlagUp != 0
	}, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return a.node.dp.Status().Counts["repairs"] > 0 }, patience, time.Millisecond, "it is counted once the kernel has said so")
	require.EqualValues(t, 1, a.node.dp.Status().Counts["repairs"])
	echo(t, atA, stationAddr(b, 1), 3, 100)
}

// cutPort has a host lose all packets to a UDP port, its own and others', until heal is called.
func cutPort(t *testing.T, at *site, port int) (heal func()) {
	t.Helper()
	_, all, err := net.ParseCIDR("0.0.0.0/0")
	require.NoError(t, err)
	policy := func(dir netlink.Dir) *netlink.XfrmPolicy {
		return &netlink.XfrmPolicy{Src: all, Dst: all, Proto: unix.IPPROTO_UDP, DstPort: port, Dir: dir, Action: netlink.XFRM_POLICY_BLOCK}
	}
	for _, dir := range []netlink.Dir{netlink.XFRM_DIR_OUT, netlink.XFRM_DIR_IN} {
		require.NoError(t, at.Do(func() error { return netlink.XfrmPolicyAdd(policy(dir)) }))
	}
	return func() {
		for _, dir := range []netlink.Dir{netlink.XFRM_DIR_OUT, netlink.XFRM_DIR_IN} {
			require.NoError(t, at.Do(func() error { return netlink.XfrmPolicyDel(policy(dir)) }))
		}
	}
}

var (
	dumped  = regexp.MustCompile(`^recirc_id\((0x[0-9a-f]+|\d+)\)`)
	hasPort = regexp.MustCompile(`in_port\(\d+\)`) // one that is not matched has a mask
	hasMAC  = regexp.MustCompile(`eth\((src|dst)=[0-9a-f:]+\)`)
)

// TestIntegrationDumpFlows compares what the tool of Open vSwitch says with the status.
func TestIntegrationDumpFlows(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	tool := labtest.RequireTool(t, "ovs-dpctl", "openvswitch-switch")
	s := newChain(t, 3)
	for _, at := range s.all {
		s.start(at)
	}
	a, b, c := s.all[0], s.all[1], s.all[2]
	s.w.connectAt(t, a.node, b.node, chainAddr(1, 1), chainAddr(1, 2)).awaitUse(t, fastdp.Name)
	s.w.connectAt(t, b.node, c.node, chainAddr(2, 1), chainAddr(2, 2)).awaitUse(t, fastdp.Name)
	atA, atB := s.station(a, 1), s.station(b, 1)
	s.station(b, 2)
	s.station(c, 1)
	askAll(t, atA, 3)
	echo(t, atB, stationAddr(b, 2), 3, 100)
	for _, at := range s.all {
		require.EventuallyWithT(t, func(ct *assert.CollectT) { // flows that are not to last come and go between the two looks
			told := at.node.dp.Status().Flows
			out, err := at.Command(t.Context(), tool, "dump-flows", "datapath").Output()
			assert.NoError(ct, err)
			assert.Equal(ct, told, countDumped(string(out)), "%s", out)
		}, 3*patience, 50*time.Millisecond) // the tool takes its time in a guest
	}
}

// countDumped tells what the flows of a listing are for, by what they match.
func countDumped(output string) map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(strings.TrimSpace(output)) {
		match, _, ok := strings.Cut(line, "actions:")
		id := dumped.FindStringSubmatch(match)
		if !ok || id == nil {
			counts["unreadable"]++
			continue
		}
		tunnel, port, eth := strings.Contains(match, "tunnel("), hasPort.MatchString(match), hasMAC.MatchString(match)
		name := map[string]string{
			"0 false true true": "source", "0x1 false false true": "to_peer", "0x1 false true true": "from_port",
			"0 true true true": "arrive", "0 true true false": "relay", "0x2 false false true": "deliver", "0x2 true true true": "spread",
		}[fmt.Sprintf("%s %t %t %t", id[1], tunnel, port, eth)]
		counts[name]++
	}
	return counts
}

package ipsec_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// machine is a host with a VXLAN device, whose packets are protected:
//
//	vx 10.77.0.1 --- under 192.168.77.1 ------- under 192.168.77.2 --- vx 10.77.0.2
type machine struct {
	*host
	at     *lab.Host
	device string     // of the underlay
	inner  netip.Addr // in the tunnel
	kern   *ipsec.XFRM

	station *lab.Namespace // that has the inner address; nil: the host itself
}

// start is that of host, on the kernel.
func (m *machine) start() {
	require.NoError(m.t, m.at.Do(func() (err error) {
		m.kern, err = ipsec.OpenKernel()
		return err
	}))
	m.cfg.Kernel = m.kern
	p, err := ipsec.New(m.cfg)
	require.NoError(m.t, err)
	require.NoError(m.t, p.Guard(tunnelPort))
	m.p = p
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(m.t, p.Run(ctx)) })
	kern := m.kern
	m.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		require.NoError(m.t, kern.Close())
	})
	m.t.Cleanup(m.stop)
}

// twoMachines makes two hosts whose tunnel is there already; nothing is protected before start.
func twoMachines(t *testing.T, cfg ipsec.Config) (a, b *machine) {
	a, b = joinedMachines(t, cfg, addrA, addrB)
	a.tunnel(b)
	b.tunnel(a)
	return a, b
}

// startMachines makes two machines and starts protection.
func startMachines(t *testing.T, cfg ipsec.Config) (a, b *machine) {
	a, b = twoMachines(t, cfg)
	a.start()
	b.start()
	return a, b
}

// joinedMachines makes two hosts with an underlay between them.
func joinedMachines(t *testing.T, cfg ipsec.Config, atA, atB netip.Addr) (a, b *machine) {
	l := labtest.New(t)
	machines := [2]*machine{}
	for i, h := range []*host{{name: nameA, addr: atA}, {name: nameB, addr: atB}} {
		at, err := l.Host(h.name.String())
		require.NoError(t, err)
		h.t, h.cfg = t, cfg
		machines[i] = &machine{host: h, at: at, inner: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})}
	}
	a, b = machines[0], machines[1]
	k, err := l.Link(a.at, b.at, lab.LinkConfig{A: netip.PrefixFrom(atA, 24), B: netip.PrefixFrom(atB, 24)})
	require.NoError(t, err)
	for _, m := range machines {
		m.device = k.Device(m.at)
	}
	return a, b
}

// tunnel makes the VXLAN device, without checksums as fastdp has it. It knows its neighbour, since what waits for an answer to ARP
// would arrive after all.
func (m *machine) tunnel(remote *machine) {
	sums := []string{"noudpcsum"}
	if m.addr.Is6() {
		sums = []string{"udp6zerocsumtx", "udp6zerocsumrx"}
	}
	args := append([]string{"link", "add", "vx", "address", m.innerMAC().String(), "mtu", strconv.Itoa(fastdp.DefaultMTU), "type", "vxlan", "id", "77",
		"local", m.addr.String(), "remote", remote.addr.String(), "dstport", strconv.Itoa(tunnelPort)}, sums...)
	out, err := m.at.Command(context.Background(), "ip", args...).CombinedOutput()
	require.NoError(m.t, err, "%s", out)
	require.NoError(m.t, m.at.Do(func() error {
		vx, err := netlink.LinkByName("vx")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrAdd(vx, addr24(m.inner)),
			netlink.LinkSetUp(vx),
			setNeighbour(vx.Attrs().Name, remote.inner, remote.innerMAC()))
	}))
}

func (m *machine) innerMAC() net.HardwareAddr {
	return net.HardwareAddr{0x0a, 0x77, 0, 0, 0, m.inner.As4()[3]}
}

// untunnel removes the device.
func (m *machine) untunnel() {
	require.NoError(m.t, m.at.Do(func() error {
		vx, err := netlink.LinkByName("vx")
		if err != nil {
			return err
		}
		return netlink.LinkDel(vx)
	}))
}

func addr24(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
}

// statistic returns a counter of IPsec of a machine.
func (m *machine) statistic(name string) (n int) {
	var text []byte
	require.NoError(m.t, m.at.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/xfrm_stat")
		return err
	}))
	for line := range strings.Lines(string(text)) {
		var key string
		var value int
		if _, err := fmt.Sscan(line, &key, &value); err == nil && key == name {
			n = value
		}
	}
	return n
}

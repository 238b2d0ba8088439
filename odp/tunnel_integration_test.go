//go:build linux

package odp_test

import (
	"context"
	"net"
	"os"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/odp"
)

const tunnelPort = 5

// newUnderlay makes the network that tunnels go over: this host is 192.168.77.1 and fd77::1 there, and the test is 2.
func newUnderlay(t *testing.T) *tap {
	t.Helper()
	u := newTap(t, "odpunder", false)
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/odpunder/disable_ipv6", []byte("0"), 0))
	link, err := netlink.LinkByName(u.name)
	require.NoError(t, err)
	for _, host := range []struct{ us, them string }{{"192.168.77.1/24", "192.168.77.2"}, {"fd77::1/64", "fd77::2"}} {
		addr, err := netlink.ParseAddr(host.us)
		require.NoError(t, err)
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		require.NoError(t, netlink.AddrAdd(link, addr))
		require.NoError(t, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(host.them), HardwareAddr: hw(0x77),
		}))
	}
	return u
}

// next returns the next frame for the test's host: the kernel also says hello to the network.
func (d *tap) next(t *testing.T) gopacket.Packet {
	t.Helper()
	for {
		p := gopacket.NewPacket(d.read(t), layers.LayerTypeEthernet, gopacket.Default)
		if eth := p.LinkLayer().(*layers.Ethernet); eth.DstMAC.String() == hw(0x77).String() {
			return p
		}
	}
}

// turned is the frame as the other side would send it. The sums of its checksums stay what they are.
func turned(p gopacket.Packet) []byte {
	b := append([]byte(nil), p.Data()...)
	swap := func(at, n int) {
		for i := range n {
			b[at+i], b[at+n+i] = b[at+n+i], b[at+i]
		}
	}
	swap(0, 6)
	if p.NetworkLayer().LayerType() == layers.LayerTypeIPv4 {
		swap(26, 4)
	} else {
		swap(22, 16)
	}
	return b
}

type tunneling struct {
	name   string
	spec   odp.VportSpec
	device odp.TunnelDevice // instead of the kernel's own kind of vport
	set    string
	match  string
	check  func(t *testing.T, p gopacket.Packet)
}

func tunnelings() []tunneling {
	vxlan := func(t *testing.T, p gopacket.Packet) *layers.VXLAN {
		var v layers.VXLAN
		require.NoError(t, v.DecodeFromBytes(p.TransportLayer().LayerPayload(), gopacket.NilDecodeFeedback), p)
		require.EqualValues(t, 5, v.VNI)
		return &v
	}
	ip4 := func(t *testing.T, p gopacket.Packet) {
		ip := p.NetworkLayer().(*layers.IPv4)
		require.Equal(t, "192.168.77.1", ip.SrcIP.String())
		require.EqualValues(t, 9, ip.TTL)
		require.EqualValues(t, 8, ip.TOS)
		require.Equal(t, layers.IPv4DontFragment, ip.Flags)
	}
	const set4 = "tun_id=0x5,src=192.168.77.1,dst=192.168.77.2,tos=0x8,ttl=9,"
	const match4 = "tun_id=0x5,src=192.168.77.2,dst=192.168.77.1,tos=0x8,ttl=9,"
	plain := func(t *testing.T, p gopacket.Packet) {
		require.False(t, vxlan(t, p).GBPExtension)
		require.EqualValues(t, 6785, p.TransportLayer().(*layers.UDP).DstPort)
		require.Zero(t, p.TransportLayer().(*layers.UDP).Checksum)
		ip4(t, p)
	}
	policy := func(t *testing.T, p gopacket.Packet) {
		require.EqualValues(t, 7, vxlan(t, p).GBPGroupPolicyID)
		ip4(t, p)
	}
	six := func(t *testing.T, p gopacket.Packet) {
		vxlan(t, p)
		require.EqualValues(t, 9, p.NetworkLayer().(*layers.IPv6).HopLimit)
		require.NotZero(t, p.TransportLayer().(*layers.UDP).Checksum)
	}
	geneve := func(t *testing.T, p gopacket.Packet) {
		g := p.Layer(layers.LayerTypeGeneve).(*layers.Geneve)
		require.EqualValues(t, 5, g.VNI)
		require.Len(t, g.Options, 1)
		require.EqualValues(t, 0x102, g.Options[0].Class)
		require.Equal(t, []byte{0, 0, 0, 10}, g.Options[0].Data)
		ip4(t, p)
	}
	gre := func(t *testing.T, p gopacket.Packet) {
		g := p.Layer(layers.LayerTypeGRE).(*layers.GRE)
		require.False(t, g.ChecksumPresent)
		require.EqualValues(t, 5, g.Key)
		ip4(t, p)
	}
	sum := func(t *testing.T, p gopacket.Packet) {
		require.True(t, p.Layer(layers.LayerTypeGRE).(*layers.GRE).ChecksumPresent)
		ip4(t, p)
	}
	const option, group = "geneve({class=0x102,type=0x80,len=4,0xa}),", "vxlan(gbp(id=7)),"
	const set6, match6 = "tun_id=0x5,ipv6_src=fd77::1,ipv6_dst=fd77::2,ttl=9,flags(csum|key)", "tun_id=0x5,ipv6_src=fd77::2,ipv6_dst=fd77::1,ttl=9,flags(+csum+key)"
	return []tunneling{
		{"vxlan", odp.VportSpec{Type: odp.VXLAN, DstPort: 6785}, odp.TunnelDevice{}, set4 + "flags(df|key)", match4 + "flags(-csum+key)", plain},
		{"vxlan device", odp.VportSpec{}, odp.TunnelDevice{Kind: odp.VXLAN, Port: 6785}, set4 + "flags(df|key)", match4 + "flags(-csum+key)", plain},
		{"vxlan with policy", odp.VportSpec{Type: odp.VXLAN, GBP: true}, odp.TunnelDevice{}, set4 + group + "flags(df|key)", match4 + group + "flags(+key)", policy},
		{"vxlan device with policy", odp.VportSpec{}, odp.TunnelDevice{Kind: odp.VXLAN, GBP: true}, set4 + group + "flags(df|key)", match4 + group + "flags(+key)", policy},
		{"vxlan over IPv6", odp.VportSpec{Type: odp.VXLAN}, odp.TunnelDevice{}, set6, match6, six},
		{"geneve", odp.VportSpec{Type: odp.Geneve}, odp.TunnelDevice{}, set4 + option + "flags(df|key)", match4 + option + "flags(+key)", geneve},
		{"geneve device", odp.VportSpec{}, odp.TunnelDevice{Kind: odp.Geneve}, set4 + option + "flags(df|key)", match4 + option + "flags(+key)", geneve},
		{"gre", odp.VportSpec{Type: odp.GRE}, odp.TunnelDevice{}, set4 + "flags(df|key)", match4 + "flags(-csum+key)", gre},
		{"gre device", odp.VportSpec{}, odp.TunnelDevice{Kind: odp.GRE}, set4 + "flags(df|key)", match4 + "flags(-csum+key)", gre},
		// The kernel sends these, but devices made for flows do not accept them.
		{"gre with checksum", odp.VportSpec{Type: odp.GRE}, odp.TunnelDevice{}, set4 + "flags(df|csum|key)", "", sum},
	}
}

// What is sent into a tunnel leaves by the network below with the outer header that the flow says, and what comes back from there
// is matched by its outer header and comes out as it was.
func TestIntegrationTunnels(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest12")
	under := newUnderlay(t)
	frame := udp4().build(t, nil)
	for _, c := range tunnelings() {
		t.Run(c.name, func(t *testing.T) {
			c.spec.Name, c.spec.Number, c.spec.UpcallPIDs = "odptun", tunnelPort, []uint32{w.up.PID()}
			if c.device.Kind != 0 {
				c.device.Name, c.spec.Type = c.spec.Name, odp.Netdev
				require.NoError(t, w.conn.CreateTunnelDevice(t.Context(), c.device))
			}
			_, err := w.conn.CreateVport(t.Context(), w.dp, c.spec)
			require.NoError(t, err)
			t.Cleanup(func() { removeTunnel(t, w, c) })
			flows := rule("", "set(tunnel("+c.set+")),5")
			if c.match != "" {
				flows = append(flows, [2]string{"tunnel(" + c.match + "),in_port(5),eth()", "2"})
			}
			w.rules(t, flows...)
			require.Empty(t, w.through(t, inPort, frame))
			p := under.next(t)
			c.check(t, p)
			require.Equal(t, frame, p.Data()[len(p.Data())-len(frame):])

			if c.match != "" {
				under.write(t, turned(p))
				require.Equal(t, frame, w.taps[outPort].read(t)) // tunnels hand on what they receive a little later
				require.Empty(t, w.through(t, inPort))
			}
		})
	}
}

func removeTunnel(t *testing.T, w *wire, c tunneling) {
	ctx := context.Background()
	if c.device.Kind != 0 {
		require.NoError(t, w.conn.DeleteDevice(ctx, c.spec.Name))
		return
	}
	require.NoError(t, w.conn.DeleteVport(ctx, w.dp, tunnelPort))
}

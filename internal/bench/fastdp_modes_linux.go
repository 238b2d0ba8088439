package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/peer"
)

// MTUs of containers over a path of 1500 bytes.
const (
	plainMTU = 1450
	espMTU   = 1416
)

// fastdpMode is one way to join the containers by the kernel.
type fastdpMode struct {
	name, about string
	reference   string             // the mode that it is to be compared with
	bars        map[string]float64 // that the ratio of a figure is to reach, or for ping not to exceed
	setup       func(context.Context, *pair, *group) error
}

func fastdpModes() []fastdpMode {
	return []fastdpMode{
		{name: "veth", about: "the containers side by side on a veth pair, for scale", setup: setupVeth},
		{name: "vxlan", about: "the kernel's VXLAN and bridge", setup: kernelVXLAN(plainMTU)},
		{name: "fastdp", about: "fastdp, containers attached to the datapath", reference: "vxlan",
			bars: map[string]float64{"stream": 0.95, "ping": 1.05}, setup: setupFastDP(plainMTU, false, false)},
		{name: "fastdp-bridged", about: "fastdp, containers on a bridge", reference: "vxlan",
			bars: map[string]float64{"stream": 0.85}, setup: setupFastDP(plainMTU, true, false)},
		{name: "vxlan-esp", about: "the kernel's VXLAN and bridge in hand-made ESP", setup: kernelVXLAN(espMTU)},
		{name: "fastdp-esp", about: "fastdp encrypted, containers attached to the datapath", reference: "vxlan-esp",
			bars: map[string]float64{"stream": 0.95}, setup: setupFastDP(espMTU, false, true)},
	}
}

func fastdpModeNames() (names []string) {
	for _, m := range fastdpModes() {
		names = append(names, m.name)
	}
	return names
}

func benchAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 48, 0, byte(i + 1)}) }

// setupVeth leaves the hosts out.
func setupVeth(_ context.Context, p *pair, _ *group) (err error) {
	p.mtu = underlayMTU
	var ends [2]*lab.Host
	for i := range ends {
		if ends[i], err = p.lab.Host(fmt.Sprintf("c%d", i+1)); err != nil {
			return err
		}
		p.containers[i], p.addrs[i] = ends[i].Namespace, benchAddr(i)
	}
	_, err = p.lab.Link(ends[0], ends[1], lab.LinkConfig{MTU: p.mtu, A: netip.PrefixFrom(p.addrs[0], 24), B: netip.PrefixFrom(p.addrs[1], 24)})
	return err
}

// addContainer makes a container of a host, connected to its bridge or, by join, to its datapath.
func (p *pair) addContainer(ctx context.Context, i int, at string, join func(string) error) error {
	c, err := p.hosts[i].Container(fmt.Sprintf("c%d", i+1))
	if err != nil {
		return err
	}
	p.containers[i], p.addrs[i] = c, benchAddr(i)
	return p.hosts[i].Do(func() error {
		_, err := device.Attach(ctx, device.Attachment{
			Bridge: at, Join: join, NetNS: c.Path(), HostName: "toc", MTU: p.mtu,
			Addresses: []netip.Prefix{netip.PrefixFrom(p.addrs[i], 24)},
		})
		return err
	})
}

const benchBridge = "bridge"

// kernelVXLAN puts the containers onto bridges, and a VXLAN device of the kernel between these, without checksums, as is usual;
// with the MTU for encryption in ESP that is made by hand.
func kernelVXLAN(mtu int) func(context.Context, *pair, *group) error {
	return func(ctx context.Context, p *pair, _ *group) error {
		p.mtu = mtu
		for i, h := range p.hosts {
			err := h.Do(func() error {
				_, err := device.EnsureBridge(device.Bridge{Name: benchBridge, MTU: mtu})
				return err
			})
			if err != nil {
				return err
			}
			for _, args := range [][]string{
				{"link", "add", "vxlan", "mtu", strconv.Itoa(mtu), "master", benchBridge, "type", "vxlan", "id", "42", "dstport", "4789", "noudpcsum",
					"local", p.underlay[i].String(), "remote", p.underlay[1-i].String(), "dev", p.devices[i]},
				{"link", "set", "vxlan", "up"},
			} {
				if out, err := h.Command(ctx, "ip", args...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %v: %w: %s", args, err, out)
				}
			}
			if mtu == espMTU {
				if err := h.Do(func() error { return handMadeESP(p.underlay[i], p.underlay[1-i]) }); err != nil {
					return fmt.Errorf("ESP: %w", err)
				}
			}
			if err := p.addContainer(ctx, i, benchBridge, nil); err != nil {
				return err
			}
		}
		return nil
	}
}

// handMadeESP encrypts all UDP between two addresses, with the algorithm and the options that fastdp uses.
func handMadeESP(local, remote netip.Addr) error {
	one := func(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }
	key := make([]byte, 36)
	for _, d := range []struct {
		src, dst netip.Addr
		dir      netlink.Dir
	}{{local, remote, netlink.XFRM_DIR_OUT}, {remote, local, netlink.XFRM_DIR_IN}} {
		spi := 0x1000 + int(d.dst.As4()[3])
		err := netlink.XfrmStateAdd(&netlink.XfrmState{
			Src: d.src.AsSlice(), Dst: d.dst.AsSlice(), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Spi: spi,
			Reqid: 1, ESN: true, ReplayWindow: 256, Aead: &netlink.XfrmStateAlgo{Name: "rfc4106(gcm(aes))", Key: key, ICVLen: 128},
		})
		if err != nil {
			return err
		}
		err = netlink.XfrmPolicyAdd(&netlink.XfrmPolicy{
			Src: one(d.src), Dst: one(d.dst), Proto: unix.IPPROTO_UDP, Dir: d.dir,
			Tmpls: []netlink.XfrmPolicyTmpl{{
				Src: d.src.AsSlice(), Dst: d.dst.AsSlice(), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Reqid: 1,
			}},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// setupFastDP runs fastdp on both hosts, in this process.
func setupFastDP(mtu int, bridged, encrypt bool) func(context.Context, *pair, *group) error {
	return func(ctx context.Context, p *pair, g *group) error {
		p.mtu = mtu
		var nodes [2]*node
		for i, h := range p.hosts {
			n, err := openNode(ctx, h, nodeConfig{
				name: peer.MustParse(fmt.Sprintf("0a:00:00:00:00:%02x", i+1)), addr: p.underlay[i], mtu: mtu, encrypt: encrypt,
			})
			if err != nil {
				return err
			}
			g.closers = append([]func() error{n.stop}, g.closers...)
			if err := p.attachFastDP(ctx, i, n, bridged); err != nil {
				return err
			}
			nodes[i] = n
		}
		var key *[32]byte
		if encrypt {
			key = &[32]byte{1}
		}
		j, err := join(ctx, nodes[0], nodes[1], key)
		if err == nil {
			g.closers = append([]func() error{j.close}, g.closers...)
		}
		return err
	}
}

// attachFastDP connects a container to the datapath of its host, straight or by a bridge.
func (p *pair) attachFastDP(ctx context.Context, i int, n *node, bridged bool) error {
	join := func(name string) error { return n.dp.AddPort(ctx, name) }
	if !bridged {
		return p.addContainer(ctx, i, fastdpDevice, join)
	}
	const inner, outer = "to-datapath", "to-bridge"
	err := p.hosts[i].Do(func() error {
		if _, err := device.EnsureBridge(device.Bridge{Name: benchBridge, MTU: p.mtu}); err != nil {
			return err
		}
		_, err := device.EnsurePair(device.Pair{Bridge: benchBridge, Inner: inner, Outer: outer, MTU: p.mtu, Offload: true})
		return err
	})
	if err != nil {
		return err
	}
	if err := join(outer); err != nil {
		return err
	}
	return p.addContainer(ctx, i, benchBridge, nil)
}

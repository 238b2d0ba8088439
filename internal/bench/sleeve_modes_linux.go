package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
)

// mode is one way to join the containers.
type mode struct {
	name, about string
	setup       func(context.Context, *pair) error // nil: this build lacks it
	missing     string                             // what it lacks
}

func sleeveModes() []mode {
	return []mode{
		{name: "vxlan", about: "the kernel's VXLAN and bridge, in the clear", setup: setupVXLAN},
		{name: reference, about: "wireguard-go on a TUN device, encrypted", setup: setupWireGuard},
		{name: "sleeve-plain", about: "sleeve on Weave Net's wire, in the clear", setup: weaverMode(sleeve.Name, "")},
		{name: "sleeve", about: "sleeve on Weave Net's wire, encrypted", setup: weaverMode(sleeve.Name, "a password of the bench")},
		{name: "sleeve2-plain", about: "sleeve between two new peers, in the clear", setup: weaverMode(sleeve.Name2, "")},
		{name: "sleeve2", about: "sleeve between two new peers, encrypted", setup: weaverMode(sleeve.Name2, "a password of the bench")},
	}
}

func modeNames() (names []string) {
	for _, m := range sleeveModes() {
		names = append(names, m.name)
	}
	return names
}

// setupVXLAN puts the containers onto bridges, and a VXLAN device of the kernel between these.
func setupVXLAN(ctx context.Context, p *pair) error {
	p.mtu = underlayMTU - 50 // IP, UDP, VXLAN, Ethernet
	for i, h := range p.hosts {
		c, err := h.Container(fmt.Sprintf("c%d", i+1))
		if err != nil {
			return err
		}
		addr := netip.AddrFrom4([4]byte{10, 45, 0, byte(i + 1)})
		p.containers[i], p.addrs[i] = c, addr
		if err := h.Do(func() error { return p.vxlanHost(ctx, i) }); err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) vxlanHost(ctx context.Context, i int) error {
	const bridge = "bridge"
	if _, err := device.EnsureBridge(device.Bridge{Name: bridge, MTU: p.mtu}); err != nil {
		return err
	}
	under, err := netlink.LinkByName(p.devices[i])
	if err != nil {
		return err
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = "vxlan", p.mtu, master.Attrs().Index
	vx := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: 42, Port: 4789, Learning: true, VtepDevIndex: under.Attrs().Index,
		SrcAddr: p.underlay[i].AsSlice(), Group: p.underlay[1-i].AsSlice(),
	}
	if err := netlink.LinkAdd(vx); errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: this kernel has no VXLAN", errLeftOut)
	} else if err != nil {
		return fmt.Errorf("VXLAN device: %w", err)
	}
	if err := netlink.LinkSetUp(vx); err != nil {
		return err
	}
	_, err = device.Attach(ctx, device.Attachment{
		Bridge: bridge, NetNS: p.containers[i].Path(), HostName: "toc", MTU: p.mtu,
		Addresses: []netip.Prefix{netip.PrefixFrom(p.addrs[i], 24)},
	})
	return err
}

const wireGuardDevice = "wg0"

// setupWireGuard routes the containers through a wireguard-go process on each host.
func setupWireGuard(ctx context.Context, p *pair) error {
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		return fmt.Errorf("%w: wireguard-go needs a TUN device: %w", errLeftOut, err)
	} else {
		_ = f.Close()
	}
	p.mtu = wireGuardMTU
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	for i := range p.hosts {
		if err := p.routedContainer(i); err != nil {
			return err
		}
		err := p.daemon(ctx, i, "wireguard", wireGuardConfig{
			Device: wireGuardDevice, PrivateKey: hex.EncodeToString(keys[i].Bytes()), PeerKey: hex.EncodeToString(keys[1-i].PublicKey().Bytes()),
			Port: 51820, Peer: netip.AddrPortFrom(p.underlay[1-i], 51820), Allowed: routedNet(1 - i), Profile: p.profileFile(i),
		})
		if err != nil {
			return err
		}
		if err := p.hosts[i].Do(func() error { return routeThrough(wireGuardDevice, routedNet(1-i)) }); err != nil {
			return err
		}
	}
	return nil
}

// routedNet is the network between a host and its container.
func routedNet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 46, byte(i + 1), 0}), 24)
}

// routedContainer makes a container to which its host is the router.
func (p *pair) routedContainer(i int) error {
	gateway := routedNet(i).Addr().Next()
	p.addrs[i] = gateway.Next()
	c, err := p.lab.Host(fmt.Sprintf("c%d", i+1))
	if err != nil {
		return err
	}
	p.containers[i] = c.Namespace
	_, err = p.lab.Link(p.hosts[i], c, lab.LinkConfig{MTU: p.mtu, A: netip.PrefixFrom(gateway, 24), B: netip.PrefixFrom(p.addrs[i], 24)})
	if err != nil {
		return err
	}
	if err := c.Do(func() error { return netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}) }); err != nil {
		return fmt.Errorf("route of a container: %w", err)
	}
	return p.hosts[i].Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
}

func routeThrough(name string, dst netip.Prefix) error {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return err
	}
	to := &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK})
}

// weaverMode runs the reference daemon on each host. The link must be the overlay that the mode is about.
func weaverMode(overlay, password string) func(context.Context, *pair) error {
	return func(ctx context.Context, p *pair) error {
		var clients [2]*api.Client
		for i, h := range p.hosts {
			socket := filepath.Join(p.dir, fmt.Sprintf("host%d.sock", i+1))
			clients[i] = api.NewClient(socket)
			err := p.daemon(ctx, i, "weaver", weaverConfig{
				Name: peer.MustParse(fmt.Sprintf("0a:00:00:00:00:%02x", i+1)).String(), Host: p.underlay[i], Peer: p.underlay[1-i],
				Password: password, Overlay: overlay, Socket: socket, Profile: p.profileFile(i),
			})
			if err != nil {
				return err
			}
			if p.containers[i], err = h.Container(fmt.Sprintf("c%d", i+1)); err != nil {
				return err
			}
		}
		for i, c := range clients {
			if err := p.weaverHost(ctx, i, c, overlay, password != ""); err != nil {
				return fmt.Errorf("daemon of host %d: %w", i+1, err)
			}
		}
		return nil
	}
}

// weaverHost waits for a daemon's link and attaches the container.
func (p *pair) weaverHost(ctx context.Context, i int, c *api.Client, overlay string, encrypted bool) error {
	for {
		report, err := c.Report(ctx)
		if err == nil {
			p.mtu = report.Bridge.MTU
			for _, conn := range report.Router.Connections {
				if conn.State != "established" || !conn.Link.Established {
					continue
				}
				if conn.Link.Overlay != overlay || conn.Encrypted != encrypted {
					return fmt.Errorf("the link is %s (encrypted: %t), not %s", conn.Link.Overlay, conn.Encrypted, overlay)
				}
				a, err := c.Attach(ctx, api.AttachRequest{
					NetNS: p.containers[i].Path(), ID: p.containers[i].Name(),
					Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 47, 0, byte(i + 1)}), 24)},
				})
				if err != nil {
					return err
				}
				p.addrs[i] = a.Addresses[0].Addr()
				return nil
			}
		}
		if pause(ctx, pollInterval) != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

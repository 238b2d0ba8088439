package device_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

var (
	filterTable  = &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	forwardChain = &nftables.Chain{
		Name: "FORWARD", Table: filterTable, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	}
)

// nft changes the packet filter here.
func nft(t *testing.T, fn func(*nftables.Conn)) {
	t.Helper()
	conn, err := nftables.New()
	require.NoError(t, err)
	fn(conn)
	require.NoError(t, conn.Flush())
}

// dropForwarded makes the chain of Docker's hosts: what no rule accepts is dropped.
func dropForwarded(t *testing.T) {
	nft(t, func(c *nftables.Conn) {
		c.AddTable(filterTable)
		chain, policy := *forwardChain, nftables.ChainPolicyDrop
		chain.Policy = &policy
		c.AddChain(&chain)
	})
}

func ensure(t *testing.T, f device.Firewall) device.Firewalled {
	t.Helper()
	done, err := device.EnsureFirewall(f)
	require.NoError(t, err)
	return done
}

func setSetting(t *testing.T, path, value string) {
	t.Helper()
	require.NoError(t, os.WriteFile("/proc/sys/net/"+path, []byte(value), 0))
}

// filterBridges has what is bridged filtered as if it were routed, which is a setting of the namespace.
func filterBridges(t *testing.T) {
	const path = "bridge/bridge-nf-call-iptables"
	if _, err := os.Stat("/proc/sys/net/" + path); err != nil {
		labtest.Unavailable(t, fmt.Errorf("the kernel does not filter what is bridged: %w", err))
	}
	setSetting(t, path, "1")
}

// caller connects from one place to another and returns whom the other sees.
func caller(t *testing.T, from, to *lab.Namespace, at string) (netip.Addr, error) {
	t.Helper()
	ln, err := to.Listen("tcp", net.JoinHostPort(at, "0"))
	require.NoError(t, err)
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // a SYN that is lost is repeated after a second
	defer cancel()
	out, err := from.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer out.Close()
	in, err := ln.Accept()
	require.NoError(t, err)
	defer in.Close()
	return netip.MustParseAddrPort(in.RemoteAddr().String()).Addr(), nil
}

func requireCaller(t *testing.T, want string, from, to *lab.Namespace, at string) {
	t.Helper()
	seen, err := caller(t, from, to, at)
	require.NoError(t, err)
	require.Equal(t, want, seen.String())
}

func requireUnreachable(t *testing.T, from, to *lab.Namespace, at string) {
	t.Helper()
	_, err := caller(t, from, to, at)
	var timeout net.Error
	require.True(t, errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
}

// a1 --- [weave] --- a2      in a host that filters what is bridged, and drops what nobody accepts
func TestFilteredBridgePasses(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	for i, c := range c {
		attach(t, h, attachment(c, i+1))
	}
	within(t, h, func() {
		filterBridges(t)
		dropForwarded(t)
	})
	requireUnreachable(t, c[0], c[1], "10.32.0.2")
	within(t, h, func() {
		done := ensure(t, device.Firewall{Bridge: "weave"})
		require.Len(t, done.Added, 3)
		require.Empty(t, done.Obstacles)
	})
	requireCaller(t, "10.32.0.1", c[0], c[1], "10.32.0.2")
	within(t, h, func() { require.NoError(t, device.RemoveFirewall("weave")) })
	requireUnreachable(t, c[0], c[1], "10.32.0.2")
}

// outside is a host beside one with a bridge that drops what nobody accepts.
//
//	a1 --- [weave] host --- server      .9 on weave; 192.0.2.1 and .2
func outside(t *testing.T) (h, server *lab.Host, c *lab.Namespace) {
	l := labtest.New(t)
	h, behind := newHost(t, l, "a", 1)
	server, err := l.Host("server")
	require.NoError(t, err)
	_, err = l.Link(h, server, lab.LinkConfig{A: netip.MustParsePrefix("192.0.2.1/24"), B: netip.MustParsePrefix("192.0.2.2/24")})
	require.NoError(t, err)
	attach(t, h, attachment(behind[0], 1))
	within(t, h, func() {
		_, err := device.AddAddress("weave", prefix(9))
		require.NoError(t, err)
		setSetting(t, "ipv4/ip_forward", "1")
		dropForwarded(t)
	})
	addRoute(t, behind[0], "0.0.0.0/0", "10.32.0.9")
	return h, server, behind[0]
}

func addRoute(t *testing.T, where interface{ Do(func() error) error }, to, by string) {
	t.Helper()
	dst, err := netlink.ParseIPNet(to)
	require.NoError(t, err)
	within(t, where, func() { require.NoError(t, netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(by)})) })
}

func TestMasquerade(t *testing.T) {
	h, server, c := outside(t)
	requireUnreachable(t, c, server.Namespace, "192.0.2.2")
	firewall := device.Firewall{Bridge: "weave", Exposed: []netip.Prefix{prefix(9)}, Masquerade: true}
	within(t, h, func() { require.Empty(t, ensure(t, firewall).Obstacles) })
	requireCaller(t, "192.0.2.1", c, server.Namespace, "192.0.2.2")
	addRoute(t, server, "10.32.0.0/12", "192.0.2.1")
	requireCaller(t, "10.32.0.9", server.Namespace, c, "10.32.0.1")

	firewall.Masquerade = false
	within(t, h, func() {
		require.Equal(t, 3, ensure(t, firewall).Removed)
		for _, line := range filterDump(t) {
			require.NotContains(t, line, "overweave-weave")
		}
	})
	requireCaller(t, "10.32.0.1", c, server.Namespace, "192.0.2.2")
	requireCaller(t, "192.0.2.2", server.Namespace, c, "10.32.0.1")
	firewall.Exposed = nil
	within(t, h, func() { require.Equal(t, 1, ensure(t, firewall).Removed) })
	requireUnreachable(t, server.Namespace, c, "10.32.0.1")
}

// TestMulticastKeepsItsSource has a frame to a group bridged, where that is filtered.
func TestMulticastKeepsItsSource(t *testing.T) {
	h, c := newHost(t, labtest.New(t), "a", 2)
	for i, c := range c {
		attach(t, h, attachment(c, i+1))
	}
	within(t, h, func() {
		filterBridges(t)
		ensure(t, device.Firewall{Bridge: "weave", Exposed: []netip.Prefix{prefix(9)}, Masquerade: true})
		_, err := device.AddAddress("weave", prefix(9)) // which it would get
		require.NoError(t, err)
	})
	group := &net.UDPAddr{IP: net.IPv4(224, 1, 2, 3), Port: 5000}
	var received *net.UDPConn
	within(t, c[1], func() {
		ethwe, err := net.InterfaceByName("ethwe")
		require.NoError(t, err)
		received, err = net.ListenMulticastUDP("udp4", ethwe, group)
		require.NoError(t, err)
	})
	defer received.Close()
	sender, err := c[0].ListenPacket("udp4", "10.32.0.1:0")
	require.NoError(t, err)
	defer sender.Close()
	_, err = sender.WriteTo([]byte("x"), group)
	require.NoError(t, err)
	require.NoError(t, received.SetReadDeadline(time.Now().Add(patience)))
	_, from, err := received.ReadFrom(make([]byte, 10))
	require.NoError(t, err)
	require.Equal(t, sender.LocalAddr().String(), from.String())
}

// TestNothingIsMissingMeanwhile has the rules changed all the time while containers make new connections.
func TestNothingIsMissingMeanwhile(t *testing.T) {
	h, server, c := outside(t)
	few := device.Firewall{Bridge: "weave", Exposed: []netip.Prefix{prefix(9)}, Masquerade: true}
	many := few
	many.Exposed = append(many.Exposed, netip.MustParsePrefix("10.50.0.1/16"))
	within(t, h, func() { ensure(t, few) })
	changed := make(chan error, 1)
	go func() {
		changed <- h.Do(func() error {
			for range 100 {
				for _, f := range []device.Firewall{many, few} {
					if done, err := device.EnsureFirewall(f); err != nil || len(done.Added)+done.Removed == 0 {
						return fmt.Errorf("%+v, %w", done, err)
					}
				}
			}
			return nil
		})
	}()
	for connections := 0; ; connections++ {
		select {
		case err := <-changed:
			require.NoError(t, err)
			require.Positive(t, connections)
			return
		default:
			requireCaller(t, "192.0.2.1", c, server.Namespace, "192.0.2.2")
		}
	}
}

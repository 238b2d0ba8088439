package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/examples/weaver/daemon"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// gateway is a host between a container and a server outside, that drops what it is not told to forward, as with Docker.
//
//	c1 --- [weave] host --- server      192.0.2.1 and .2
type gateway struct {
	*host
	server    *lab.Host
	container *lab.Namespace
}

func newGateway(t *testing.T) *gateway {
	l := labtest.New(t)
	g := &gateway{host: addHost(t, l, "192.0.2.1")}
	g.args = append(g.args, "--expose", "--ipalloc-init", "consensus=1")
	server, err := l.Host("server")
	require.NoError(t, err)
	_, err = l.Link(g.Host, server, lab.LinkConfig{A: netip.MustParsePrefix("192.0.2.1/24"), B: netip.MustParsePrefix("192.0.2.2/24")})
	require.NoError(t, err)
	g.server, g.container = server, g.host.container("c1")
	g.nft(dropForwarded)
	return g
}

// dropForwarded has a host drop what no rule accepts.
func dropForwarded(c *nftables.Conn) {
	policy := nftables.ChainPolicyDrop
	chain := forwardChain()
	chain.Policy = &policy
	c.AddTable(chain.Table)
	c.AddChain(chain)
}

// forwardChain is where iptables-nft forwards or drops.
func forwardChain() *nftables.Chain {
	return &nftables.Chain{
		Name: "FORWARD", Table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	}
}

// nft looks at the packet filter of the host or changes it.
func (h *host) nft(fn func(*nftables.Conn)) {
	h.t.Helper()
	require.NoError(h.t, h.Do(func() error {
		conn, err := nftables.New()
		require.NoError(h.t, err)
		fn(conn)
		return conn.Flush()
	}))
}

// rules counts the rules in each chain of the host's packet filter.
func (h *host) rules() map[string]int {
	h.t.Helper()
	counts := map[string]int{}
	h.nft(func(conn *nftables.Conn) {
		chains, err := conn.ListChains()
		require.NoError(h.t, err)
		for _, c := range chains {
			rules, err := conn.GetRules(c.Table, c)
			require.NoError(h.t, err)
			counts[c.Table.Name+" "+c.Name] = len(rules)
		}
	})
	return counts
}

// forward lets the host forward, as far as its firewall does.
func (g *gateway) forward() {
	g.t.Helper()
	require.NoError(g.t, g.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
}

// connect attaches the container and gives it a route to the outside by the host. It returns the host's address on the overlay and
// the container's.
func (g *gateway) connect() (own, containers netip.Addr) {
	g.t.Helper()
	att := g.attach(api.AttachRequest{NetNS: g.container.Path(), ID: "c1"})
	waitFor(g.t, func() bool { return len(g.report().Bridge.Firewall.Exposed) == 1 })
	own = g.report().Bridge.Addresses[0].Addr()
	require.NoError(g.t, g.container.Do(func() error { return netlink.RouteAdd(&netlink.Route{Gw: own.AsSlice()}) }))
	return own, att.Addresses[0].Addr()
}

// requireCaller connects from one place to another, and looks whom the other sees.
func requireCaller(t *testing.T, want netip.Addr, from, to *lab.Namespace, at netip.Addr) {
	t.Helper()
	ln, err := to.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	out, err := from.DialContext(ctx, "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer out.Close()
	in, err := ln.Accept()
	require.NoError(t, err)
	defer in.Close()
	require.Equal(t, want.String(), in.RemoteAddr().(*net.TCPAddr).IP.String())
}

var outsideHost, outsideServer = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

// TestOutside connects a container and the outside; a firewall that is set up anew in between is no matter, nor is the end of the
// daemon. Afterwards everything is as it was.
func TestOutside(t *testing.T) {
	g := newGateway(t)
	before := g.rules()
	d := g.start("--mode", "bridge")
	g.report()
	require.GreaterOrEqual(t, g.rules()["filter FORWARD"], 3, "before anything can be attached")
	_, in := g.connect()
	require.Contains(t, get(t, g.socket(), "/status"), "Firewall: the host does not forward")
	g.forward()
	requireCaller(t, outsideHost, g.container, g.server.Namespace, outsideServer)
	full := g.rules()
	require.Equal(t, map[string]int{"filter FORWARD": 4, "overweave-weave postrouting": 3}, full)

	g.nft(func(c *nftables.Conn) { c.FlushChain(forwardChain()) })
	waitFor(t, func() bool { return g.report().Bridge.Firewall.Repairs == 1 })
	requireCaller(t, outsideHost, g.container, g.server.Namespace, outsideServer)
	require.Contains(t, get(t, g.socket(), "/status"), "Firewall: open for the overlay")

	end(t, d, syscall.SIGTERM)
	require.Equal(t, full, g.rules(), "a container is attached")
	requireCaller(t, outsideHost, g.container, g.server.Namespace, outsideServer)
	var log bytes.Buffer
	cmd := g.command("--mode", "bridge", "--no-masquerade", "--log-level", "info")
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	waitFor(t, func() bool { _, err := g.client().Report(t.Context()); return err == nil })
	require.Equal(t, map[string]int{"filter FORWARD": 4}, g.rules())
	require.NoError(t, g.server.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: outsideHost.AsSlice()})
	}))
	requireCaller(t, in, g.container, g.server.Namespace, outsideServer)
	requireCaller(t, outsideServer, g.server.Namespace, g.container, in)

	require.NoError(t, g.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}))
	end(t, cmd, syscall.SIGTERM)
	require.Contains(t, log.String(), `msg="rules of the firewall" added="" removed=3`)
	require.Equal(t, before, g.rules())
}

// TestFilteredOverlay has two hosts that filter what is bridged, and drop what nobody accepts.
func TestFilteredOverlay(t *testing.T) {
	labtest.Require(t)
	ctx, c := newCluster(t, "", "--mode", "bridge")
	for _, h := range c.Hosts {
		require.NoError(t, h.Do(func() error {
			const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
			if err := os.WriteFile(setting, []byte("1"), 0); err != nil {
				labtest.Unavailable(t, fmt.Errorf("the kernel does not filter what is bridged: %w", err))
			}
			conn, err := nftables.New()
			require.NoError(t, err)
			dropForwarded(conn)
			return conn.Flush()
		}))
		require.NoError(t, h.Launch(ctx))
	}
	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx))
	}
	require.NoError(t, c.Hosts[0].Reach(ctx, c.Hosts[1].Address.Addr()))
}

// TestFirewallOfKilledDaemon: rules of an ended daemon are removed by `weaver reset`, or by the next one if that has another bridge.
func TestFirewallOfKilledDaemon(t *testing.T) {
	g := newGateway(t)
	before := g.rules()
	d := g.start("--mode", "bridge", "--weave-bridge", "other", "--expose=false")
	waitFor(t, func() bool { return g.rules()["filter FORWARD"] == 3 })
	end(t, d, syscall.SIGKILL)
	d = g.start("--mode", "bridge")
	waitFor(t, func() bool { return g.rules()["overweave-weave postrouting"] == 3 })
	require.Equal(t, 4, g.rules()["filter FORWARD"], "none for the other bridge")
	end(t, d, syscall.SIGKILL)
	require.NoError(t, g.Do(func() error {
		return daemon.Reset(daemon.Config{DBPrefix: g.dir + "/db-", HTTPAddr: g.socket()})
	}))
	require.Equal(t, before, g.rules())
}

// TestFirewallThatCannotBe: a daemon runs on where its rules cannot be made, and says so.
func TestFirewallThatCannotBe(t *testing.T) {
	g := newGateway(t)
	d := g.start("--mode", "bridge")
	g.connect()
	end(t, d, syscall.SIGKILL)
	g.nft(func(c *nftables.Conn) { // what has this name now is no chain for addresses
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "overweave-weave"}
		c.DelTable(table)
		c.AddTable(table)
		c.AddChain(&nftables.Chain{Name: "postrouting", Table: table})
	})
	d = g.start("--mode", "bridge")
	require.Contains(t, get(t, g.socket(), "/status"), "Firewall: the packet filter:")
	require.NoError(t, g.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}))
	g.attach(api.AttachRequest{NetNS: g.host.container("c2").Path(), ID: "c2"})
	require.NoError(t, g.client().Detach(t.Context(), api.DetachRequest{ID: "c2"}))
	end(t, d, syscall.SIGTERM)
	require.Equal(t, map[string]int{"filter FORWARD": 0}, g.rules())
}

// TestKernelOutside is TestOutside over datapaths of the kernel, one of which has the host's address itself.
func TestKernelOutside(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch) {
		return
	}
	for _, mode := range []string{"fastdp", "bridged_fastdp"} {
		t.Run(mode, func(t *testing.T) {
			g := newGateway(t)
			before := g.rules()
			d := g.start("--mode", mode)
			own, in := g.connect()
			g.forward()
			requireCaller(t, outsideHost, g.container, g.server.Namespace, outsideServer)
			require.NoError(t, g.server.Do(func() error {
				_, dst, err := net.ParseCIDR(fmt.Sprintf("%s/32", in))
				require.NoError(t, err)
				return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: outsideHost.AsSlice()})
			}))
			requireCaller(t, own, g.server.Namespace, g.container, in)
			require.NoError(t, g.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}))
			end(t, d, syscall.SIGTERM)
			require.Equal(t, before, g.rules())
		})
	}
}

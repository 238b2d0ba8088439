package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// cniVersions are those that the plugin promises.
var cniVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// runtime is a container runtime on a host: libcni, with weaver as the plugin of a network.
type runtime struct {
	*libcni.CNIConfig
	t    *testing.T
	list *libcni.NetworkConfigList
	bin  string
}

// runtime returns a runtime for a network whose configuration has more keys, besides those that each has.
func (h *host) runtime(network, version string, more map[string]any) *runtime {
	h.t.Helper()
	dir := h.t.TempDir()
	bin := filepath.Join(dir, "weaver")
	require.NoError(h.t, os.Symlink(weaverPath(h.t), bin))
	plugin := map[string]any{"type": "weaver", "socket": h.socket(), "capabilities": map[string]bool{"ips": true}}
	for key, value := range more {
		plugin[key] = value
	}
	conf, err := json.Marshal(map[string]any{"cniVersion": version, "name": network, "plugins": []any{plugin}})
	require.NoError(h.t, err)
	list, err := libcni.NetworkConfFromBytes(conf)
	require.NoError(h.t, err)
	start := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}} // without one, calls at the same time race for it
	return &runtime{libcni.NewCNIConfigWithCacheDir([]string{dir}, filepath.Join(dir, "cache"), start), h.t, list, bin}
}

func eth0(container, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: container, NetNS: netns, IfName: "eth0"}
}

func (r *runtime) add(rt *libcni.RuntimeConf) *types100.Result {
	r.t.Helper()
	result, err := r.AddNetworkList(r.t.Context(), r.list, rt)
	require.NoError(r.t, err)
	require.Equal(r.t, r.list.CNIVersion, result.Version())
	current, err := types100.NewResultFromResult(result)
	require.NoError(r.t, err)
	return current
}

func (r *runtime) del(rt *libcni.RuntimeConf) {
	r.t.Helper()
	require.NoError(r.t, r.DelNetworkList(r.t.Context(), r.list, rt))
}

func (r *runtime) check(rt *libcni.RuntimeConf) error {
	return r.CheckNetworkList(r.t.Context(), r.list, rt)
}

// requireCode looks for the error that a plugin has ended with.
func requireCode(t *testing.T, code uint, says string, err error) {
	t.Helper()
	var e *types.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code, err)
	require.ErrorContains(t, err, says)
}

// ids lists the attachments of a host.
func (h *host) ids() (ids []string) {
	h.t.Helper()
	for _, att := range h.report().Attachments {
		ids = append(ids, att.ID)
	}
	return ids
}

// interfaces lists the devices of a container.
func interfaces(t *testing.T, c *lab.Namespace) (names []string) {
	t.Helper()
	require.NoError(t, c.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		return err
	}))
	return names
}

// requireReach sends something over TCP.
func requireReach(t *testing.T, from, to *lab.Namespace, at netip.Addr) {
	t.Helper()
	l, err := to.Listen("tcp4", netip.AddrPortFrom(at, 0).String())
	require.NoError(t, err)
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = conn.Write([]byte("here"))
			_ = conn.Close()
		}
	}()
	conn, err := from.DialContext(t.Context(), "tcp4", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "here", string(b))
}

// twoHosts are connected, and give their containers default routes.
func twoHosts(t *testing.T) (a, b *host) {
	l := labtest.New(t)
	a, b = addHost(t, l, "10.0.0.1"), addHost(t, l, "10.0.0.2")
	_, err := l.Link(a.Host, b.Host, lab.LinkConfig{A: netip.MustParsePrefix("10.0.0.1/24"), B: netip.MustParsePrefix("10.0.0.2/24")})
	require.NoError(t, err)
	a.start("--name", "0a:00:00:00:00:01", "--expose", "--ipalloc-init", "consensus=2", "10.0.0.2")
	b.start("--name", "0a:00:00:00:00:02", "--expose", "--ipalloc-init", "consensus=2", "10.0.0.1")
	return a, b
}

// requireResult holds a result against what there is, and returns the container's address.
func requireResult(t *testing.T, r *types100.Result, h *host, c *lab.Namespace) netip.Prefix {
	t.Helper()
	att := h.report().Attachments[0]
	require.Len(t, att.Addresses, 1)
	addr, gateway := att.Addresses[0], h.report().Bridge.Addresses[0].Addr()
	require.Len(t, r.Interfaces, 2)
	require.Equal(t, att.Port, r.Interfaces[0].Name)
	require.Contains(t, h.devices(), att.Port)
	require.Equal(t, "eth0", r.Interfaces[1].Name)
	require.Equal(t, c.Path(), r.Interfaces[1].Sandbox)
	require.Len(t, r.IPs, 1)
	require.Equal(t, 1, *r.IPs[0].Interface)
	require.Equal(t, addr.String(), r.IPs[0].Address.String())
	require.Equal(t, gateway.String(), r.IPs[0].Gateway.String())
	require.Len(t, r.Routes, 1)
	require.Equal(t, "0.0.0.0/0", r.Routes[0].Dst.String())
	require.Equal(t, gateway.String(), r.Routes[0].GW.String())
	require.Equal(t, []netip.Prefix{addr}, addresses(t, c, "eth0"))
	require.NoError(t, c.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		require.NoError(t, err)
		require.Equal(t, link.Attrs().HardwareAddr.String(), r.Interfaces[1].Mac)
		gateways, err := device.Gateways("eth0")
		require.Equal(t, []netip.Addr{gateway}, gateways)
		return err
	}))
	return addr
}

// newNode is a host whose daemon runs alone and has an address on the overlay.
func newNode(t *testing.T, flags ...string) (*host, *lab.Cmd) {
	h := newServer(t)
	return h, h.start(append([]string{"--expose"}, flags...)...)
}

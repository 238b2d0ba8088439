package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestCNI has runtimes on two hosts attach a container each, in each version of CNI, as the first thing on a new overlay.
func TestCNI(t *testing.T) {
	a, b := twoHosts(t)
	for i, version := range cniVersions {
		onA, onB := a.runtime("pods", version, nil), b.runtime("pods", version, nil)
		c, d := a.container(fmt.Sprint("a", i)), b.container(fmt.Sprint("b", i))
		result := onA.add(eth0("a", c.Path()))
		addr := requireResult(t, result, a, c)
		other := requireResult(t, onB.add(eth0("b", d.Path())), b, d)
		requireReach(t, c, d, other.Addr())
		requireReach(t, d, c, addr.Addr())
		requireReach(t, c, a.Namespace, netip.MustParseAddr("10.0.0.1")) // by the default route
		requireReach(t, a.Namespace, c, addr.Addr())

		require.Equal(t, result, onA.add(eth0("a", c.Path())), "asked again")
		require.Equal(t, []string{"cni:pods/a/eth0"}, a.ids())
		if version >= "0.4.0" {
			require.NoError(t, onA.check(eth0("a", c.Path())))
		}
		for range 2 {
			onA.del(eth0("a", c.Path()))
			onB.del(eth0("b", d.Path()))
		}
		require.Equal(t, []string{"lo"}, interfaces(t, c))
		require.Empty(t, a.ids())
		require.EqualValues(t, 1, a.report().IPAM.ActiveIPs, "that of the host")
	}
}

// TestCNIConfiguration: a subnet, names for resolvers, a second network without default route in the same container.
func TestCNIConfiguration(t *testing.T) {
	h, daemon := newNode(t)
	dns := types.DNS{Nameservers: []string{"10.32.0.1"}, Domain: "weave.local"}
	first := h.runtime("pods", "1.1.0", map[string]any{"ipam": map[string]string{"subnet": "10.32.1.0/24"}, "dns": dns})
	second := h.runtime("storage", "1.1.0", map[string]any{"defaultRoute": false, "unknown": []int{1}})
	c := h.container("c1")
	pods, storage := eth0("c1", c.Path()), eth0("c1", c.Path())
	storage.IfName = "net1"
	storage.CapabilityArgs = map[string]any{"ips": []string{"10.32.7.7/16", "10.32.7.8/16"}}

	r := first.add(pods)
	require.Equal(t, dns, r.DNS)
	require.Equal(t, "10.32.1.1/24", r.IPs[0].Address.String())
	requireReach(t, c, h.Namespace, h.report().Bridge.Addresses[0].Addr())
	r = second.add(storage)
	require.Empty(t, r.Routes)
	require.Nil(t, r.IPs[0].Gateway)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.32.7.7/16"), netip.MustParsePrefix("10.32.7.8/16")}, addresses(t, c, "net1"))
	require.Equal(t, []string{"cni:pods/c1/eth0", "cni:storage/c1/net1"}, h.ids())

	end(t, daemon, syscall.SIGKILL)
	h.start("--expose")
	require.NoError(t, first.check(pods))
	require.NoError(t, second.check(storage))
	require.Equal(t, r, second.add(storage))
	_, stderr, code := h.weaver("detach", c.Path())
	require.NotZero(t, code)
	require.Contains(t, stderr, "2 attachments, cni:pods/c1/eth0, cni:storage/c1/net1: say which")
	_, stderr, code = h.weaver("detach", "--id", "cni:pods/c1/eth0")
	require.Zero(t, code, stderr)
	require.ErrorContains(t, first.check(pods), "does not know cni:pods/c1/eth0")
	require.NoError(t, second.check(storage))
	first.del(pods)
	_, stderr, code = h.weaver("detach", c.Path())
	require.Zero(t, code, stderr)
	second.del(storage)
	require.Equal(t, []string{"lo"}, interfaces(t, c))
}

// TestCNICheck breaks a container in several ways.
func TestCNICheck(t *testing.T) {
	h, _ := newNode(t)
	r := h.runtime("pods", "1.1.0", nil)
	for says, harm := range map[string]func(link netlink.Link, addr netip.Prefix) error{
		"has not the address": func(link netlink.Link, addr netip.Prefix) error { return device.RemoveAddress("eth0", addr) },
		"no default route": func(link netlink.Link, addr netip.Prefix) error {
			everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
			return netlink.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere})
		},
		"eth0 is down": func(link netlink.Link, addr netip.Prefix) error { return netlink.LinkSetDown(link) },
		"has the MAC address": func(link netlink.Link, addr netip.Prefix) error {
			return netlink.LinkSetHardwareAddr(link, []byte{2, 1, 2, 3, 4, 5})
		},
		"no such network interface": func(link netlink.Link, addr netip.Prefix) error { return netlink.LinkDel(link) },
	} {
		c := h.container(says)
		rt := eth0("c", c.Path())
		r.add(rt)
		require.NoError(t, r.check(rt))
		addr := h.report().Attachments[0].Addresses[0]
		require.NoError(t, c.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			require.NoError(t, err)
			return harm(link, addr)
		}))
		requireCode(t, types.ErrInternal, says, r.check(rt))
		r.del(rt)
	}
}

// TestCNINoDaemon: nothing is done, and the runtime is told to try again; so it is when it wants to undo it.
func TestCNINoDaemon(t *testing.T) {
	h := newServer(t)
	r := h.runtime("pods", "1.1.0", nil)
	c := h.container("c1")
	rt := eth0("c1", c.Path())
	_, err := r.AddNetworkList(t.Context(), r.list, rt)
	requireCode(t, types.ErrTryAgainLater, "no daemon listens", err)
	require.Equal(t, []string{"lo"}, interfaces(t, c))
	requireCode(t, types.ErrTryAgainLater, "no daemon listens", r.DelNetworkList(t.Context(), r.list, rt))
	requireCode(t, types.ErrPluginNotAvailable, "no daemon listens", r.GetStatusNetworkList(t.Context(), r.list))
	h.start("--expose")
	r.del(rt)
	r.add(rt)
	require.NoError(t, r.GetStatusNetworkList(t.Context(), r.list))
}

// TestCNIRefused: what the daemon cannot do as it runs is the fault of the configuration; what others have is not.
func TestCNIRefused(t *testing.T) {
	h := newServer(t)
	daemon := h.start()
	c, d := h.container("c1"), h.container("c2")
	fails := func(r *runtime, rt *libcni.RuntimeConf, code uint, says string) {
		t.Helper()
		before := h.ids()
		_, err := r.AddNetworkList(t.Context(), r.list, rt)
		requireCode(t, code, says, err)
		require.Equal(t, []string{"lo"}, interfaces(t, d))
		require.Equal(t, before, h.ids())
		require.EqualValues(t, len(before), h.report().IPAM.ActiveIPs)
		r.del(rt)
	}
	fails(h.runtime("pods", "1.1.0", nil), eth0("c2", d.Path()), types.ErrInvalidNetworkConfig, `launch it with --expose, or set "defaultRoute" to false`)
	plain := map[string]any{"defaultRoute": false}
	r := h.runtime("pods", "1.1.0", plain)
	wanted := eth0("c1", c.Path())
	wanted.CapabilityArgs = map[string]any{"ips": []string{"10.32.5.5/12"}}
	r.add(wanted)
	wanted.ContainerID, wanted.NetNS = "c2", d.Path()
	fails(r, wanted, types.ErrInternal, "10.32.5.5/12 is already owned by cni:pods/c1/eth0")
	fails(r, eth0("c2", "/proc/none"), types.ErrInternal, "no such network namespace")
	loopback := eth0("c2", d.Path())
	loopback.IfName = "lo"
	fails(r, loopback, types.ErrInternal, "another kind")
	outside := map[string]any{"defaultRoute": false, "ipam": map[string]string{"subnet": "192.168.0.0/24"}}
	fails(h.runtime("pods", "1.1.0", outside), eth0("c2", d.Path()), types.ErrInvalidNetworkConfig, "out of bounds")
	bad := map[string]any{"ipam": map[string]string{"subnet": "10.32.1.0"}}
	fails(h.runtime("pods", "1.1.0", bad), eth0("c2", d.Path()), types.ErrInvalidNetworkConfig, "ipam.subnet")

	end(t, daemon, syscall.SIGTERM)
	h.start("--ipalloc-range=")
	requireCode(t, types.ErrPluginNotAvailable, "--ipalloc-range", r.GetStatusNetworkList(t.Context(), r.list))
	fails = func(r *runtime, rt *libcni.RuntimeConf, code uint, says string) {
		t.Helper()
		_, err := r.AddNetworkList(t.Context(), r.list, rt)
		requireCode(t, code, says, err)
		require.Equal(t, []string{"lo"}, interfaces(t, d))
	}
	fails(r, eth0("c2", d.Path()), types.ErrInvalidNetworkConfig, "--ipalloc-range")
}

// TestCNIGateway: an address in a subnet that the host has none in would have no way back.
func TestCNIGateway(t *testing.T) {
	h, _ := newNode(t, "--ipalloc-default-subnet", "10.32.2.0/24")
	r := h.runtime("pods", "1.1.0", map[string]any{"ipam": map[string]string{"subnet": "10.32.1.0/24"}})
	c := h.container("c1")
	_, err := r.AddNetworkList(t.Context(), r.list, eth0("c1", c.Path()))
	requireCode(t, types.ErrInvalidNetworkConfig, "is in no subnet with", err)
	require.Equal(t, []string{"lo"}, interfaces(t, c))
	require.Empty(t, h.ids())
}

// TestCNINamespaceGone: a container is taken off without its namespace, and without its name.
func TestCNINamespaceGone(t *testing.T) {
	h, _ := newNode(t)
	r := h.runtime("pods", "0.4.0", nil)
	for _, path := range []string{"", "/proc/%s/ns/net"} {
		pid, kill := h.process()
		rt := eth0("c1", "/proc/"+pid+"/ns/net")
		r.add(rt)
		kill()
		rt.NetNS = strings.ReplaceAll(path, "%s", pid)
		r.del(rt)
		require.Empty(t, h.ids())
		require.EqualValues(t, 1, h.report().IPAM.ActiveIPs)
	}
}

// TestCNIGarbage: a runtime that has lost its memory has all taken off that it does not know, but of its network only.
func TestCNIGarbage(t *testing.T) {
	h, _ := newNode(t)
	pods, other := h.runtime("pods", "1.1.0", nil), h.runtime("pods.2", "1.1.0", nil)
	for _, name := range []string{"c1", "c2", "c3"} {
		pods.add(eth0(name, h.container(name).Path()))
	}
	other.add(eth0("c4", h.container("c4").Path()))
	h.attach(api.AttachRequest{NetNS: h.container("c5").Path(), ID: "pods"})
	all := h.ids()

	forgetful := h.runtime("pods", "1.1.0", nil)
	requireCode(t, types.ErrInvalidNetworkConfig, "valid-attachments", unwrapOne(forgetful.GCNetworkList(t.Context(), forgetful.list, nil)))
	require.Equal(t, all, h.ids())
	valid := []types.GCAttachment{{ContainerID: "c2", IfName: "eth0"}, {ContainerID: "c3", IfName: "eth1"}}
	require.NoError(t, forgetful.GCNetworkList(t.Context(), forgetful.list, &libcni.GCArgs{ValidAttachments: valid}))
	require.Equal(t, []string{"cni:pods.2/c4/eth0", "cni:pods/c2/eth0", "pods"}, h.ids())
	require.NoError(t, forgetful.GCNetworkList(t.Context(), forgetful.list, &libcni.GCArgs{}))
	require.Equal(t, []string{"cni:pods.2/c4/eth0", "pods"}, h.ids())
}

// unwrapOne returns the first of joined errors.
func unwrapOne(err error) error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()[0]
	}
	return err
}

// TestCNIManyAtOnce: as after a restart of a machine.
func TestCNIManyAtOnce(t *testing.T) {
	const many = 20
	h, _ := newNode(t)
	r := h.runtime("pods", "1.0.0", nil)
	var all []*libcni.RuntimeConf
	for i := range many {
		name := fmt.Sprint("c", i)
		all = append(all, eth0(name, h.container(name).Path()))
	}
	each := func(f func(i int) error) {
		t.Helper()
		errs := make([]error, many)
		var wg sync.WaitGroup
		for i := range many {
			wg.Go(func() { errs[i] = f(i) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
	}
	addrs := make([]string, many)
	each(func(i int) error {
		result, err := r.AddNetworkList(t.Context(), r.list, all[i])
		if err == nil {
			addrs[i] = result.(*types100.Result).IPs[0].Address.String()
		}
		return err
	})
	slices.Sort(addrs)
	require.Len(t, slices.Compact(slices.Clone(addrs)), many)
	require.Len(t, h.ids(), many)
	require.EqualValues(t, many+1, h.report().IPAM.ActiveIPs)
	each(func(i int) error { return r.DelNetworkList(t.Context(), r.list, all[i]) })
	require.Empty(t, h.ids())
	require.EqualValues(t, 1, h.report().IPAM.ActiveIPs)
}

// TestCNIKilled kills a plugin that waits for an address, and then a daemon that it waits for: the first leaves nothing, and
// what the second leaves is found.
func TestCNIKilled(t *testing.T) {
	h := newServer(t)
	flags := []string{"--expose", "--ipalloc-init", "consensus=3", "--ipalloc-grace", "1h"}
	daemon := h.start(flags...)
	r := h.runtime("pods", "1.1.0", nil)
	c := h.container("c1")
	rt := eth0("c1", c.Path())
	waitFor(t, func() bool { return len(h.report().IPAM.PendingAllocates) == 1 }) // that of the host
	requireCode(t, types.ErrPluginNotAvailable, "there is no address ring yet", r.GetStatusNetworkList(t.Context(), r.list))
	waiting := func() bool { return slices.Contains(h.report().IPAM.PendingAllocates, "cni:pods/c1/eth0 10.32.0.0/12") }

	plugin := exec.Command(r.bin)
	plugin.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS="+c.Path(), "CNI_PATH="+filepath.Dir(r.bin))
	plugin.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"pods","type":"weaver","socket":%q}`, h.socket()))
	require.NoError(t, plugin.Start())
	waitFor(t, waiting)
	require.NoError(t, plugin.Process.Kill())
	require.Error(t, plugin.Wait())
	waitFor(t, func() bool { return !waiting() && len(h.ids()) == 0 })

	failed := make(chan error, 1)
	go func() {
		_, err := r.AddNetworkList(context.Background(), r.list, rt)
		failed <- err
	}()
	waitFor(t, waiting)
	end(t, daemon, syscall.SIGKILL)
	requireCode(t, types.ErrTryAgainLater, "control socket", <-failed)
	h.start(flags...)
	require.Equal(t, []string{"cni:pods/c1/eth0"}, h.ids())
	r.del(rt)
	require.Empty(t, h.ids())
	require.Equal(t, []string{"lo"}, interfaces(t, c))
}

// TestCNIVersion asks which versions there are. Without being asked anything, weaver is a command.
func TestCNIVersion(t *testing.T) {
	h := &host{t: t, dir: t.TempDir()}
	r := h.runtime("pods", "1.1.0", nil)
	info, err := r.GetVersionInfo(t.Context(), "weaver")
	require.NoError(t, err)
	require.Equal(t, cniVersions, info.SupportedVersions())
	_, err = r.ValidateNetworkList(t.Context(), r.list)
	require.NoError(t, err)
	cmd := exec.Command(r.bin, "version")
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD")
	stdout, _, code := run(t, cmd)
	require.Zero(t, code)
	require.Contains(t, stdout, "weaver ")
}

// TestKernelCNI attaches a container to the kernel's datapath, in which the host takes part itself.
func TestKernelCNI(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch) {
		return
	}
	h, _ := newNode(t, "--mode", "fastdp")
	r := h.runtime("pods", "1.1.0", nil)
	c := h.container("c1")
	rt := eth0("c1", c.Path())
	result := r.add(rt)
	requireResult(t, result, h, c)
	requireReach(t, c, h.Namespace, h.report().Bridge.Addresses[0].Addr())
	require.Equal(t, result, r.add(rt))
	require.NoError(t, r.check(rt))
	r.del(rt)
	require.NotContains(t, interfaces(t, c), "eth0")
}

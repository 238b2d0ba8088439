package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/examples/weaver/daemon"
	"github.com/overweave/overweave/examples/weaver/demo"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestKernelDemo runs the demo over the kernel's datapath, as a user would.
func TestKernelDemo(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	for name, tt := range map[string]struct{ args, overlay string }{
		"old wire":                {"--overlay fastdp", "fastdp"},
		"old wire, in the clear":  {"--overlay fastdp --password=", "fastdp"},
		"containers at datapaths": {"--mode fastdp --hosts 3", "fastdp2"},
		"whatever is best":        {"", "fastdp2"},
	} {
		t.Run(name, func(t *testing.T) {
			all := append([]string{"demo", "--json", "--seconds", "1"}, strings.Fields(tt.args)...)
			stdout, stderr, code := run(t, exec.CommandContext(t.Context(), weaverPath(t), all...))
			require.Zero(t, code, stderr)
			var r demo.Report
			require.NoError(t, json.Unmarshal([]byte(stdout), &r))
			require.True(t, r.OK)
			require.Equal(t, !strings.Contains(tt.args, "--password="), r.Encrypted)
			require.Equal(t, tt.overlay, r.Overlay)
		})
	}
}

// TestKernelKilledDaemon kills a daemon and starts it again: kernels carry on without it, encrypted, and a stream between containers
// hardly notices.
func TestKernelKilledDaemon(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	for _, mode := range []string{"bridged_fastdp", "fastdp"} {
		t.Run(mode, func(t *testing.T) {
			ctx, c := newCluster(t, "tell nobody", "--mode", mode)
			for _, h := range c.Hosts {
				require.NoError(t, h.Launch(ctx))
			}
			for _, h := range c.Hosts {
				require.NoError(t, h.Attach(ctx))
			}
			a, b := c.Hosts[0], c.Hosts[1]
			require.NoError(t, a.Reach(ctx, b.Address.Addr()))
			inKernel := func() {
				t.Helper()
				waitFor(t, func() bool { return carrier(ctx, a) == "fastdp2" && carrier(ctx, b) == "fastdp2" })
			}
			inKernel()
			s := labtest.NewStream(t, a.Container, b.Container, b.Address.Addr())
			var stalls []time.Duration
			for _, victim := range []*demo.Host{a, b, a} {
				s.Reset()
				require.NoError(t, victim.Kill())
				s.GoOn() // nobody is there
				require.NoError(t, victim.Launch(ctx))
				s.GoOn()
				inKernel()
				s.GoOn()
				stall, unexplained := s.Longest()
				t.Log("longest stall", stall, "of which not for lack of processors", unexplained)
				stalls = append(stalls, unexplained)
			}
			slices.Sort(stalls)
			require.Less(t, stalls[1], 200*time.Millisecond, "median of %v", stalls)
		})
	}
}

// TestKernelStoppedDaemon stops a daemon that no container uses any more: nothing of it is left in the kernel, not even what
// encrypted its tunnels.
func TestKernelStoppedDaemon(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	for _, mode := range []string{"bridged_fastdp", "fastdp"} {
		t.Run(mode, func(t *testing.T) {
			ctx, c := newCluster(t, "tell nobody", "--mode", mode)
			a := c.Hosts[0]
			before := inKernel(t, a)
			for _, h := range c.Hosts {
				require.NoError(t, h.Launch(ctx))
			}
			require.NoError(t, a.Attach(ctx))
			waitFor(t, func() bool { return carrier(ctx, a) == "fastdp2" })
			require.NotEqual(t, before, inKernel(t, a))
			text, err := a.Client.StatusText(ctx, "")
			require.NoError(t, err)
			require.Contains(t, text, "Encryption: 1 tunnels")
			require.NoError(t, a.Kill()) // the next daemon tidies up after this one, too
			require.NoError(t, a.Launch(ctx))
			require.NoError(t, a.Client.Detach(ctx, api.DetachRequest{ID: a.Container.Name()}))
			require.NoError(t, a.Stop())
			require.Equal(t, before, inKernel(t, a))

			require.NoError(t, a.Launch(ctx))
			require.NoError(t, a.Attach(ctx))
			waitFor(t, func() bool { return carrier(ctx, a) == "fastdp2" })
			reset := func() error { return daemon.Reset(daemon.Config{DBPrefix: a.DBPrefix()}) }
			require.ErrorContains(t, a.Do(reset), "in use")
			require.NoError(t, a.Kill())
			require.NotEqual(t, before, inKernel(t, a))
			require.NoError(t, a.Do(reset))
			require.Equal(t, before, inKernel(t, a))
		})
	}
}

// TestKernelPasswordRemoved starts daemons without a password on hosts that had one: what was there to keep tunnels from sending in
// the clear does not stop them.
func TestKernelPasswordRemoved(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	ctx, c := newCluster(t, "", "--overlays", "fastdp2")
	for _, h := range c.Hosts {
		require.NoError(t, h.Do(func() error {
			kernel, err := ipsec.OpenKernel()
			if err != nil {
				return err
			}
			p, err := ipsec.New(ipsec.Config{Kernel: kernel})
			if err != nil {
				return err
			}
			return errors.Join(p.Guard(6784), kernel.Close())
		}))
		require.NoError(t, h.Launch(ctx))
	}
	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx))
	}
	require.NoError(t, c.Hosts[0].Reach(ctx, c.Hosts[1].Address.Addr()))
}

// newCluster makes two hosts, on which no daemon runs yet. They end with the test, as the context does.
func newCluster(t *testing.T, password string, flags ...string) (context.Context, *demo.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c, err := demo.NewCluster(demo.ClusterConfig{Hosts: 2, Password: password, Daemon: weaverPath(t), Flags: flags})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return ctx, c
}

// inKernel describes the devices, policies and associations of a host.
func inKernel(t *testing.T, h *demo.Host) (all []string) {
	require.NoError(t, h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			all = append(all, l.Attrs().Name)
		}
		policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, p := range policies {
			all = append(all, p.String())
		}
		states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
		for _, s := range states {
			all = append(all, fmt.Sprintf("%s to %s", s.Src, s.Dst))
		}
		return err
	}))
	return all
}

// carrier returns the overlay of a host's established, encrypted connection; "" if there is none.
func carrier(ctx context.Context, h *demo.Host) string {
	r, err := h.Client.Report(ctx)
	if err != nil || len(r.Router.Connections) != 1 {
		return ""
	}
	c := r.Router.Connections[0]
	if !c.Encrypted || c.State != "established" {
		return ""
	}
	return c.Link.Overlay
}

// TestKernelNameStays starts daemons again that are not told their names, and whose devices have addresses of their own.
func TestKernelNameStays(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch) {
		return
	}
	for _, mode := range []string{"bridged_fastdp", "fastdp"} {
		t.Run(mode, func(t *testing.T) { requireNameStays(t, newHost(t), mode) })
	}
}

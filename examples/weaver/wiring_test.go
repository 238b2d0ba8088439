package main

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/examples/weaver/daemon"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestBridgeOfKilledDaemon: what a daemon made that was killed is removed by the next one when nobody uses it any more; a bridge
// that was there before stays.
func TestBridgeOfKilledDaemon(t *testing.T) {
	for _, flag := range []string{"--no-tap=false", "--no-tap"} {
		h := newServer(t)
		c := h.container("c1")
		before := h.devices()
		daemon := h.start("--mode", "bridge", flag)
		h.attach(api.AttachRequest{NetNS: c.Path(), ID: "c1"})
		end(t, daemon, syscall.SIGKILL)
		daemon = h.start("--mode", "bridge", flag)
		require.NoError(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}))
		end(t, daemon, syscall.SIGTERM)
		require.Equal(t, before, h.devices())

		require.NoError(t, h.Do(func() error {
			_, err := device.EnsureBridge(device.Bridge{Name: "weave"})
			return err
		}))
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			end(t, h.start("--mode", "bridge", flag), signal)
		}
		require.ElementsMatch(t, append(before, "weave"), h.devices())
	}
}

// TestOtherPort changes how the switch takes part in a bridge, with a container at it.
func TestOtherPort(t *testing.T) {
	h := newServer(t)
	c := h.container("c1")
	for _, flag := range []string{"--no-tap", "--no-tap=false", "--no-tap"} {
		daemon := h.start("--mode", "bridge", flag)
		h.attach(api.AttachRequest{NetNS: c.Path(), ID: "c1"})
		end(t, daemon, syscall.SIGKILL)
	}
}

// TestKernelOtherMode changes the mode of a host. With a container that is possible as long as it is at the same bridge.
func TestKernelOtherMode(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch) {
		return
	}
	h := newServer(t)
	c := h.container("c1")
	before := h.devices()
	for _, flags := range [][]string{
		{"--mode", "bridge", "--no-tap"}, {"--mode", "bridged_fastdp"}, {"--mode", "bridge"}, {"--mode", "fastdp"}, {"--mode", "bridged_fastdp"}, {},
	} {
		h.attachedOnce(c, flags, syscall.SIGKILL)
	}
	h.attachedOnce(c, []string{"--mode", "bridge"}, syscall.SIGTERM)
	require.Equal(t, before, h.devices())

	for mode, other := range map[string]string{"bridged_fastdp": "fastdp", "fastdp": "bridged_fastdp"} {
		daemon := h.start("--mode", mode)
		h.attach(api.AttachRequest{NetNS: c.Path(), ID: "c1"})
		end(t, daemon, syscall.SIGTERM)
		h.fails("first (1 attached)", "--mode", other)
		daemon = h.start()
		require.Equal(t, mode, h.report().Bridge.Mode, "what the container is attached to")
		require.NoError(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}))
		end(t, daemon, syscall.SIGTERM)
	}
	require.Equal(t, before, h.devices())
}

// attachedOnce runs a daemon for a while.
func (h *host) attachedOnce(c *lab.Namespace, flags []string, signal syscall.Signal) {
	h.t.Helper()
	daemon := h.start(flags...)
	h.attach(api.AttachRequest{NetNS: c.Path(), ID: "c1"})
	require.NoError(h.t, h.client().Detach(h.t.Context(), api.DetachRequest{ID: "c1"}))
	end(h.t, daemon, signal)
}

// TestRangeInUse: a range that the host has a route into is refused, unless that is by the bridge itself.
func TestRangeInUse(t *testing.T) {
	l := labtest.New(t)
	first, second := addHost(t, l, "10.40.0.1"), addHost(t, l, "10.40.0.2")
	_, err := l.Link(first.Host, second.Host, lab.LinkConfig{A: netip.MustParsePrefix("10.40.0.1/24"), B: netip.MustParsePrefix("10.40.0.2/24")})
	require.NoError(t, err)
	first.fails("the range 10.32.0.0/12 overlaps with a route of this host, to 10.40.0.0/24 by")
	daemon := first.start("--ipalloc-range", "10.50.0.0/16", "--expose", "--ipalloc-init", "consensus=1")
	waitFor(t, func() bool { return len(first.report().Bridge.Addresses) == 1 })
	first.attach(api.AttachRequest{NetNS: first.container("c1").Path(), ID: "c1"})
	end(t, daemon, syscall.SIGKILL)
	end(t, first.start("--ipalloc-range", "10.50.0.0/16"), syscall.SIGKILL)
	end(t, first.start(), syscall.SIGTERM) // a container is there already
}

// TestResetWhileRunning: a daemon with files elsewhere is noticed.
func TestResetWhileRunning(t *testing.T) {
	h := newServer(t)
	d := h.start("--mode", "bridge")
	h.attach(api.AttachRequest{NetNS: h.container("c1").Path(), ID: "c1"})
	before := h.devices()
	reset := func(c daemon.Config) error { return h.Do(func() error { return daemon.Reset(c) }) }
	other := filepath.Join(t.TempDir(), "db-")
	require.ErrorContains(t, reset(daemon.Config{DBPrefix: other, HTTPAddr: h.socket()}), "a daemon runs")
	require.ErrorContains(t, reset(daemon.Config{DBPrefix: other}), "port is taken")
	require.ErrorContains(t, reset(daemon.Config{DBPrefix: filepath.Join(h.dir, "db-")}), "another daemon runs")
	require.Equal(t, before, h.devices())
	end(t, d, syscall.SIGTERM)
	_, stderr, code := run(t, exec.Command(weaverPath(t), "reset", "--port", "nonsense"))
	require.NotZero(t, code)
	require.Contains(t, stderr, "--port")
	require.NoError(t, reset(daemon.Config{DBPrefix: filepath.Join(h.dir, "db-"), HTTPAddr: h.socket()}))
	require.False(t, slices.Contains(h.devices(), "weave"))
}

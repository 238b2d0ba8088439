package main

import (
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
)

// TestSeveralInterfaces gives one namespace two interfaces, by commands; each is an attachment of its own.
func TestSeveralInterfaces(t *testing.T) {
	h := newServer(t)
	daemon := h.start("--expose")
	c := h.container("c1")
	stdout, stderr, code := h.weaver("attach", "--id", "c1", c.Path())
	require.Zero(t, code, stderr)
	first := netip.MustParsePrefix(strings.TrimSpace(stdout))
	stdout, stderr, code = h.weaver("attach", "--id", "c1b", "--interface", "eth1", "--subnet", "10.32.3.0/24", "--default-route", c.Path())
	require.Zero(t, code, stderr)
	require.Equal(t, "10.32.3.1/24\n", stdout)
	require.Equal(t, []netip.Prefix{first}, addresses(t, c, "ethwe"))
	require.Equal(t, []string{"c1", "c1b"}, h.ids())
	requireReach(t, c, h.Namespace, h.report().Bridge.Addresses[0].Addr())

	_, err := h.client().Attach(t.Context(), api.AttachRequest{NetNS: c.Path(), ID: "c1", Interface: "eth2"})
	require.ErrorContains(t, err, "c1 is attached already, as ethwe in "+c.Path())
	_, err = h.client().Attach(t.Context(), api.AttachRequest{NetNS: c.Path(), ID: "c2", Interface: "eth1"})
	require.ErrorContains(t, err, "is attached already, as c1b")

	end(t, daemon, syscall.SIGKILL)
	h.start("--expose")
	again := h.attach(api.AttachRequest{NetNS: c.Path(), Interface: "eth1"})
	require.Equal(t, "c1b", again.ID)
	waitFor(t, func() bool { return len(h.report().Bridge.Addresses) == 1 })
	require.Equal(t, h.report().Bridge.Addresses[0].Addr(), again.Gateway, "the route is still there")
	require.NoError(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}))
	require.NoError(t, h.client().Detach(t.Context(), api.DetachRequest{NetNS: c.Path()}), "the other one")
	err = h.client().Detach(t.Context(), api.DetachRequest{NetNS: c.Path()})
	require.ErrorIs(t, err, api.ErrNotAttached)
	var said *api.Error
	require.ErrorAs(t, err, &said)
	require.Equal(t, http.StatusNotFound, said.Status)
	require.Equal(t, []string{"lo"}, interfaces(t, c))
}

// TestForeignInterface: an interface of the wanted name that somebody else has made is refused, and comes to no harm later.
func TestForeignInterface(t *testing.T) {
	h := newServer(t)
	h.start()
	c := h.container("c1")
	require.NoError(t, h.Do(func() error {
		_, err := device.EnsureBridge(device.Bridge{Name: "docker0"})
		require.NoError(t, err)
		_, err = device.Attach(t.Context(), device.Attachment{Bridge: "docker0", NetNS: c.Path(), HostName: "veth1", Interface: "eth0"})
		return err
	}))
	_, err := h.client().Attach(t.Context(), api.AttachRequest{NetNS: c.Path(), ID: "c1", Interface: "eth0"})
	require.ErrorContains(t, err, "eth0 does not lead to weave")
	require.Empty(t, h.ids())
	require.Zero(t, h.report().IPAM.ActiveIPs)
	require.ErrorIs(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "c1"}), api.ErrNotAttached)
	require.ErrorIs(t, h.client().Detach(t.Context(), api.DetachRequest{NetNS: c.Path()}), api.ErrNotAttached)
	require.Contains(t, h.devices(), "veth1")
}

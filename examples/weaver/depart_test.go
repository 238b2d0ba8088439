package main

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/examples/weaver/demo"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// runningCluster makes two hosts whose daemons run, and whose containers are attached.
func runningCluster(t *testing.T) (context.Context, *demo.Cluster) {
	t.Helper()
	labtest.Require(t)
	ctx, c := newCluster(t, "")
	for _, h := range c.Hosts {
		require.NoError(t, h.Launch(ctx))
	}
	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx))
	}
	return ctx, c
}

// weaver runs a command that asks a host's daemon.
func weaver(t *testing.T, h *demo.Host, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return run(t, exec.Command(weaverPath(t), append(args, "--http-addr", h.Socket())...))
}

// owned returns how many addresses a daemon believes a peer to own.
func owned(t *testing.T, h *demo.Host, of *demo.Host) (n uint64) {
	t.Helper()
	r, err := h.Client.Report(t.Context())
	require.NoError(t, err)
	for _, p := range r.IPAM.Peers {
		if p.Peer == of.Peer {
			n += p.IPs
		}
	}
	return n
}

// TestRemovePeer takes over what a host had that is gone for good, and not that of one that is alive.
func TestRemovePeer(t *testing.T) {
	_, c := runningCluster(t)
	a, b := c.Hosts[0], c.Hosts[1]
	_, stderr, code := weaver(t, a, "rmpeer", "host3")
	require.NotZero(t, code)
	require.Contains(t, stderr, "no peer host3 has or had addresses")
	_, stderr, code = weaver(t, a, "rmpeer", "host2")
	require.NotZero(t, code)
	require.Contains(t, stderr, "peer is alive")
	waitFor(t, func() bool { return owned(t, a, b) > 0 })

	require.NoError(t, b.Kill())
	waitFor(t, func() bool {
		stdout, _, code := weaver(t, a, "rmpeer", "host2")
		return code == 0 && stdout != ""
	})
	require.Zero(t, owned(t, a, b))
	require.EqualValues(t, 1<<20, owned(t, a, a), "all of it")
}

// TestLeave has a host hand its addresses over; it is not done while a container has one.
func TestLeave(t *testing.T) {
	ctx, c := runningCluster(t)
	a, b := c.Hosts[0], c.Hosts[1]
	_, stderr, code := weaver(t, b, "leave")
	require.NotZero(t, code)
	require.Contains(t, stderr, "detach the containers first (1 attached)")
	require.NoError(t, b.Client.Detach(ctx, api.DetachRequest{ID: b.Container.Name()}))
	_, stderr, code = weaver(t, b, "leave")
	require.Zero(t, code, stderr)
	waitFor(t, func() bool { return owned(t, a, a) == 1<<20 })
	require.ErrorContains(t, b.Attach(ctx), "released")
	r, err := b.Client.Report(ctx)
	require.NoError(t, err)
	require.Empty(t, r.Bridge.Addresses, "the host's own address is another's, too")
}

// TestLostAllocations loses the allocator's file of a host, whose container goes on: it keeps its address, and nobody else has it.
func TestLostAllocations(t *testing.T) {
	ctx, c := runningCluster(t)
	b := c.Hosts[1]
	before := b.Address
	require.NoError(t, b.Kill())
	require.NoError(t, os.Remove(b.DBPrefix()+"ipam.db"))
	require.NoError(t, b.Launch(ctx))
	waitFor(t, func() bool {
		r, err := b.Client.Report(ctx)
		require.NoError(t, err)
		return r.IPAM.ActiveIPs == 2 // its container's, and its own
	})
	require.NoError(t, b.Attach(ctx))
	require.Equal(t, before, b.Address)
	require.NoError(t, c.Hosts[0].Reach(ctx, before.Addr()))
}

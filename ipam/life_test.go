package ipam_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestNewRefuses(t *testing.T) {
	bus := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: name(1), UID: 1})
	pfx := netip.MustParsePrefix
	for what, c := range map[string]struct {
		config ipam.Config
		want   error
	}{
		"no bus":          {ipam.Config{Universe: pfx("10.32.0.0/12")}, nil},
		"no universe":     {ipam.Config{Bus: bus}, ipam.ErrInvalidSubnet},
		"host bits":       {ipam.Config{Bus: bus, Universe: pfx("10.32.0.1/12")}, ipam.ErrInvalidSubnet},
		"too small":       {ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/31")}, ipam.ErrInvalidSubnet},
		"IPv4 in IPv6":    {ipam.Config{Bus: bus, Universe: pfx("::ffff:10.0.0.0/104")}, ipam.ErrInvalidSubnet},
		"numbers of IPv4": {ipam.Config{Bus: bus, Universe: pfx("::/64")}, ipam.ErrInvalidSubnet},
		"small IPv6":      {ipam.Config{Bus: bus, Universe: pfx("fd00::/127")}, ipam.ErrInvalidSubnet},
		"other family":    {ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/12"), DefaultSubnet: pfx("fd00::/64")}, ipam.ErrOutOfRange},
		"end of IPv6":     {ipam.Config{Bus: bus, Universe: pfx("ff00::/8")}, ipam.ErrInvalidSubnet},
		"too quick":       {ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/12"), ReclaimAfter: time.Second}, nil},
		"the end":         {ipam.Config{Bus: bus, Universe: pfx("255.0.0.0/8")}, ipam.ErrInvalidSubnet},
		"default subnet":  {ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/12"), DefaultSubnet: pfx("192.168.0.0/24")}, ipam.ErrOutOfRange},
		"seed":            {ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/12"), Birth: ipam.Seed(0)}, peer.ErrInvalidName},
	} {
		_, err := ipam.New(c.config)
		require.Error(t, err, what)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, what)
		}
	}
	_, err := ipam.New(ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/12")})
	require.NoError(t, err)
	_, err = ipam.New(ipam.Config{Bus: bus, Universe: pfx("10.32.0.0/12")})
	require.ErrorIs(t, err, gossip.ErrChannelTaken)
}

func TestCallsRefuse(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, ctx, pfx := w.start(1, nil), t.Context(), netip.MustParsePrefix
		for _, owner := range []string{"", strings.Repeat("x", 2000)} {
			_, err := a.Allocate(ctx, owner, netip.Prefix{})
			require.ErrorIs(t, err, ipam.ErrInvalidOwner)
			require.ErrorIs(t, a.Claim(ctx, owner, pfx("10.32.0.9/24")), ipam.ErrInvalidOwner)
		}
		_, err := a.Allocate(ctx, "x", pfx("10.40.0.0/24"))
		require.ErrorIs(t, err, ipam.ErrOutOfRange)
		_, err = a.Allocate(ctx, "x", pfx("10.32.0.1/24"))
		require.ErrorIs(t, err, ipam.ErrInvalidSubnet)
		require.ErrorIs(t, a.Claim(ctx, "x", pfx("fd00::1/64")), ipam.ErrInvalidSubnet)
		require.ErrorIs(t, a.FreeAll(ctx, "x"), ipam.ErrNotOwned)
		require.ErrorIs(t, a.Free(ctx, "x", netip.MustParseAddr("10.32.0.1")), ipam.ErrNotOwned)
	})
}

func TestAfterRun(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, consensus(3))
		waiting := make(chan error, 3)
		ctx := t.Context()
		go func() { _, err := a.Allocate(ctx, "x", netip.Prefix{}); waiting <- err }()
		go func() { waiting <- a.Claim(ctx, "y", netip.MustParsePrefix("10.32.0.9/24")) }()
		go func() { waiting <- a.Prime(ctx) }()
		w.pass(time.Second)
		w.stop(a.name)
		for range 3 {
			require.ErrorIs(t, <-waiting, ipam.ErrClosed)
		}
		require.Error(t, a.Run(ctx), "runs once")
		_, err := a.Allocate(ctx, "x", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrClosed)
		require.ErrorIs(t, a.Claim(ctx, "x", netip.MustParsePrefix("10.32.0.9/24")), ipam.ErrClosed)
		require.ErrorIs(t, a.Free(ctx, "x", netip.Addr{}), ipam.ErrClosed)
		require.ErrorIs(t, a.FreeAll(ctx, "x"), ipam.ErrClosed)
		require.ErrorIs(t, a.Prime(ctx), ipam.ErrClosed)
		require.ErrorIs(t, a.Release(ctx), ipam.ErrClosed)
		_, err = a.TakeOver(ctx, name(2))
		require.ErrorIs(t, err, ipam.ErrClosed)
	})
}

// TestGarbage is refused, message by message, and stops nothing.
func TestGarbage(t *testing.T) {
	bus := &loopback{self: gossip.Member{Name: name(1), UID: 1}}
	a, err := ipam.New(ipam.Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/24")})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	require.NoError(t, a.Prime(ctx))
	require.Error(t, bus.receiver.OnUnicast(name(2), nil))
	require.NoError(t, bus.receiver.OnUnicast(name(2), []byte{77, 1, 2}), "a tag of the future")
	for tag := range byte(3) {
		require.Error(t, bus.receiver.OnUnicast(name(2), []byte{tag, 0xff, 0xff}))
	}
	_, err = bus.receiver.OnBroadcast(name(2), []byte("x"))
	require.Error(t, err)
	_, err = bus.receiver.OnGossip(nil)
	require.Error(t, err)
	_, err = a.Allocate(ctx, "x", netip.Prefix{})
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-done)
}

// TestAllocationBudget holds the path of an address from our own space to its allocations.
func TestAllocationBudget(t *testing.T) {
	bus := &loopback{self: gossip.Member{Name: name(1), UID: 1}}
	a, err := ipam.New(ipam.Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/12"), Birth: ipam.Consensus(1)})
	require.NoError(t, err)
	ctx := t.Context()
	_, err = a.Allocate(ctx, "other", netip.Prefix{})
	require.NoError(t, err)
	n := testing.AllocsPerRun(1000, func() {
		p, err := a.Allocate(ctx, "x", netip.Prefix{})
		if err != nil || a.Free(ctx, "x", p.Addr()) != nil {
			t.Fail()
		}
	})
	require.LessOrEqual(t, n, 3.0)
}

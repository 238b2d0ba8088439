package mesh

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

// TestConfirmedLinkStays: of two connections to one peer that come together one replaces the other. Whenever that one's
// goroutine gets to closing its links, frames go over those of the one that stays.
func TestConfirmedLinkStays(t *testing.T) {
	sw, err := overlay.NewSwitch(overlay.SwitchConfig{
		Self: name(1), Overlays: []overlay.Overlay{overlaytest.NewNetwork().Overlay(name(1), "fake")},
	})
	require.NoError(t, err)
	r, err := New(Config{Name: name(1), Switch: sw})
	require.NoError(t, err)
	e := newEngine(r, t.Context())
	var links []*link
	for _, uid := range []uint64{9, 5} { // the smaller one stays
		l := &link{router: r, sess: &session{connUID: uid, remote: features{name: name(2), uid: 7, overlays: "fake"}}}
		l.ctx, l.cancel = context.WithCancelCause(t.Context())
		l.bundle, err = sw.Prepare(overlay.Params{
			Self: name(1), Remote: name(2), ConnUID: uid, Features: map[string]string{overlay.FeatureKey: "fake"},
		}, l.sendControl, l.onOverlay)
		require.NoError(t, err)
		links = append(links, l)
	}
	for _, l := range links {
		require.NoError(t, e.addLink(l, time.Now()))
		require.NotNil(t, sw.Forwarder().Link(name(2), name(1), name(2)), "from then on")
	}
	require.ErrorIs(t, context.Cause(links[0].ctx), errDuplicate)
	links[0].bundle.Close()
	require.NotNil(t, sw.Forwarder().Link(name(2), name(1), name(2)))
	links[1].bundle.Close()
	require.Nil(t, sw.Forwarder().Link(name(2), name(1), name(2)))
}

// TestLimitOfOldPeers: peers of the old wire that dial again whenever they are closed do not push one another out without
// end; who the mesh does not reach gets in all the same.
func TestLimitOfOldPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, peers = 8, 14
		n := meshtest.NewNetwork(time.Millisecond)
		c := inMemory(n, 1)
		c.ConnLimit, c.NoDiscovery = limit, true
		one := start(t, c)
		rs := []*running{one}
		for i := 2; i <= peers; i++ {
			c := old(inMemory(n, i, 1))
			c.ConnLimit = -1
			rs = append(rs, start(t, c))
		}
		time.Sleep(5 * time.Minute)
		require.True(t, knows(peers, rs...)())
		before := map[netip.AddrPort]bool{}
		for _, c := range one.Status().Connections {
			before[c.Address] = true
		}
		require.Len(t, before, limit)
		time.Sleep(5 * time.Minute)
		for _, c := range one.Status().Connections {
			require.True(t, before[c.Address], "the same ones")
		}
		stranger := old(inMemory(n, peers+1, 1))
		stranger.NoDiscovery = true
		rs = append(rs, start(t, stranger))
		time.Sleep(10 * time.Second)
		require.True(t, knows(peers+1, rs...)())
		for _, r := range rs {
			r.stop()
		}
	})
}

// TestLimitOfStar: where peers dial one only and nobody else, that one keeps all it can, since each is out of reach without
// it. Far above the limit it refuses others, who know why.
func TestLimitOfStar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, most = minConnLimit, minConnLimit + 64
		n := meshtest.NewNetwork(time.Millisecond)
		rs := []*running{}
		for i := 1; i <= 1+most; i++ {
			c := inMemory(n, i, 1)
			c.ConnLimit, c.NoDiscovery = limit, true
			rs = append(rs, start(t, c))
		}
		time.Sleep(5 * time.Minute)
		require.True(t, knows(1+most, rs...)())
		c := inMemory(n, 2+most, 1)
		c.NoDiscovery = true
		late := start(t, c)
		time.Sleep(time.Minute)
		require.ErrorIs(t, late.Status().Targets[0].Err, ErrLimit)
		rs[1].stop()
		time.Sleep(time.Minute)
		require.Len(t, late.Members(), 1+most, "there is room again")
		for _, r := range append(rs, late) {
			r.stop()
		}
	})
}

// TestControlMessageLost: a link of the data plane that cannot send a control message loses the connection with it, since what
// follows would make no sense to the remote.
func TestControlMessageLost(t *testing.T) {
	l := &link{sess: &session{}}
	l.ctx, l.cancel = context.WithCancelCause(t.Context())
	l.out.writing = true // and does not get on
	require.NoError(t, l.sendControl(7, make([]byte, maxUrgent)))
	require.NoError(t, l.ctx.Err())
	require.ErrorIs(t, l.sendControl(7, nil), errQueueFull)
	require.ErrorIs(t, context.Cause(l.ctx), errQueueFull)
}

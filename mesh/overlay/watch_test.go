package overlay_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// watch returns what returns the changes that were told since it was last called.
func watch(f *overlay.Forwarder) (told func() []overlay.Change, stop func()) {
	var mu sync.Mutex
	var list []overlay.Change
	stop = f.Watch(func(c overlay.Change) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, c)
	})
	return func() []overlay.Change {
		mu.Lock()
		defer mu.Unlock()
		out := list
		list = nil
		return out
	}, stop
}

// TestWatchStations: who keeps decisions is told of a station that is new, has moved or was forgotten, and of nothing else.
func TestWatchStations(t *testing.T) {
	f := overlay.NewForwarder(peerA)
	told, stop := watch(f)
	one := []overlay.Change{{Station: station}}
	at := now
	for i, step := range []struct {
		what string
		do   func()
		want []overlay.Change
	}{
		{"new here", func() { f.LearnLocal(at, station) }, one},
		{"seen again", func() { f.LearnLocal(at.Add(time.Minute), station) }, nil},
		{"away", func() { f.LearnRemote(at, station, peerB) }, one},
		{"seen there again", func() { f.LearnRemote(at.Add(time.Minute), station, peerB) }, nil},
		{"on to another", func() { f.Received(at, peerC, peerA, group, station) }, one},
		{"held there", func() { f.LearnLocal(at.Add(time.Second), station) }, nil},
		{"back", func() { f.LearnLocal(at.Add(time.Minute), station) }, one},
		{"a relay's", func() { f.Received(at, peerC, peerD, group, distant) }, nil},
		{"a group", func() { f.LearnLocal(at, group) }, nil},
		{"not old", func() { f.Expire(at) }, nil},
		{"old", func() { f.Expire(at.Add(overlay.MACAge + 2*time.Minute)) }, one},
		{"at a peer", func() { f.LearnRemote(at, station, peerB) }, one},
		{"another is gone", func() { f.ForgetPeer(peerC) }, nil},
		{"that is gone", func() { f.ForgetPeer(peerB) }, one},
		{"other routes", func() { f.SetRoutes(starRoutes()) }, []overlay.Change{{}}},
		{"decisions", func() { f.Outbound(group); f.Inbound(peerB, peerA, group) }, nil},
	} {
		step.do()
		require.Equal(t, step.want, told(), "step %d: %s", i, step.what)
	}

	more, stopMore := watch(f)
	f.LearnLocal(at, another)
	require.Len(t, told(), 1)
	require.Len(t, more(), 1, "several watch")
	stop()
	stop()
	f.SetRoutes(starRoutes())
	require.Empty(t, told())
	require.Len(t, more(), 1)
	stopMore()
	f.SetRoutes(starRoutes())
	require.Empty(t, more())
}

// TestWatchLinks: whatever makes frames go over another link is told.
func TestWatchLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, slow := &stub{name: "fast"}, &stub{name: "slow"}
		sw := newSwitch(t, nil, fast, slow)
		told, _ := watch(sw.Forwarder())
		b := link(t, sw, peerB, "fast slow")
		l, s := fast.last(), slow.last()
		require.Equal(t, []overlay.Change{{}}, told(), "a neighbour")
		for i, step := range []struct {
			what string
			link *stubLink
			kind overlay.EventKind
			want int
		}{
			{"the best is established", l, overlay.Established, 0},
			{"another, too", s, overlay.Established, 0},
			{"the best on hold", l, overlay.OnHold, 1},
			{"again", l, overlay.OnHold, 0},
			{"healthy", l, overlay.Healthy, 1},
			{"the other on hold", s, overlay.OnHold, 0},
			{"and back", s, overlay.Healthy, 0},
			{"the best failed", l, overlay.Failed, 1},
			{"said again", l, overlay.Failed, 0},
		} {
			step.link.Report(overlay.Event{Kind: step.kind, Err: errTest})
			require.Len(t, told(), step.want, "step %d: %s", i, step.what)
		}
		b.Close()
		require.Equal(t, []overlay.Change{{}}, told(), "no neighbour any more")
		require.Nil(t, sw.Forwarder().Link(peerB, peerA, peerB))
	})
}

// TestStationMovesHere ten seconds after its last frame from a peer, and not before.
func TestStationMovesHere(t *testing.T) {
	const hold = 10 * time.Second
	f := overlay.NewForwarder(peerA)
	f.LearnRemote(now, station, peerB)
	later := now.Add(3 * time.Second)
	f.LearnRemote(later, station, peerB)
	require.False(t, f.LearnLocal(later.Add(hold-1), station))
	require.Equal(t, peerB, where(f, station))
	require.Equal(t, overlay.DropForeign, f.Captured(later.Add(hold-1), unknown, station).Drop)
	require.True(t, f.LearnLocal(later.Add(hold), station))
	at, known := f.Station(station)
	require.True(t, known)
	require.Equal(t, peerA, at)
	require.Equal(t, overlay.Decision{Source: peerB, Local: true}, f.Inbound(peerB, peerA, station))
	f.LearnRemote(later.Add(hold), station, peerC)
	require.Equal(t, peerC, where(f, station), "what comes over a link is believed at once")
}

// TestConnectionReplaced: the link of a newer connection stays when the older one is closed.
func TestConnectionReplaced(t *testing.T) {
	carrier := &stub{name: "x"}
	sw := newSwitch(t, nil, carrier)
	f := sw.Forwarder()
	linkTo := func(p peer.Name) overlay.Link { return f.Link(p, peerA, p) }
	require.Nil(t, linkTo(peerB))
	older := link(t, sw, peerB, "x")
	require.Equal(t, overlay.Link(carrier.last()), linkTo(peerB))
	newer := link(t, sw, peerB, "x")
	third := link(t, sw, peerC, "x")
	require.Equal(t, overlay.Link(carrier.links[1]), linkTo(peerB))
	older.Close()
	require.Equal(t, overlay.Link(carrier.links[1]), linkTo(peerB))
	older.Confirm()
	require.Equal(t, overlay.Link(carrier.links[1]), linkTo(peerB), "what is closed does not come back")
	newer.Close()
	newer.Close()
	require.Nil(t, linkTo(peerB))
	require.Equal(t, overlay.Link(carrier.links[2]), linkTo(peerC))
	third.Close()
}

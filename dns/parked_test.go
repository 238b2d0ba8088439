package dns

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// lateBus is a node whose membership lags: a peer appears in it some time after the node has seen it first. Gossip does not
// wait for that.
type lateBus struct {
	*gossiptest.Node
	late map[peer.Name]time.Time // when who will appear; the rest is there
}

func (b lateBus) Member(name peer.Name) (gossip.Member, bool) {
	m, ok := b.Node.Member(name)
	return m, ok && !time.Now().Before(b.late[name])
}

// TestGossipOvertakesMembership has a peer join, and restart, whose names arrive before the news that it is there: they are
// everywhere a moment after that, and not with the next complete state.
func TestGossipOvertakesMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, newcomer = 8, peer.Name(9)
		late := map[peer.Name]time.Time{}
		k := &cluster{t: t, bus: gossiptest.New(gossiptest.Config{Interval: time.Hour}), tables: map[peer.Name]*Table{}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		launch := func(name peer.Name) *gossiptest.Node {
			node := k.bus.Node(gossip.Member{Name: name})
			table, err := New(Config{Bus: lateBus{node, late}})
			require.NoError(t, err)
			k.tables[name] = table
			go func() { _ = table.Run(ctx) }()
			return node
		}
		for i := range size {
			launch(peer.Name(i + 1))
		}
		done := make(chan error, 1)
		go func() { done <- k.bus.Run(ctx) }()
		time.Sleep(time.Minute)

		for run := range 2 {
			late[newcomer] = time.Now().Add(2 * time.Second)
			node := launch(newcomer)
			atBoot, early := fmt.Sprintf("boot%d.weave.local", run), fmt.Sprintf("early%d.weave.local", run)
			require.NoError(t, k.tables[newcomer].Register(atBoot, "c", addrOf(1)))
			node.Start()
			time.Sleep(50 * time.Millisecond)
			require.NoError(t, k.tables[newcomer].Register(early, "c", addrOf(1)))
			time.Sleep(time.Second)
			synctest.Wait()
			require.Equal(t, 2, k.tables[1].Status().Parked)
			_, ok := k.tables[1].Lookup(early)
			require.False(t, ok, "not before it is a member")

			time.Sleep(time.Second + adoptInterval + 100*time.Millisecond)
			synctest.Wait()
			for name, table := range k.tables {
				for _, n := range []string{atBoot, early} {
					_, ok := table.Lookup(n)
					require.True(t, ok, "%s at %s", n, name)
				}
				require.Zero(t, table.Status().Parked)
				require.Zero(t, table.Status().UnknownOrigin)
			}
			node.Crash()
			time.Sleep(time.Minute)
		}
		cancel()
		require.NoError(t, <-done)
		synctest.Wait()
	})
}

// TestAdoptPassesOn: what a broadcast could not be passed on with is gossiped once its origin is known.
func TestAdoptPassesOn(t *testing.T) {
	table, bus := newTestTable(t)
	var passed []gossip.Data
	table.sender = gossipOnly{&passed}
	e := Entry{"a.weave.local.", peer2, "c", netip.MustParseAddr("10.40.0.1"), 0, 0}
	relayed, err := receiver{table}.OnBroadcast(peer2, encode(vectorClock, []Entry{e})[0])
	require.NoError(t, err)
	require.Nil(t, relayed)
	table.adopt(table.now())
	require.Empty(t, passed)
	bus.known[peer2] = true
	table.adopt(table.now())
	table.adopt(table.now())
	require.Len(t, passed, 1)
	require.Equal(t, message{vectorClock, []Entry{e}}, read(t, passed[0]))
}

type gossipOnly struct{ to *[]gossip.Data }

func (g gossipOnly) Unicast(context.Context, peer.Name, []byte) error { panic("unicast") }
func (g gossipOnly) Broadcast(gossip.Data)                            { panic("broadcast") }
func (g gossipOnly) Gossip(d gossip.Data)                             { *g.to = append(*g.to, d) }

// leavingBus loses its peer between the moment when it says that the peer is there and what is made of that.
type leavingBus struct {
	*recorder
	leave func()
}

func (b *leavingBus) Member(name peer.Name) (gossip.Member, bool) {
	m, ok := b.recorder.Member(name)
	if leave := b.leave; ok && leave != nil {
		b.leave = nil
		leave()
	}
	return m, ok
}

// TestAdoptedOriginLeaves: nothing is left of a peer that leaves while it is adopted.
func TestAdoptedOriginLeaves(t *testing.T) {
	bus := &leavingBus{recorder: &recorder{self: peer1, known: map[peer.Name]bool{}}}
	table, err := New(Config{Bus: bus, Now: func() time.Time { return time.Unix(vectorClock, 0) }})
	require.NoError(t, err)
	table.sender = gossipOnly{new([]gossip.Data)}
	e := Entry{"a.weave.local.", peer2, "c", netip.MustParseAddr("10.40.0.1"), 0, 0}
	_, err = receiver{table}.OnBroadcast(peer2, encode(vectorClock, []Entry{e})[0])
	require.NoError(t, err)
	bus.known[peer2] = true
	forgotten := make(chan bool)
	bus.leave = func() {
		delete(bus.known, peer2)
		go func() {
			receiver{table}.OnPeerGone(peer2)
			close(forgotten)
		}()
		select {
		case <-forgotten:
		case <-time.After(50 * time.Millisecond): // it waits until we are done
		}
	}
	table.adopt(table.now())
	<-forgotten
	require.Empty(t, table.Entries())
}

func TestParkedIsBounded(t *testing.T) {
	var p parked
	now := time.Unix(vectorClock, 0)
	nobody := func(peer.Name) bool { return false }
	var many []Entry
	for i := range maxParked + 10 {
		many = append(many, Entry{fmt.Sprintf("n%d.weave.local.", i), peer2, "c", addrOf(i), 0, 0})
	}
	require.Equal(t, 10, p.add(many, now))
	newer := many[0]
	newer.Hostname, newer.Version = "N0.weave.local.", 3
	require.Zero(t, p.add([]Entry{newer, many[1]}, now.Add(parkedFor)), "there already")
	require.Equal(t, maxParked, p.size())
	found, late := p.take(nobody, now.Add(parkedFor))
	require.Empty(t, found)
	require.Zero(t, late)
	found, late = p.take(nobody, now.Add(parkedFor+1))
	require.Empty(t, found)
	require.Equal(t, maxParked, late)

	require.Zero(t, p.add(many[:1], now))
	require.Zero(t, p.add([]Entry{newer}, now))
	found, late = p.take(func(n peer.Name) bool { return n == peer2 }, now.Add(time.Hour))
	require.Zero(t, late)
	newer.Hostname = many[0].Hostname
	require.Equal(t, []Entry{newer}, found)
	require.Zero(t, p.size())
}

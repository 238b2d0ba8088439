package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// TestFullTable: entries of ours that do not hold any more are put right also when there is no room for more of them here,
// and what there is no room for is not passed on.
func TestFullTable(t *testing.T) {
	bus := &recorder{self: peer1, known: map[peer.Name]bool{peer2: true}}
	table, err := New(Config{Bus: bus, MaxEntries: 2, Now: func() time.Time { return time.Unix(vectorClock, 0) }})
	require.NoError(t, err)
	addr := netip.MustParseAddr("10.40.0.1")
	table.put(Entry{"x.weave.local.", peer2, "c", addr, 0, 0}, Entry{"y.weave.local.", peer2, "c", addr, 0, 0})

	relayed, err := receiver{table}.OnBroadcast(peer2, encode(vectorClock, []Entry{
		{"stale.weave.local.", peer1, "dead", addr, 3, 0},
		{"n1.weave.local.", peer2, "c", addr, 0, 0},
		{"n2.weave.local.", peer2, "c", addr, 0, 0},
		{"x.weave.local.", peer2, "c", addr, 0, 0},
	})[0])
	require.NoError(t, err)
	right := Entry{"stale.weave.local.", peer1, "dead", addr, 4, vectorClock}
	sent := bus.take()
	require.Len(t, sent, 1)
	require.Equal(t, []Entry{right}, read(t, sent[0]).Entries)
	require.Equal(t, []Entry{right, {"x.weave.local.", peer2, "c", addr, 0, 0}}, read(t, relayed).Entries)
	require.Equal(t, Status{Domain: "weave.local.", Live: 2, Refused: 3, SelfCorrection: 1}, table.Status(), "not even by our own")
}

// TestGoneAfterReturn: the carrier tells that a peer is gone after it is back, and its names have come.
func TestGoneAfterReturn(t *testing.T) {
	table, bus := newTestTable(t, peer1, peer2)
	_, err := receiver{table}.OnGossip(encode(vectorClock, []Entry{{"n.weave.local.", peer2, "c", addrOf(1), 0, 0}})[0])
	require.NoError(t, err)
	receiver{table}.OnPeerGone(peer2)
	_, ok := table.Lookup("n.weave.local")
	require.True(t, ok)
	delete(bus.known, peer2)
	receiver{table}.OnPeerGone(peer2)
	require.Empty(t, table.Entries())
}

// TestNameReturns has the same name come back when its origin would have forgotten the tombstone and others would not.
func TestNameReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, gossiptest.Config{}, 3)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		at := func(m time.Duration) { time.Sleep(time.Until(began.Add(m * time.Minute))) }
		go func() { _ = k.tables[1].Run(ctx) }() // sweeps at 30, 60, 90
		at(28)
		go func() { _ = k.tables[2].Run(ctx) }() // sweeps at 58, 88
		require.NoError(t, k.tables[1].Register("n.weave.local", "c", addrOf(1)))
		at(29)
		k.tables[1].UnregisterAll()
		at(61)
		require.Equal(t, 1, k.tables[2].Status().Tombstones, "the case that this is about")
		require.NoError(t, k.tables[1].Register("n.weave.local", "c", addrOf(1)))
		time.Sleep(time.Second)
		synctest.Wait()
		for name, table := range k.tables {
			_, ok := table.Lookup("n.weave.local")
			require.True(t, ok, name)
		}
		cancel()
		synctest.Wait()
	})
}

// TestHighestVersion has a member say the last word, as it hopes, about the name of another.
func TestHighestVersion(t *testing.T) {
	for _, start := range []int64{0, vectorClock} {
		now := start
		clock := func() time.Time { return time.Unix(now, 0) }
		owner, err := New(Config{Bus: &recorder{self: peer1}, Now: clock})
		require.NoError(t, err)
		other, err := New(Config{Bus: &recorder{self: peer2, known: map[peer.Name]bool{peer1: true}}, Now: clock})
		require.NoError(t, err)
		require.NoError(t, owner.Register("own.weave.local", "c", addrOf(1)))
		forged := encode(now, []Entry{{"own.weave.local.", peer1, "c", addrOf(1), maxVersion(now) - 1, now + 1}})[0]
		for _, table := range []*Table{owner, other} {
			_, err = receiver{table}.OnGossip(forged)
			require.NoError(t, err)
		}
		_, ok := other.Lookup("own.weave.local")
		require.False(t, ok)
		now++
		_, err = receiver{other}.OnGossip(receiver{owner}.State().Encode()[0])
		require.NoError(t, err)
		_, ok = other.Lookup("own.weave.local")
		require.True(t, ok)
		require.Zero(t, other.Status().BadEntries)
	}
	require.Equal(t, int64(1<<61), maxVersion(-1<<63))
	require.Positive(t, maxVersion(1<<63-1)+1)
}

// TestDeepNames: a name of very many labels costs one node, and resolves.
func TestDeepNames(t *testing.T) {
	table, _ := newTestTable(t, peer1, peer2)
	deep := strings.Repeat("a.", 117) + "weave.local."
	edge := strings.Repeat("b.", maxDepth) + "weave.local."
	table.put(Entry{deep, peer2, "c", addrOf(1), 0, 0}, Entry{edge, peer2, "c", addrOf(1), 0, 0})
	require.Len(t, table.recs.names, 1+maxDepth+1)
	for _, name := range []string{deep, edge, parent(edge)} {
		_, ok := table.Lookup(name)
		require.True(t, ok)
	}
}

// TestMergeLetsReadersIn looks for a reader that sees a large message half merged, until there is one.
func TestMergeLetsReadersIn(t *testing.T) {
	var many []Entry
	for i := range 20000 {
		many = append(many, Entry{"x.weave.local.", peer2, fmt.Sprintf("%07d", i), addrOf(1), 0, 0})
	}
	slices.Reverse(many)
	require.Eventually(t, func() bool {
		table, bus := newTestTable(t, peer1, peer2)
		halfway := func(do func()) bool {
			done := make(chan struct{})
			go func() { do(); close(done) }()
			for {
				select {
				case <-done:
					return false
				default:
					if n := table.Status().Live; n > 0 && n < len(many) {
						<-done
						return true
					}
				}
			}
		}
		merged := halfway(func() { table.mergeAll(many, vectorClock) })
		clear(bus.known)
		gone := halfway(func() { receiver{table}.OnPeerGone(peer2) })
		return merged && gone
	}, time.Minute, time.Millisecond)
}

// TestSpellingOverRestart registers before it hears what others remember in another spelling: theirs was first.
func TestSpellingOverRestart(t *testing.T) {
	table, bus := newTestTable(t, peer1, peer2)
	heard := func(name string, version int64) {
		_, err := receiver{table}.OnGossip(encode(vectorClock, []Entry{{name, peer1, "c", addrOf(1), version, 0}})[0])
		require.NoError(t, err)
	}
	require.NoError(t, table.Register("foo.weave.local", "c", addrOf(1)))
	bus.take()
	heard("Foo.weave.local.", 3)
	want := []Entry{{"Foo.weave.local.", peer1, "c", addrOf(1), 4, 0}}
	require.Equal(t, want, read(t, bus.take()[0]).Entries)
	require.Equal(t, want, read(t, receiver{table}.State()).Entries)
	heard("FOO.weave.local.", 1)
	require.Equal(t, want, table.Entries(), "and stays from then on")
}

func TestLower(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "abc.1": "abc.1", "aBcZ[@": "abcz[@", "\u212a": "\u212a", "\u00dc": "\u00dc", "\xc3A\xff": "\xc3a\xff",
	} {
		require.Equal(t, want, lower(in), "%q", in)
	}
}

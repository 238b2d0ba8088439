package dns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNewRefuses(t *testing.T) {
	_, err := New(Config{})
	require.ErrorContains(t, err, "no gossip bus")
	for _, domain := range []string{".", "a..b", strings.Repeat("x", 64) + ".", strings.Repeat("x.", 130)} {
		_, err = New(Config{Bus: &recorder{self: peer1}, Domain: domain})
		require.ErrorIs(t, err, ErrInvalidName, domain)
	}
	_, err = New(Config{Bus: &recorder{self: peer1}, MaxEntries: -1})
	require.ErrorContains(t, err, "negative")
	node := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: peer1})
	first, err := New(Config{Bus: node, Domain: "Example.ORG"})
	require.NoError(t, err)
	require.Equal(t, "example.org.", first.Domain())
	_, err = New(Config{Bus: node})
	require.ErrorIs(t, err, gossip.ErrChannelTaken)
}

func TestRegisterRefuses(t *testing.T) {
	table, bus := newTestTable(t, peer1)
	v4 := netip.MustParseAddr("10.32.0.1")
	require.ErrorIs(t, table.Register("a.weave.local", "c", netip.MustParseAddr("fd00::1")), ErrNotIPv4)
	require.ErrorIs(t, table.Register("a.weave.local", "c", netip.Addr{}), ErrNotIPv4)
	require.ErrorIs(t, table.Register("a..weave.local", "c", v4), ErrInvalidName)
	require.ErrorIs(t, table.Register(".weave.local", "c", v4), ErrInvalidName)
	require.ErrorIs(t, table.Register(`a\.b.weave.local`, "c", v4), ErrInvalidName)
	require.ErrorIs(t, table.Register(strings.Repeat("x", 64)+".weave.local", "c", v4), ErrInvalidName)
	require.ErrorIs(t, table.Register(strings.Repeat("x.", 130)+"weave.local", "c", v4), ErrInvalidName)
	require.ErrorIs(t, table.Register("a.weave.local", strings.Repeat("x", maxOwner+1), v4), ErrInvalidName)
	require.ErrorIs(t, table.Register("aweave.local", "c", v4), ErrOutsideDomain)
	require.Empty(t, table.Entries())
	require.Empty(t, bus.take())
	require.NoError(t, table.Register("a.weave.local", "c", netip.MustParseAddr("::ffff:10.32.0.1")))
	require.Equal(t, v4, table.Entries()[0].Addr)
}

func TestCaseOfNames(t *testing.T) {
	table, _ := newTestTable(t, peer1, peer2)
	addr := netip.MustParseAddr("10.32.0.1")
	require.NoError(t, table.Register("Bar.Weave.Local", "c2", addr))
	require.NoError(t, table.Register("bar.weave.local", "c2", addr))
	require.Len(t, table.Entries(), 1)
	require.Equal(t, "Bar.Weave.Local.", table.Entries()[0].Hostname)
	got, ok := table.Lookup("BAR.weave.local")
	require.True(t, ok)
	require.Equal(t, []netip.Addr{addr}, got)

	// The same from another peer, in another spelling than it told first: passed on in the first.
	r := receiver{table}
	for i, name := range []string{"Foo.weave.local.", "foo.weave.local."} {
		out, err := r.OnGossip(encode(vectorClock, []Entry{{name, peer2, "c", addr, int64(i), 0}})[0])
		require.NoError(t, err)
		require.Equal(t, []Entry{{"Foo.weave.local.", peer2, "c", addr, int64(i), 0}}, read(t, out).Entries)
	}

	require.Equal(t, 1, table.Unregister(Match{Name: "bar.weave.local"}))
	_, ok = table.Lookup("bar.weave.local")
	require.False(t, ok)
}

func TestUnregisterMatches(t *testing.T) {
	a, b := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.2")
	for _, c := range []struct {
		m    Match
		want int
	}{
		{Match{}, 0}, {Match{Name: "x.weave.local"}, 2}, {Match{Owner: "c1"}, 3}, {Match{Addr: b}, 2},
		{Match{Name: "x.weave.local.", Owner: "c2"}, 1}, {Match{Owner: "c3"}, 0},
		{Match{Addr: netip.MustParseAddr("::ffff:10.32.0.1")}, 2},
	} {
		table, bus := newTestTable(t, peer1, peer2)
		table.put(Entry{"x.weave.local.", peer2, "c1", a, 0, 0}) // another peer's, never touched
		require.NoError(t, table.Register("x.weave.local", "c1", a))
		require.NoError(t, table.Register("x.weave.local", "c2", b))
		require.NoError(t, table.Register("y.weave.local", "c1", a))
		require.NoError(t, table.Register("y.weave.local", "c1", b))
		bus.take()
		require.Equal(t, c.want, table.Unregister(c.m))
		require.Equal(t, 5-c.want, table.Status().Live)
		if sent := bus.take(); c.want > 0 {
			require.Len(t, sent, 1)
			require.Len(t, read(t, sent[0]).Entries, c.want)
		} else {
			require.Empty(t, sent)
		}
	}
}

func TestLookup(t *testing.T) {
	table, _ := newTestTable(t, peer1)
	a, b := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.2")
	require.NoError(t, table.Register("a.b.weave.local", "c1", b))
	require.NoError(t, table.Register("a.b.weave.local", "c2", a))
	require.NoError(t, table.Register("a.b.weave.local", "c3", a))
	table.put(Entry{"far.example.com.", peer1, "c", a, 0, 0}) // a 2.8 peer with another domain tells such

	got, ok := table.Lookup("A.B.Weave.Local")
	require.True(t, ok)
	require.Equal(t, []netip.Addr{a, b}, got)
	for name, exists := range map[string]bool{
		"b.weave.local": true, "weave.local.": true, "local": false, "c.b.weave.local": false, "a.a.b.weave.local": false,
		"far.example.com": true, "example.com": false, "": false, ".": false,
	} {
		got, ok = table.Lookup(name)
		require.Equal(t, exists, ok, name)
		require.Equal(t, name == "far.example.com", len(got) > 0, name)
	}
	name, ok := table.Reverse(netip.MustParseAddr("::ffff:10.32.0.1"))
	require.True(t, ok)
	require.Equal(t, "a.b.weave.local.", name)

	require.Equal(t, 3, table.Unregister(Match{Name: "a.b.weave.local"}))
	_, ok = table.Lookup("b.weave.local")
	require.False(t, ok)
	_, ok = table.Reverse(b)
	require.False(t, ok)
}

func TestReceiveDropsBadEntries(t *testing.T) {
	table, _ := newTestTable(t, peer1, peer2)
	addr := netip.MustParseAddr("10.40.0.1")
	good := Entry{"ok.weave.local.", peer2, "c", addr, 0, 0}
	msg := encode(vectorClock, []Entry{
		good,
		{"nodot.weave.local", peer2, "c", addr, 0, 0},
		{strings.Repeat("x", maxHostname) + ".", peer2, "c", addr, 0, 0},
		{"owner.weave.local.", peer2, strings.Repeat("x", maxOwner+1), addr, 0, 0},
		{"version.weave.local.", peer2, "c", addr, -1, 0},
		{"version.weave.local.", peer2, "c", addr, maxVersion(vectorClock), 0},
		{"tombstone.weave.local.", peer2, "c", addr, 0, -1},
		{"origin.weave.local.", 0, "c", addr, 0, 0},
		{"stranger.weave.local.", peer3, "c", addr, 0, 0},
	})[0]
	relayed, err := receiver{table}.OnBroadcast(peer2, msg)
	require.NoError(t, err)
	require.Equal(t, []Entry{good}, read(t, relayed).Entries)
	require.Equal(t, []Entry{good}, table.Entries())
	require.Equal(t, uint64(7), table.Status().BadEntries)
	require.Equal(t, 1, table.Status().Parked)

	_, err = receiver{table}.OnGossip([]byte("not gob"))
	require.ErrorIs(t, err, errMalformed)
	require.Equal(t, uint64(1), table.Status().Malformed)
	require.NoError(t, receiver{table}.OnUnicast(peer2, []byte("anything")))
}

func TestTombstonesOfBrokenClocks(t *testing.T) {
	table, _ := newTestTable(t, peer1, peer2)
	addr := netip.MustParseAddr("10.40.0.1")
	for name, stone := range map[string]int64{
		"old.weave.local.": vectorClock - tombstoneAge - 1, "future.weave.local.": vectorClock + tombstoneAhead + 1,
	} {
		live := Entry{name, peer2, "c", addr, 0, 0}
		dead := Entry{name, peer2, "c", addr, 1, stone}
		out, err := receiver{table}.OnGossip(encode(vectorClock, []Entry{dead})[0])
		require.NoError(t, err)
		require.Nil(t, out, "not known and expired: no news")
		require.Empty(t, table.Entries())
		table.put(live)
		_, err = receiver{table}.OnGossip(encode(vectorClock, []Entry{dead})[0])
		require.NoError(t, err)
		require.Equal(t, []Entry{dead}, table.Entries(), "known: it is removed")
		table.expire(vectorClock)
		require.Empty(t, table.Entries())
	}
}

func TestMaxEntries(t *testing.T) {
	bus := &recorder{self: peer1, known: map[peer.Name]bool{peer2: true}}
	table, err := New(Config{Bus: bus, MaxEntries: 2, Now: func() time.Time { return time.Unix(vectorClock, 0) }})
	require.NoError(t, err)
	var many []Entry
	for i := range 5 {
		many = append(many, Entry{fmt.Sprintf("n%d.weave.local.", i), peer2, "c", netip.MustParseAddr("10.40.0.1"), 0, 0})
	}
	out, err := receiver{table}.OnGossip(encode(vectorClock, many)[0])
	require.NoError(t, err)
	require.Len(t, read(t, out).Entries, 2)
	require.Equal(t, uint64(3), table.Status().Refused)
	require.NoError(t, table.Register("own.weave.local", "c", netip.MustParseAddr("10.32.0.1")))
	require.Equal(t, Status{Domain: "weave.local.", Live: 3, Own: 1, Refused: 3}, table.Status())
}

// TestRecordsAgainstModel compares the indexes with a walk over all entries, after random changes.
func TestRecordsAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := newRecords("d.")
		pick := func(of ...string) string { return of[rng.IntN(len(of))] }
		for range 300 {
			switch rng.IntN(20) {
			case 0:
				r.dropOrigin(peer2, 5)
			case 1:
				r.dropFunc(func(e Entry) bool { return e.Tombstone > 3 })
			default:
				r.merge(Entry{
					Hostname: pick("a.d.", "A.d.", "b.a.d.", "c.b.a.d.", "d.", "x.y.", ".d.", "..d.", "9.8.7.6.5.4.3.2.1.d.", "8.7.6.5.4.3.2.1.d."),
					Origin:   []peer.Name{peer1, peer2}[rng.IntN(2)], Owner: pick("c1", "c2"),
					Addr:    netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(3))}),
					Version: rng.Int64N(6), Tombstone: max(0, rng.Int64N(10)-5),
				})
			}
			checkModel(t, r)
		}
	}
}

func checkModel(t *testing.T, r *records) {
	live, own := 0, 0
	names := map[string][]netip.Addr{}
	addrs := map[netip.Addr]string{}
	for _, e := range r.sorted() {
		if !e.Live() {
			continue
		}
		live++
		if e.Origin == peer1 {
			own++
		}
		name := strings.ToLower(e.Hostname)
		if !slices.Contains(names[name], e.Addr) {
			names[name] = append(names[name], e.Addr)
		}
		if _, ok := addrs[e.Addr]; !ok {
			addrs[e.Addr] = e.Hostname
		}
		for name != "d." && within(name, "d.") && checkName(lower(e.Hostname)) == nil && strings.Count(e.Hostname, ".") <= maxDepth+1 {
			name = parent(name)
			names[name] = names[name][:len(names[name]):len(names[name])]
		}
	}
	require.Equal(t, live, r.live)
	require.Equal(t, own, r.liveOf(peer1))
	require.Len(t, r.names, len(names))
	for name, want := range names {
		slices.SortFunc(want, netip.Addr.Compare)
		got, ok := r.lookup(name)
		require.True(t, ok)
		require.True(t, slices.Equal(want, got), "%s: %v, want %v", name, got, want)
	}
	require.Len(t, r.addrs, len(addrs))
	for addr, want := range addrs {
		got, ok := r.reverse(addr)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
}

func TestStateIsEncodedOncePerChange(t *testing.T) {
	table, _ := newTestTable(t, peer1)
	now := time.Unix(vectorClock, 0)
	table.now = func() time.Time { return now }
	s := receiver{table}.State()
	empty := s.Encode()
	require.Len(t, empty, 1, "an empty table is told as well")
	require.Same(t, &empty[0][0], &s.Encode()[0][0])
	require.NoError(t, table.Register("a.weave.local", "c", netip.MustParseAddr("10.32.0.1")))
	require.Len(t, read(t, s).Entries, 1)
	now = now.Add(stateFresh)
	require.Equal(t, now.Unix(), read(t, s).At)
	table.UnregisterAll()
	require.NotZero(t, read(t, s).Entries[0].Tombstone)
}

func TestDataMerge(t *testing.T) {
	addr := netip.MustParseAddr("10.32.0.1")
	entry := func(name string, version, tombstone int64) Entry {
		return Entry{name, peer1, "c", addr, version, tombstone}
	}
	x := newDelta(5, []Entry{entry("a.d.", 1, 0), entry("b.d.", 0, 0)})
	y := newDelta(7, []Entry{entry("a.d.", 2, 9), entry("b.d.", 0, 3), entry("Z.d.", 0, 0)})
	want := message{7, []Entry{entry("Z.d.", 0, 0), entry("a.d.", 2, 9), entry("b.d.", 0, 3)}}
	require.Equal(t, want, read(t, x.Merge(y)))
	require.Equal(t, want, read(t, y.Merge(x)))
	require.Len(t, read(t, x).Entries, 2, "operands stay")
	table, _ := newTestTable(t, peer1)
	s := receiver{table}.State()
	require.Same(t, s, s.Merge(x))
	require.Same(t, s, x.Merge(s))
	require.Nil(t, newDelta(1, nil))
}

// TestConcurrentUse gives the race detector something to look at.
func TestConcurrentUse(t *testing.T) {
	table, _ := newTestTable(t, peer1, peer2)
	table.sender = discard{}
	var wg sync.WaitGroup
	for i := range 4 {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		msg := encode(vectorClock, []Entry{{"x.weave.local.", peer2, "c", addr, int64(i), 0}})[0]
		wg.Go(func() {
			for range 50 {
				_ = table.Register("x.weave.local", "c", addr)
				table.Lookup("x.weave.local")
				_, _ = receiver{table}.OnGossip(msg)
				receiver{table}.State().Encode()
				table.Reverse(addr)
				table.Unregister(Match{Addr: addr})
				table.Entries()
				table.forget(peer2)
			}
		})
	}
	wg.Wait()
	require.Zero(t, table.Status().Live)
}

type discard struct{ gossip.Sender }

func (discard) Broadcast(gossip.Data) {}

func TestRunExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, _ := newTestTable(t, peer1, peer2)
		table.now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- table.Run(ctx) }()
		addr := netip.MustParseAddr("10.32.0.1")
		require.NoError(t, table.Register("a.weave.local", "c", addr))
		time.Sleep(10 * time.Minute)
		table.UnregisterAll()
		table.put(Entry{"b.weave.local.", peer2, "c", addr, 1, time.Now().Unix()})
		time.Sleep(25 * time.Minute)
		synctest.Wait()
		require.Equal(t, 2, table.Status().Tombstones, "25 minutes old")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 1, table.Status().Tombstones, "our own is kept longer")
		require.Empty(t, read(t, receiver{table}.State()).Entries, "but not told")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, table.Status().Tombstones)
		cancel()
		require.NoError(t, <-done)
	})
}

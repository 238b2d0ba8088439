package mesh

import (
	"encoding/gob"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

// invented are entries of peers that do not exist.
func invented(from, count int) (entries []*entry) {
	for i := range count {
		entries = append(entries, &entry{name: peer.Name(1<<32 + from + i), uid: 1})
	}
	return entries
}

// TestRoomForOthers: one connection may tell of many peers, but not of so many that no others find room, be it by way of
// entries or of lists. Those that connect to us find room whatever there is.
func TestRoomForOthers(t *testing.T) {
	for _, listed := range []bool{false, true} {
		topo := newTopology(&entry{name: 1, uid: 1}, randomInt)
		topo.hold(2)
		topo.hold(3)
		update := invented(0, maxPeers)
		if listed {
			var list []byte
			for _, e := range update[1:] {
				list = appendConn(list, conn{remote: e.name})
			}
			update = []*entry{{name: 2, uid: 1, conns: connList(list)}}
		}
		topo.merge(update, 2)
		if listed {
			require.Len(t, topo.entries, openRoom)
		}
		topo.merge(invented(maxPeers, maxPeers), 2)
		require.Len(t, topo.entries, openRoom+linkRoom)
		topo.merge([]*entry{{name: 99, uid: 1}}, 2)
		require.Nil(t, topo.entry(99), "heard from the same one")
		topo.merge([]*entry{{name: 99, uid: 1}}, 3)
		require.NotNil(t, topo.entry(99), "heard from another")

		topo.merge(slices.Clone(topo.entries), 3) // now two tell of these
		topo.merge([]*entry{{name: 98, uid: 1}}, 2)
		require.NotNil(t, topo.entry(98))
		for i := range 20 {
			topo.merge(invented(i*linkRoom, linkRoom), peer.Name(100+i))
		}
		require.Len(t, topo.entries, maxPeers-keptRoom)
		topo.release(2)
		topo.collect(newGraph(topo, nil))
		require.Len(t, topo.entries, 1)
		require.Empty(t, topo.room.only)
		require.Empty(t, topo.room.told)
		requireDigest(t, topo)
	}
	topo := newTopology(&entry{name: 1, uid: 1}, randomInt)
	topo.hold(2)
	topo.merge(invented(0, maxPeers), 2)
	require.Len(t, topo.entries, maxPeers-keptRoom, "nobody else is there to leave room for")
}

// TestRoomForLists: long lists are bounded together, and short ones find room beside them.
func TestRoomForLists(t *testing.T) {
	topo := newTopology(&entry{name: 1, uid: 1}, randomInt)
	text := make([]byte, maxAddrText)
	var list []byte
	for i := range maxPeers {
		list = appendConn(list, conn{remote: peer.Name(i + 1), address: address{raw: string(text)}})
	}
	require.NoError(t, connList(list).check())
	for i := range 50 {
		topo.merge([]*entry{{name: peer.Name(1<<32 + i), uid: 1, version: 1, conns: connList(list)}}, 2)
		topo.merge([]*entry{{name: peer.Name(1<<33 + i), uid: 1, version: 1, conns: connList(list[:shortList/263*263])}}, 2)
		require.NotNil(t, topo.entry(peer.Name(1<<33+i)))
	}
	require.LessOrEqual(t, topo.listBytes, maxListBytes)
	require.Greater(t, topo.listBytes, maxListBytes/2)
	topo.collect(newGraph(topo, nil))
	require.Zero(t, topo.listBytes)
}

// TestLongestEntryFits: whatever a peer may list can be passed on, in the form of both wires.
func TestLongestEntryFits(t *testing.T) {
	var list []byte
	for i := range maxPeers {
		list = appendConn(list, conn{remote: peer.Name(1<<47 + i), outbound: true, established: true,
			address: address{raw: string(make([]byte, maxAddrText))}})
	}
	e := &entry{name: 7, uid: 1<<64 - 1, version: maxVersion, nickname: string(make([]byte, maxNickname)), conns: connList(list)}
	require.NoError(t, e.conns.check())
	many := append(invented(0, 9), e, e)
	var sizes []int
	for rest := many; len(rest) > 0; {
		var msg []byte
		msg, rest = appendDelta(nil, rest)
		sizes = append(sizes, len(msg))
	}
	for _, msg := range encodeUpdates(&entry{name: 1}, many) {
		sizes = append(sizes, len(msg))
	}
	require.Len(t, sizes, 6)
	for _, n := range sizes {
		require.Less(t, n, maxFrame/2)
	}
	e.conns = connList(appendConn(list, conn{remote: 1}))
	require.ErrorIs(t, e.conns.check(), errMalformed)
}

// TestListsNameAPeerOnce: a list that names a peer twice is malformed on either wire, whatever its order.
func TestListsNameAPeerOnce(t *testing.T) {
	for _, names := range [][]peer.Name{{5, 5}, {5, 6, 7, 5}, {7, 6, 7}} {
		var list []byte
		for _, n := range names {
			list = appendConn(list, conn{remote: n})
		}
		bad := []*entry{{name: 9, uid: 1, conns: connList(list)}}
		_, _, err := parseEntries(appendEntries(bad), nothingKnown)
		require.ErrorIs(t, err, errMalformed)
		_, _, err = decodeUpdate(encodeUpdate(bad), nothingKnown)
		require.ErrorIs(t, err, errMalformed)
		_, err = decodeOddUpdate(encodeUpdate(bad))
		require.ErrorIs(t, err, errMalformed)
	}
	require.NoError(t, connList(appendConn(appendConn(nil, conn{remote: 6}), conn{remote: 5})).check())
}

// TestLearnIsBounded: of addresses that somebody invents, so many are looked at and no more.
func TestLearnIsBounded(t *testing.T) {
	topo := newTopology(&entry{name: 1, uid: 1}, randomInt)
	for p := range 4 {
		var list []byte
		for i := range maxPeers / 2 {
			addr := netip.AddrFrom4([4]byte{11, byte(p), byte(i >> 8), byte(i)})
			list = appendConn(list, conn{remote: peer.Name(1000 + i), outbound: true, address: addressOf(netip.AddrPortFrom(addr, 6783))})
		}
		topo.merge([]*entry{{name: peer.Name(2 + p), uid: 1, conns: connList(list)}}, 2)
	}
	require.Len(t, learn(topo, func(peer.Name) bool { return false }, 6783), maxPeers)
}

// TestOddUpdatesAreShort: encoding/gob makes much of little, so it gets no more than that.
func TestOddUpdatesAreShort(t *testing.T) {
	update := oddUpdate(t, maxOddUpdate)
	_, _, err := decodeUpdate(update, nothingKnown)
	require.ErrorIs(t, err, errMalformed)
	require.ErrorContains(t, err, "unusual shape")
	_, _, err = decodeUpdate(oddUpdate(t, 0), nothingKnown)
	require.NoError(t, err)
}

// oddUpdate is an update of a shape that only encoding/gob reads, about one peer, with an empty list that takes so many bytes.
func oddUpdate(t *testing.T, bytes int) []byte {
	type odd struct {
		NameByte []byte
		More     struct{ X int }
	}
	o := odd{NameByte: peer.Name(5).AppendBytes(nil)}
	o.More.X = 1
	var buf strings.Builder
	enc := gob.NewEncoder(&buf)
	require.NoError(t, enc.Encode(o))
	require.NoError(t, enc.Encode(make([]gobConn, bytes)))
	return []byte(buf.String())
}

// TestNewcomersAmongInvented: while one peer has the others believe in as many as they take, others can join anywhere, and no
// connection ends for it.
func TestNewcomersAmongInvented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		one, two := victims(t, n)
		c := joinDelta(t, n, name(9))
		list := appendConn(nil, conn{remote: name(1)})
		for _, e := range invented(0, maxPeers-1) {
			list = appendConn(list, conn{remote: e.name})
		}
		c.tell(t, &entry{name: name(9), uid: peer.UID(name(9)) + 77, version: 50, conns: connList(list)})
		time.Sleep(time.Minute)
		require.Greater(t, len(two.Members()), openRoom/2)
		rs := []*running{one, two, start(t, inMemory(n, 3, 1))}
		time.Sleep(time.Minute)
		rs = append(rs, start(t, inMemory(n, 4, 2)))
		time.Sleep(2 * time.Minute)
		for _, r := range rs {
			require.Empty(t, ended(r))
			for i := range rs {
				m, ok := r.Member(name(i + 1))
				require.True(t, ok && m.UID != 0, "%s of %d", r.Self().Name, i+1)
			}
		}
		_ = c.Close()
		time.Sleep(2 * time.Minute)
		require.True(t, knows(4, rs...)())
		for _, r := range rs {
			r.stop()
		}
	})
}

// TestVersionsThatCannotBe: what one peer says of another is outrun by that one, be it about this run of it or another; a
// version that could not be outrun is not believed.
func TestVersionsThatCannotBe(t *testing.T) {
	for _, lie := range []*entry{
		{uid: 12345, version: 1<<64 - 1}, {uid: 12345, version: maxVersion}, {uid: 12345, version: 1 << 40},
		{uid: uidOf(2), version: 1 << 40},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(time.Millisecond)
			one := start(t, inMemory(n, 1))
			c := inMemory(n, 2, 1)
			c.UID = uidOf(2)
			two := start(t, c)
			time.Sleep(10 * time.Second)
			liar := joinDelta(t, n, name(9))
			liar.tell(t, &entry{name: name(2), uid: lie.uid, version: lie.version, conns: connList(appendConn(nil, conn{remote: name(1)}))})
			time.Sleep(5 * time.Second)
			_ = liar.Close()
			time.Sleep(time.Minute)
			three := start(t, inMemory(n, 3, 2))
			time.Sleep(time.Minute)
			for _, r := range []*running{one, two, three} {
				g := r.view.Load().graph
				i, _ := g.number(name(2))
				require.Equal(t, uidOf(2), g.entries[i].uid)
				require.Equal(t, 2, g.entries[i].conns.len(), "%s of %x", r.Self().Name, lie.version)
			}
			for _, r := range []*running{one, two, three} {
				r.stop()
			}
		})
	}
}

func uidOf(i int) peer.UID { return peer.UID(1000 + i) }

// TestWantsAreBounded: who asks for what there is not, and reads nothing, does not fill what waits for it.
func TestWantsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		one, two := victims(t, n)
		c := joinAs(t, n, features{name: name(9), connID: 1, delta: true}) // it reads nothing
		for range 30_000 {
			c.send(t, append([]byte{tagDelta, deltaPing}, make([]byte, maxPing)...))
		}
		for k := range 10 {
			names := []peer.Name{name(1), name(2)}
			for _, e := range invented(k*maxPeers, maxPeers-2) {
				names = append(names, e.name)
			}
			c.send(t, wantMessage(names))
		}
		synctest.Wait()
		require.LessOrEqual(t, len(one.view.Load().links[name(9)].out.topo), 3)
		_ = c.Close()
		time.Sleep(5 * time.Second)
		requireUnharmed(t, one, two)
		one.stop()
		two.stop()
	})
	var o outbox
	for k := range 10 {
		var names []peer.Name
		for _, e := range invented(k*maxPeers/4, maxPeers/4) {
			names = append(names, e.name)
		}
		o.addTopology(names)
	}
	require.LessOrEqual(t, len(o.topo), maxPeers)
	require.True(t, o.topoAll)
}

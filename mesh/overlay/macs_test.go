package overlay

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	here  peer.Name = 0x020000000001
	there peer.Name = 0x020000000002
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testMAC(i int) MAC {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(i))
	return MAC{2, b[3], b[4], b[5], b[6], b[7]}
}

func TestMACTableLearnsAndMoves(t *testing.T) {
	var table macTable
	m := testMAC(1)
	requireAt := func(want peer.Name) {
		t.Helper()
		at, known := table.lookup(m)
		require.Equal(t, want != 0, known)
		require.Equal(t, want, at)
	}
	requireAt(0)
	require.True(t, table.learn(m, there, epoch, true))
	requireAt(there)
	require.False(t, table.learn(m, here, epoch, false), "captured here, but known there")
	requireAt(there)
	require.True(t, table.learn(m, here, epoch, true))
	requireAt(here)
	require.True(t, table.learn(m, here, epoch, false))
	requireAt(here)

	group := MAC{1, 0, 0x5e, 0, 0, 1}
	require.True(t, table.learn(group, there, epoch, true))
	_, known := table.lookup(group)
	require.False(t, known, "group addresses are nobody's")
	require.Len(t, table.list(), 1)
}

func TestMACTableAges(t *testing.T) {
	f := NewForwarder(here)
	f.macs.learn(testMAC(1), there, epoch, true)
	f.macs.learn(testMAC(2), there, epoch, true)
	f.macs.learn(testMAC(2), there, epoch.Add(time.Duration(macRefreshGap)+1), true)
	f.macs.learn(testMAC(3), here, epoch.Add(time.Minute), true)

	f.Expire(epoch.Add(MACAge))
	require.Len(t, f.MACs(), 3, "ten minutes old, not older")
	f.Expire(epoch.Add(MACAge + 1))
	require.Equal(t, []MAC{testMAC(2), testMAC(3)}, macsOf(f))
	f.ForgetPeer(there)
	require.Equal(t, []MAC{testMAC(3)}, macsOf(f))
	require.Equal(t, epoch.Add(time.Minute).UnixNano(), f.MACs()[0].LastSeen.UnixNano())
	f.Expire(epoch.Add(MACAge + time.Minute + 1))
	require.Empty(t, f.MACs())
}

func macsOf(f *Forwarder) (out []MAC) {
	for _, e := range f.MACs() {
		out = append(out, e.MAC)
	}
	return out
}

func TestMACTableIsBounded(t *testing.T) {
	var table macTable
	table.learn(testMAC(0), there, epoch, true)
	for i := range 2 * MaxMACs {
		require.True(t, table.learn(testMAC(i), there, epoch, true))
	}
	require.Len(t, table.list(), MaxMACs)
	at, known := table.lookup(testMAC(0))
	require.True(t, known)
	require.Equal(t, there, at)
	require.True(t, table.learn(testMAC(0), here, epoch, true), "a full table still moves stations")
	at, _ = table.lookup(testMAC(0))
	require.Equal(t, here, at)
}

// TestOwnSource has a neighbour say that what a station of another peer sent entered the overlay here: it stays where it is.
func TestOwnSource(t *testing.T) {
	f := NewForwarder(here)
	f.snooper.on.Store(true)
	for _, frame := range [][]byte{linuxFrame("IGMPv2 join"), make([]byte, HeaderLen)} {
		frame[6] = 2
		m := MAC(frame[6:12])
		f.LearnRemote(epoch, m, there)
		require.Equal(t, DropOwn, f.ReceivedFrame(epoch, here, here, frame).Drop)
		f.LearnRemote(epoch, m, here)
		at, _ := f.Station(m)
		require.Equal(t, there, at)
	}
}

// TestMACTableIsShared has two peers invent addresses: others still find room, and so do the stations of those after a while.
func TestMACTableIsShared(t *testing.T) {
	var table macTable
	var changes int
	table.changed = func(MAC) { changes++ }
	const third peer.Name = 0x020000000003
	inShard := func(i int) MAC { return MAC{2, byte(i >> 8), byte(i)} } // all in one
	knows := func(i int, p peer.Name) bool {
		at, known := table.lookup(inShard(i))
		return known && at == p
	}
	now := epoch
	for i := range 2 * maxPerShard {
		table.learn(inShard(i), there, now, true)
	}
	require.Equal(t, maxPerShard, changes)
	now = now.Add(time.Second)
	for i := range 16 {
		table.learn(inShard(1000+i), third, now, true)
		require.True(t, knows(1000+i, third))
	}
	require.Equal(t, maxPerShard+2*16, changes, "who left is told as well")
	for i := range 2 * maxPerShard {
		table.learn(inShard(2000+i), here, now, false)
	}
	counts := map[peer.Name]int{}
	for _, e := range table.list() {
		counts[e.Peer]++
	}
	require.Equal(t, 16, counts[third], "who has few keeps them")
	require.Equal(t, 120, counts[here])
	require.Equal(t, 120, counts[there])

	const late = 5000
	table.learn(inShard(late), here, now, false)
	require.False(t, knows(late, here))
	now = now.Add(macIdle)
	table.learn(inShard(late), here, now, false)
	require.True(t, knows(late, here), "in the place of one that is silent")
	table.learn(MAC{}, here, now, false)
	_, known := table.lookup(MAC{})
	require.False(t, known)
}

// TestMACTableConcurrency has readers, learners, movers and forgetters at once; the race detector does the rest.
func TestMACTableConcurrency(t *testing.T) {
	f := NewForwarder(here)
	f.SetRoutes(noRoutes{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				m := testMAC(i % 100)
				now := epoch.Add(time.Duration(i) * time.Second)
				switch g {
				case 0:
					f.Captured(now, testMAC((i+1)%100), m)
				case 1:
					f.Received(now, there, here, testMAC((i+1)%100), m)
				case 2:
					f.Expire(now)
				case 3:
					f.MACs()
					f.ForgetPeer(there)
				}
			}
		})
	}
	wg.Wait()
	for _, e := range f.MACs() {
		require.Contains(t, []peer.Name{here, there}, e.Peer)
	}
}

// TestMACTableCapturedRace: of two peers that claim a new station at once, capture never takes it from the other.
func TestMACTableCapturedRace(t *testing.T) {
	for i := range 200 {
		var table macTable
		var wg sync.WaitGroup
		var took bool
		wg.Go(func() { table.learn(testMAC(i), there, epoch, true) })
		wg.Go(func() { took = table.learn(testMAC(i), here, epoch, false) })
		wg.Wait()
		at, _ := table.lookup(testMAC(i))
		if !took {
			require.Equal(t, there, at)
		}
		require.Equal(t, there, at, "what came over a link moves it in either order")
	}
}

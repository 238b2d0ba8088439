package ipam

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// leaving is a peer with two pieces: the first is its own, the second one was taken over from the dead. p(5) is of Weave Net and
// owns what is between.
func leaving(t *testing.T) (*core, *bytes.Buffer) {
	c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	log := listen(c)
	r, _ := c.ring.Reclaim(p(2), p(1), 1)
	r, err := r.Grant(p(1), p(5), part(64, 128))
	require.NoError(t, err)
	c.changeRing(r)
	return c, log
}

// listen returns what c logs from now on.
func listen(c *core) *bytes.Buffer {
	log := new(bytes.Buffer)
	c.log = slog.New(slog.NewTextHandler(log, nil))
	return log
}

// part is a range of 10.32.0.0/24.
func part(from, to uint64) addr.Range {
	start := at("10.32.0.0")
	return addr.Range{Start: start.Add(addr.From64(from)), End: start.Add(addr.From64(to))}
}

// TestReclaimedSpaceIsNotLeftToOldPeers, who would divide it as if it were of the first epoch.
func TestReclaimedSpaceIsNotLeftToOldPeers(t *testing.T) {
	c, log := leaving(t)
	c.release([]peer.Name{p(1), p(5), p(6)})
	require.Equal(t, []addr.Range{part(0, 128)}, c.ring.Owned(p(5)))
	require.Equal(t, []addr.Range{part(128, 256)}, c.ring.Owned(p(1)))
	require.Contains(t, log.String(), "cannot hold space that was taken over")
}

// TestWhoCountsEpochsInherits all of it, in the order of section 1.8 otherwise.
func TestWhoCountsEpochsInherits(t *testing.T) {
	c, log := leaving(t)
	c.noteDelays(state{copyOf: p(6), delays: map[peer.Name]time.Duration{p(6): time.Hour, p(7): time.Hour}})
	c.hearNicknames(map[peer.Name]string{p(4): "old", p(6): "new", p(7): "newer"})
	c.release([]peer.Name{p(4), p(5), p(6), p(7)})
	require.Equal(t, []addr.Range{part(0, 64), part(128, 256)}, c.ring.Owned(p(6)))
	require.NotContains(t, log.String(), "cannot hold space that was taken over")

	plain := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(5)))
	plain.noteDelays(state{copyOf: p(6), delays: map[peer.Name]time.Duration{p(6): time.Hour}})
	plain.release([]peer.Name{p(5), p(6)})
	require.Equal(t, []addr.Range{part(0, 256)}, plain.ring.Owned(p(5)), "nothing was reclaimed: the next owner")
}

// TestAMarkEnds when its peer is put back to Weave Net, whose rings come without.
func TestAMarkEnds(t *testing.T) {
	c, _ := leaving(t)
	hears := func(joins bool) {
		require.NoError(t, c.receive(p(5), state{ring: c.ring, copyOf: p(5), joins: joins}, testTime))
	}
	hears(true)
	gift, ok := c.donation(p(5), part(128, 256))
	require.True(t, ok, "%v", gift)
	require.NoError(t, c.receive(p(5), state{}, testTime))
	require.True(t, c.countsEpochs(p(5)), "a state without a ring has no mark")
	hears(false)
	gift, ok = c.donation(p(5), part(128, 256))
	require.False(t, ok, "%v", gift)
}

// TestOldPeersCountFar: what a peer of Weave Net grants counts even if its versions are those of months.
func TestOldPeersCountFar(t *testing.T) {
	for _, version := range []uint32{1, 1<<24 + 5, 1<<25 + 5, 1<<26 - 2} {
		c := actor(t, 6, "10.32.0.0/24", Observer())
		log := listen(c)
		c.start(testTime)
		has := ring.Divide(c.universe, []peer.Name{p(5)})
		has.Tokens[0].Version = version
		hear := func() { require.NoError(t, c.receive(p(5), state{ring: has, copyOf: p(5)}, testTime)) }
		hear()
		has = &ring.Ring{Range: has.Range, Seeds: has.Seeds, Tokens: []ring.Token{
			{At: has.Range.Start, Peer: p(5), Version: version + 1, Free: 128},
			{At: part(128, 256).Start, Peer: c.me, Free: 128}, // as section 1.6 grants
		}}
		hear()
		require.Equal(t, []addr.Range{part(128, 256)}, c.ring.Owned(c.me), "%x", version)
		hear()
		warnings := bytes.Count(log.Bytes(), []byte("half used up"))
		require.Equal(t, version >= 1<<25, warnings == 1, "%x: %d", version, warnings)
	}
}

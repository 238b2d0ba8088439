package ipam

import (
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// everybody is in reach.
type everybody struct{}

func (everybody) reachable(peer.Name) bool { return true }
func (everybody) count() int               { return 3 }
func (everybody) names() []peer.Name       { return nil }

var testTime = time.Unix(1500000000, 0)

// actor is a peer of the recorded scenarios: i becomes 0i:00:00:00:02:00.
func actor(t testing.TB, i int, universe string, birth Birth) *core {
	name := peer.Name(uint64(i)<<40 | 0x200)
	bus := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: name, UID: peer.UID(11 * i), Nickname: "host" + strconv.Itoa(i)})
	c, err := Config{Bus: bus, Universe: netip.MustParsePrefix(universe), Birth: birth, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}.withDefaults()
	require.NoError(t, err)
	k, err := newCore(c, everybody{})
	require.NoError(t, err)
	k.birthBySeed(testTime)
	k.takeOut()
	return k
}

func p(i int) peer.Name { return peer.Name(uint64(i)<<40 | 0x200) }

// deliver hands a recorded message to c as the carrier would.
func deliver(t *testing.T, c *core, m vecMessage) {
	raw := unhex(t, m.Hex)
	if m.Kind == "unicast" {
		require.Equal(t, *m.Tag, raw[0])
		raw = raw[1:]
	}
	if m.Tag != nil && *m.Tag != tagUpdate {
		r, err := decodeRange(raw)
		require.NoError(t, err)
		if *m.Tag == tagRequest {
			c.asked(m.From, r, testTime)
		} else {
			c.denied(m.From, r, testTime)
		}
		return
	}
	s, err := decodeState(raw)
	require.NoError(t, err)
	require.NoError(t, c.receive(m.From, s, testTime))
}

// requireSends checks that c sends a space request like m.
func requireRequest(t *testing.T, c *core, m vecMessage) {
	t.Helper()
	out := c.takeOut()
	require.Len(t, out.requests, 1)
	require.Equal(t, into[vecRange](t, m.Decoded).span(), out.requests[0].want)
	require.Equal(t, m.To, out.requests[0].to[0])
}

// requireRing checks that c now tells others of the ring in m.
func requireRing(t *testing.T, c *core, m vecMessage) {
	t.Helper()
	want, got := into[vecState](t, m.Decoded), c.gossiped()
	require.Equal(t, want.Ring.ring().Range, got.ring.Range)
	require.Equal(t, want.Ring.ring().Tokens, got.ring.Tokens)
	require.Equal(t, want.Ring.Seeds, got.ring.Seeds)
	require.Equal(t, want.Ring.Peer, got.copyOf)
}

// pieces is a ring without versions and free counts, which depend on how often a peer reports.
func pieces(r *ring.Ring) (out []ring.Token) {
	for _, t := range r.Tokens {
		out = append(out, ring.Token{At: t.At, Peer: t.Peer})
	}
	return out
}

// TestScenarios plays what was recorded between two peers of Weave Net: each of ours gets what theirs got, and must
// answer as theirs did.
func TestScenarios(t *testing.T) {
	v := loadVectors(t).Scenarios
	space, granted, denied, leave := v.ScenarioSpaceRequest, v.ScenarioClaimGranted, v.ScenarioClaimDenied, v.ScenarioShutdown
	universe := space.Universe.String()
	p1, p2 := actor(t, 1, universe, Seed(space.Seeds...)), actor(t, 2, universe, Seed(space.Seeds...))

	for i := range 7 {
		_, w, err := p1.allocate(strconv.Itoa(i), space.Universe, testTime)
		require.NoError(t, err)
		require.Nil(t, w)
	}
	_, w, err := p1.allocate("x", space.Universe, testTime)
	require.NoError(t, err)
	require.Len(t, space.Messages, 3)
	requireRequest(t, p1, space.Messages[0])
	deliver(t, p2, space.Messages[0])
	requireRing(t, p2, space.Messages[1])
	requireGrant(t, p2)
	deliver(t, p1, space.Messages[1])
	deliver(t, p1, space.Messages[2])
	require.True(t, w.answered)
	require.Equal(t, space.Allocated, w.result.Addr().String())
	require.Equal(t, pieces(space.RingOfP1After.ring()), pieces(p1.ring))

	w, err = p1.claim("y", netip.MustParsePrefix("10.32.0.9/28"), testTime)
	require.NoError(t, err)
	requireRequest(t, p1, granted.Messages[0])
	deliver(t, p2, granted.Messages[0])
	requireRing(t, p2, granted.Messages[1])
	requireGrant(t, p2)
	deliver(t, p1, granted.Messages[1])
	deliver(t, p1, granted.Messages[2])
	require.True(t, w.answered)
	require.NoError(t, w.err)
	require.Equal(t, pieces(granted.RingOfP1After.ring()), pieces(p1.ring))

	_, err = p2.claim("z", netip.MustParsePrefix("10.32.0.8/28"), testTime)
	require.NoError(t, err)
	w, err = p1.claim("q", netip.MustParsePrefix("10.32.0.8/28"), testTime)
	require.NoError(t, err)
	requireRequest(t, p1, denied.Messages[0])
	deliver(t, p2, denied.Messages[0])
	out := p2.takeOut()
	require.Equal(t, []denial{{p(1), into[vecRange](t, denied.Messages[1].Decoded).span()}}, out.denials)
	require.Equal(t, []peer.Name{p(1)}, named(out.updates))
	requireRing(t, p2, denied.Messages[2])
	deliver(t, p1, denied.Messages[1])
	require.ErrorIs(t, w.err, ErrConflict)
	require.ErrorContains(t, w.err, strings.Replace(denied.Error, " (host2)", "(host2)", 1))
	deliver(t, p1, denied.Messages[2])

	before := p1.ring
	p1.release([]peer.Name{p(1), p(2)})
	require.Equal(t, pieces(leave.RingOfP1After.ring()), pieces(p1.ring))
	for i, x := range p1.ring.Tokens {
		if was := before.Tokens[i]; was.Peer == p(1) {
			require.Equal(t, was.Version+100, x.Version)
		}
	}
	require.True(t, p1.takeOut().broadcast)
	deliver(t, p2, leave.Messages[0])
	require.Equal(t, []addr.Range{p2.universe}, p2.ring.Owned(p(2)))
}

func requireGrant(t *testing.T, c *core) {
	t.Helper()
	out := c.takeOut()
	require.True(t, out.broadcast)
	require.Equal(t, []peer.Name{p(1)}, named(out.updates))
	require.Empty(t, out.denials)
}

func TestObserverScenario(t *testing.T) {
	v := loadVectors(t).Scenarios.ScenarioObserver
	p1, p3 := actor(t, 1, "10.32.0.0/24", Consensus(1)), actor(t, 3, "10.32.0.0/24", Observer())
	_, w, err := p3.allocate("x", p3.prefix, testTime)
	require.NoError(t, err)
	require.True(t, p3.takeOut().broadcast)
	require.Nil(t, p3.gossiped().ring)
	require.Nil(t, p3.gossiped().claims)

	deliver(t, p1, v.Messages[0])
	require.True(t, p1.takeOut().broadcast)
	requireRing(t, p1, v.Messages[2])
	deliver(t, p3, v.Messages[1])
	deliver(t, p3, v.Messages[2])
	requireRequest(t, p3, v.Messages[3])
	deliver(t, p1, v.Messages[3])
	requireRing(t, p1, v.Messages[4])
	deliver(t, p3, v.Messages[5])
	require.True(t, w.answered)
	require.Equal(t, v.Allocated, w.result.Addr().String())
}

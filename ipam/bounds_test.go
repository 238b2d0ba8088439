package ipam

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// TestOutboxIsBounded, however long nothing can be sent, and whoever asks.
func TestOutboxIsBounded(t *testing.T) {
	var post outbox
	for i := range 20000 {
		var later outbox
		later.survey(peer.Name(i + 1))
		later.survey(1)
		later.deny(peer.Name(i+1), addr.Single(addr.From64(uint64(i))))
		later.request(request{want: addr.Single(addr.From64(uint64(i)))})
		post.add(later)
	}
	require.Len(t, post.surveys, maxSurveys)
	require.Len(t, post.updates, maxUpdates)
	require.Len(t, post.denials, maxDenials)
	require.Len(t, post.requests, maxRequests)
}

// badRing is a ring of as many seeds, which fits nobody's.
func badRing(seeds int) *ring.Ring {
	r := ring.Divide(addr.FromPrefix(netip.MustParsePrefix("10.32.0.0/24")), []peer.Name{9})
	r.Seeds = make([]peer.Name, seeds)
	for i := range r.Seeds {
		r.Seeds[i] = peer.Name(0xaabbcc000000 + i)
	}
	return r
}

// TestFaultsAreBounded: neither a long list of seeds nor many names take up room, and news are not crowded out.
func TestFaultsAreBounded(t *testing.T) {
	for _, form := range []codec{gobCodec{}, compactCodec{}} {
		_, err := form.decodeState(form.encodeState(state{ring: badRing(maxSeeds + 1), copyOf: 77}))
		require.Error(t, err)
	}
	c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	for i := range 3 * maxFaults {
		s := state{ring: badRing(maxSeeds), copyOf: peer.Name(1000 + i)}
		require.ErrorIs(t, c.receive(0, s, testTime.Add(time.Duration(i)*time.Second)), ring.ErrSeeds)
	}
	require.Len(t, c.faults, maxFaults)
	require.Contains(t, c.faults, peer.Name(1000+3*maxFaults-1), "the latest")
	for _, f := range c.listFaults() {
		require.Less(t, len(f.Reason), 500)
		require.Contains(t, f.Reason, "and 4088 more")
	}
}

// strangers is a mesh of which only one peer is a member.
type strangers struct{ member peer.Name }

func (m strangers) reachable(p peer.Name) bool { return p == m.member }
func (strangers) count() int                   { return 2 }
func (m strangers) names() []peer.Name         { return []peer.Name{m.member} }

// TestFaultsOfInventedNames are told of as from nobody, in one place.
func TestFaultsOfInventedNames(t *testing.T) {
	c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	c.members = strangers{p(2)}
	for i := range 100 {
		require.Error(t, c.receive(0, state{ring: badRing(1), copyOf: peer.Name(1000 + i)}, testTime))
	}
	require.Error(t, c.receive(0, state{ring: badRing(1), copyOf: p(2)}, testTime))
	list := c.listFaults()
	require.Len(t, list, 2)
	require.Equal(t, []peer.Name{0, p(2)}, []peer.Name{list[0].Peer, list[1].Peer})
	require.EqualValues(t, 100, list[0].Times)
}

// TestProposalsAreChecked: peers to be taken over are a sorted, bounded set of names.
func TestProposalsAreChecked(t *testing.T) {
	many := make([]peer.Name, maxDying+1)
	for i := range many {
		many[i] = peer.Name(i + 1)
	}
	for _, form := range []codec{gobCodec{}, compactCodec{}} {
		for _, bad := range [][]peer.Name{{2, 2}, {3, 1}, many} {
			_, err := form.decodeState(form.encodeState(state{proposal: proposal{dying: bad}}))
			require.Error(t, err)
			_, err = form.decodeState(form.encodeState(state{locks: map[peer.Name]proposal{7: {dying: bad}}}))
			require.Error(t, err)
		}
		_, err := form.decodeState(form.encodeState(state{proposal: proposal{dying: many[:maxDying]}}))
		require.NoError(t, err)
	}
}

// TestDenialEndsWithNews: who has denied, and tells of more free space later, is asked again; a ring that was on its way is
// no news.
func TestDenialEndsWithNews(t *testing.T) {
	c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	want := c.universe
	tells := func(free uint64) {
		next := c.ring.Report(p(2), func(addr.Range) uint64 { return free }, nil)
		c.changeRing(next)
	}
	tells(50)
	require.Equal(t, []peer.Name{p(2)}, c.donors(want, testTime))
	c.denied(p(2), want, testTime)
	require.Empty(t, c.donors(want, testTime), "50 is what it told before")
	tells(0)
	require.Empty(t, c.donors(want, testTime))
	tells(10)
	require.Empty(t, c.donors(want, testTime), "or all who wait would ask each other as fast as the network allows")
	later := testTime.Add(deniedLeast)
	require.Equal(t, []peer.Name{p(2)}, c.donors(want, later))
	c.denied(p(2), want, later)
	require.Empty(t, c.donors(want, later.Add(deniedLeast)), "no more than before")
	require.NotEmpty(t, c.donors(want, later.Add(deniedFor)))
}

// TestContactIsAsOldAsItIsTold: an encoded state is kept, but not so long that it makes an old contact younger.
func TestContactIsAsOldAsItIsTold(t *testing.T) {
	v := &view{state: state{copyOf: 1, ring: badRing(1), contact: testTime}}
	for _, form := range []codec{gobCodec{}, compactCodec{}} {
		for after := range 40 {
			s, err := form.decodeState(v.encode(testTime.Add(time.Duration(after)*time.Second), form))
			require.NoError(t, err)
			require.GreaterOrEqual(t, s.age, uint64(after), "plus 1, less what an encoding is kept for")
		}
		v.encoded = nil
	}
}

// slowSender cannot send to some; it notes what it was asked to.
type slowSender struct {
	gossip.Sender
	slow peer.Name
	sent []peer.Name
}

func (s *slowSender) Unicast(ctx context.Context, to peer.Name, _ []byte) error {
	s.sent = append(s.sent, to)
	if to == s.slow {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// TestOneSlowPeerHoldsUpNobody for longer than one message: what others wait for goes first, and it is tried once.
func TestOneSlowPeerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowSender{slow: 2}
		a := &Allocator{sender: s, codec: gobCodec{}, now: time.Now, core: actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))}
		a.published.Store(a.core.view(nil))
		var out outbox
		for i := range 5 {
			want := addr.Single(addr.From64(uint64(i)))
			out.deny(2, want)
			out.request(request{want: want, to: []peer.Name{2, 3}})
		}
		out.deny(4, a.core.universe)
		out.survey(2)
		out.survey(5)
		begun := time.Now()
		a.send(t.Context(), out)
		require.Equal(t, sendTimeout, time.Since(begun))
		require.Equal(t, []peer.Name{2, 3, 3, 3, 3, 3, 4, 4, 5}, s.sent)
		require.Equal(t, 1, len(slices.DeleteFunc(s.sent, func(p peer.Name) bool { return p != 2 })))
	})
}

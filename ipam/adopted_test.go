package ipam

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// single is a mesh of nobody else.
type single struct{ everybody }

func (single) count() int { return 1 }

var web = Holding{"web", netip.MustParsePrefix("10.32.0.1/24")}

// adopter has found web in use, and will decide a vote alone.
func adopter(t *testing.T) *core {
	c := actor(t, 1, "10.32.0.0/24", Consensus(1))
	c.members = single{}
	c.adopt([]Holding{web})
	require.Len(t, c.waiting.claims, 1)
	return c
}

// TestAdoptedComeBeforeAllocated, also where a call that comes before Run makes the ring.
func TestAdoptedComeBeforeAllocated(t *testing.T) {
	for what, first := range map[string]func(*core) error{
		"allocate": func(c *core) error { _, _, err := c.allocate("new", c.subnet, testTime); return err },
		"claim": func(c *core) error {
			_, err := c.claim("new", netip.MustParsePrefix("10.32.0.9/24"), testTime)
			return err
		},
		"prime": func(c *core) error { c.startVote(testTime); return nil },
	} {
		c := adopter(t)
		require.NoError(t, first(c), what)
		require.True(t, c.hasRing(), what)
		holder, _ := c.book.owner(web.Addr.Addr())
		require.Equal(t, "web", holder, what)
		require.Empty(t, c.waiting.claims, what)
		got, _, err := c.allocate("other", c.subnet, testTime)
		require.NoError(t, err, what)
		require.NotEqual(t, web.Addr, got, what)
	}
	c := adopter(t)
	_, err := c.claim("thief", web.Addr, testTime)
	require.ErrorIs(t, err, ErrConflict)
}

// TestStoreOfForeignClaims: claims from outside the range are stored before there is a ring, with a state or, as it was once,
// without. Either can be opened again.
func TestStoreOfForeignClaims(t *testing.T) {
	foreign := Holding{"weave:expose", netip.MustParsePrefix("192.168.5.5/24")}
	open := func(t *testing.T, s Store) *Allocator {
		bus := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: p(1), UID: 1})
		a, err := New(Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/24"), Birth: Consensus(3), Store: s, Adopt: []Holding{foreign}})
		require.NoError(t, err)
		require.Equal(t, []Owned{{foreign.Owner, []netip.Prefix{foreign.Addr}}}, a.Owners())
		return a
	}
	synctest.Test(t, func(t *testing.T) {
		for what, stored := range map[string]Change{"new": {}, "of before": {Put: []Holding{foreign}}} {
			s := new(MemStore)
			require.NoError(t, s.Commit(stored))
			for range 3 {
				a := open(t, s)
				a.flush() // as Run does
				saved, err := s.Load()
				require.NoError(t, err)
				require.NotNil(t, saved.State, what)
				require.Equal(t, []Holding{foreign}, saved.Holdings, what)
			}
		}
	})
}

// TestARestartIsTold: who has agreed to what we proposed before we went down hears that we do not any more.
func TestARestartIsTold(t *testing.T) {
	c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	c.reclaim.round = 5
	before := c.view(nil)
	c.start(testTime)
	after := c.view(before)
	require.True(t, c.dirty.state, "it is published with the first commit")
	require.NotSame(t, before, after)
	require.Equal(t, c.reclaim.round, after.state.round)
	require.Greater(t, after.state.round, before.state.round)
}

// TestASurveyWaitsForTheRingOfEach, and not for what others pass on in its name. Who does not answer is told of.
func TestASurveyWaitsForTheRingOfEach(t *testing.T) {
	c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2), p(3)))
	over := func(done <-chan struct{}) bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	done := c.beginSurvey([]peer.Name{p(2), p(3)}, testTime)
	hear := func(from, copyOf peer.Name) {
		require.NoError(t, c.receive(from, state{ring: c.ring, copyOf: copyOf}, testTime))
	}
	hear(p(3), p(3))
	hear(p(2), p(3))
	require.False(t, over(done))
	hear(p(2), p(2))
	require.True(t, over(done))

	log := listen(c)
	done = c.beginSurvey([]peer.Name{p(2), p(3), p(4)}, testTime)
	c.unanswered(p(4), testTime)
	hear(p(2), p(2))
	require.False(t, over(done))
	c.tick(testTime.Add(surveyFor))
	require.True(t, over(done))
	require.Contains(t, log.String(), "have not told their rings")
	for i, silent := range map[int]bool{2: false, 3: true, 4: true} {
		require.Equal(t, silent, strings.Contains(log.String(), p(i).String()), "%d", i)
	}
}

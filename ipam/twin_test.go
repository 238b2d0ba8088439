package ipam_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
)

// TestOldCopyOfTheStore: what was done since the copy was made is noticed, and nothing is given out before all is known.
func TestOldCopyOfTheStore(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.allocate(a, "x")
		w.pass(time.Minute)
		copied, err := w.stores[b.name].Load()
		require.NoError(t, err)
		var gift netip.Prefix
		for i := range 140 { // more than half: some of it is a gift of the other
			gift = w.allocate(a, string(rune('A'+i)))
		}
		require.True(t, netip.MustParsePrefix("10.32.0.128/25").Contains(gift.Addr()))
		w.pass(time.Minute)
		w.kill(b.name)
		w.stores[b.name] = new(ipam.MemStore)
		require.NoError(t, w.stores[b.name].Commit(ipam.Change{State: copied.State, Put: copied.Holdings}))
		b = w.start(2, seed(1, 2))
		w.pass(time.Second)
		require.True(t, b.Status().Twin)
		require.Contains(t, b.Status().State, "old copy")
		_, err = b.Allocate(w.within(time.Minute), "y", netip.Prefix{})
		require.Error(t, err)
		w.pass(5 * time.Minute)
		require.False(t, b.Status().Twin, "it was the copy")
		w.allocate(b, "y")
		w.requireOneRing()
	})
}

// tap is a bus that lets one hand messages to who joins it.
type tap struct {
	gossip.Bus
	receiver gossip.Receiver
}

func (p *tap) Join(channel string, r gossip.Receiver) (gossip.Sender, error) {
	p.receiver = r
	return p.Bus.Join(channel, r)
}

// tell hands the state of one peer to another, as gossip.
func (p *tap) tell(t *testing.T, to *tap) {
	_, err := to.receiver.OnGossip(p.receiver.State().Encode()[0])
	require.NoError(t, err)
}

// TestTwin: a clone of a machine runs under the same name elsewhere. Neither gives out anything new once they hear of each
// other, through a third.
func TestTwin(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		third, there := new(tap), new(tap)
		w.start(1, func(c *ipam.Config) { seed(1, 2)(c); third.Bus, c.Bus = c.Bus, third })
		b := w.start(2, seed(1, 2))
		w.pass(time.Minute)
		there.Bus = gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: b.name, UID: 99})
		twin, err := ipam.New(ipam.Config{Bus: there, Universe: w.universe, Birth: ipam.Seed(name(1), name(2))})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- twin.Run(ctx) }()
		for i := range 100 { // much of what both have
			_, err := twin.Allocate(w.within(time.Second), string(rune('A'+i)), netip.Prefix{})
			require.NoError(t, err)
		}
		w.pass(10 * time.Second)
		there.tell(t, third)
		w.pass(time.Minute)
		require.True(t, b.Status().Twin)
		third.tell(t, there)
		require.True(t, twin.Status().Twin)
		for _, n := range []*ipam.Allocator{b.Allocator, twin} {
			_, err = n.Allocate(w.within(5*time.Second), "new", netip.Prefix{})
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		cancel()
		require.NoError(t, <-done)
	})
}

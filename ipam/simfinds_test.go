package ipam_test

import (
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// Is the simulation harsh enough to prove anything? Each of these leaves out one safeguard, and requires that an address
// is held twice within a few hundred simulations.

const findWithin = 400

// requireFound plays simulations as draw and without draw them until an address is held twice, and the same one without
// what without has done to it, in which none is.
func requireFound(t *testing.T, draw, without func(p plan) plan) {
	t.Helper()
	double := regexp.MustCompile("is held by|was promised to .* and to")
	other := ""
	if testing.Short() {
		t.Skip("takes many simulations")
	}
	for seed := range uint64(findWithin) {
		p := draw(plain(seed, rand.New(rand.NewPCG(seed, 3))))
		wrong := simulate(t, without(p), new(tally))
		if double.MatchString(wrong) {
			t.Logf("seed %d: %s", seed, wrong)
			require.Empty(t, simulate(t, p, new(tally)), "with the safeguard")
			return
		}
		if wrong != "" {
			other = wrong
		}
	}
	require.Fail(t, "a missing safeguard was not noticed", "in %d simulations; other trouble: %s", findWithin, other)
}

const harshDelay = 3 * time.Minute

// reclaimed makes a plan in which the dead are taken over soon, and their space is needed.
func reclaimed(p plan) plan {
	p.delay, p.net.Interval, p.net.Loss = harshDelay, 5*time.Second, p.net.Loss/4
	p.cidr, p.size = "10.32.0.0/27", 3+p.size%3
	return p
}

func TestSimulationFindsAMissingFence(t *testing.T) {
	requireFound(t, reclaimed, func(p plan) plan { p.weaken = (*ipam.Allocator).OmitFence; return p })
}

func TestSimulationFindsAMissingAgreement(t *testing.T) {
	requireFound(t, reclaimed, func(p plan) plan { p.weaken = (*ipam.Allocator).OmitAgreement; return p })
}

// TestEpochsAreMissed in one story, since they are needed too seldom for the simulation: see TestWhatTheDeadDidApartIsVoid.
func TestEpochsAreMissed(t *testing.T) {
	for _, epochs := range []bool{true, false} {
		inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
			if !epochs {
				w.made = (*ipam.Allocator).OmitEpochs
			}
			n := four(w)
			guest := w.start(5, func(c *ipam.Config) { c.Birth, c.ReclaimAfter = ipam.Observer(), 10*time.Minute })
			w.pass(time.Minute)
			w.bus.Partition([]peer.Name{name(1), name(2), name(3)}, []peer.Name{name(4), name(5)})
			lost := w.allocate(guest, "lost")
			w.pass(15 * time.Minute)
			require.NoError(t, n[1].Claim(w.within(time.Minute), "thief", lost))
			w.bus.Heal()
			w.pass(5 * time.Minute)
			require.Equal(t, epochs, w.double(func(*node) bool { return true }, nil) == "")
		})
	}
}

func TestSimulationFindsAnUnsafeBirth(t *testing.T) {
	draw := func(p plan) plan { p.birth = grown; return p }
	requireFound(t, draw, func(p plan) plan { p.weaken = (*ipam.Allocator).OmitSafeBirth; return p })
}

func TestSimulationFindsAForgottenGift(t *testing.T) {
	draw := func(p plan) plan { return p }
	requireFound(t, draw, func(p plan) plan {
		p.store = func(s *ipam.MemStore) ipam.Store { return &lyingStore{Store: s} }
		return p
	})
}

// lyingStore loses the last states in a crash, but the first and the addresses are kept.
type lyingStore struct {
	ipam.Store
	begun bool
	held  [][]byte // not really stored yet
}

func (l *lyingStore) Load() (ipam.Saved, error) {
	saved, err := l.Store.Load()
	l.begun = saved.State != nil
	return saved, err
}

func (l *lyingStore) Commit(c ipam.Change) error {
	if c.State != nil && l.begun {
		l.held = append(l.held, c.State)
		c.State = nil
		if len(l.held) > 5 {
			c.State, l.held = l.held[0], l.held[1:]
		}
	}
	err := l.Store.Commit(c)
	l.begun = l.begun || err == nil && c.State != nil
	return err
}

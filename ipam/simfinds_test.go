package ipam_test

import (
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam"
)

// Is the simulation harsh enough to prove anything? Each of these leaves out one safeguard, and requires that an address
// is held twice within a few hundred simulations.

const findWithin = 400

// requireFound plays variants of simulations until an address is held twice.
func requireFound(t *testing.T, draw func(p plan, r *rand.Rand) plan) {
	t.Helper()
	double := regexp.MustCompile("is held by|was promised to .* and to")
	other := ""
	for seed := range uint64(findWithin) {
		r := rand.New(rand.NewPCG(seed, 3))
		wrong := simulate(t, draw(plain(seed, r), r), new(tally))
		if double.MatchString(wrong) {
			t.Logf("seed %d: %s", seed, wrong)
			return
		}
		if wrong != "" {
			other = wrong
		}
	}
	require.Fail(t, "a missing safeguard was not noticed", "in %d simulations; other trouble: %s", findWithin, other)
}

// reclaimed is a plan in which the dead are taken over.
func reclaimed(p plan) plan {
	p.delay = 8 * time.Minute
	return p
}

func TestSimulationFindsAMissingFence(t *testing.T) {
	requireFound(t, func(p plan, r *rand.Rand) plan {
		p.tweak, p.cidr = (*ipam.Config).OmitFence, "10.32.0.0/27" // small, so that what the dead had is given out
		return reclaimed(p)
	})
}

func TestSimulationFindsAMissingAgreement(t *testing.T) {
	requireFound(t, func(p plan, r *rand.Rand) plan {
		p.tweak = (*ipam.Config).OmitAgreement
		return reclaimed(p)
	})
}

func TestSimulationFindsAnUnsafeBirth(t *testing.T) {
	requireFound(t, func(p plan, r *rand.Rand) plan {
		p.birth, p.tweak = grown, (*ipam.Config).OmitSafeBirth
		return p
	})
}

func TestSimulationFindsAForgottenGift(t *testing.T) {
	requireFound(t, func(p plan, r *rand.Rand) plan {
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

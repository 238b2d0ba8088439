package paxos_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/mesh/peer"
)

type (
	vecVoter struct {
		Name peer.Name
		UID  peer.UID
	}
	vecID struct {
		Round    uint64
		Proposer vecVoter
	}
	vecValue struct {
		Value  []peer.Name
		Origin vecID
	}
	vecClaim struct {
		Node              vecVoter
		Promise, Accepted vecID
		AcceptedVal       vecValue
	}
	vecStep struct {
		Node, Of, Action string
		Changed          *bool
		Result           *struct {
			ClaimsChanged bool
			Consensus     *vecValue
		}
		State []vecClaim
	}
	vectors struct {
		NormalizeConsensus struct{ In, Out []peer.Name }
		Quorum             struct {
			FromCount   []struct{ Consensus, Quorum int }
			FromTargets []struct{ Targets, Quorum int }
		}
		PaxosTrace   []vecStep
		PaxosQuorum1 struct {
			AfterPropose []vecClaim
			Consensus    bool
		}
		PaxosDisagreement struct{ Trace []vecStep }
	}
)

func load(t testing.TB) *vectors {
	raw, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	v := new(vectors)
	require.NoError(t, json.Unmarshal(raw, v))
	return v
}

func (v vecVoter) voter() paxos.Voter { return paxos.Voter(v) }
func (v vecID) id() paxos.ID          { return paxos.ID{Round: v.Round, Proposer: v.Proposer.voter()} }

func claims(list []vecClaim) paxos.Claims {
	out := make(paxos.Claims)
	for _, c := range list {
		out[c.Node.voter()] = paxos.Claim{
			Promise:  c.Promise.id(),
			Accepted: c.Accepted.id(),
			Value:    paxos.Value{Peers: normal(c.AcceptedVal.Value), Origin: c.AcceptedVal.Origin.id()},
		}
	}
	return out
}

// normal sorts a value and drops duplicates, as the ring does. Ours are so from the start.
func normal(list []peer.Name) []peer.Name {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// cast are the three voters of the traces.
func cast() map[string]*paxos.Elector {
	out := make(map[string]*paxos.Elector)
	for i, s := range []string{"A", "B", "C"} {
		name := peer.MustParse([]string{"01:00:00:00:02:00", "02:00:00:00:02:00", "03:00:00:00:02:00"}[i])
		out[s] = paxos.New(paxos.Voter{Name: name, UID: peer.UID(11 * (i + 1))})
	}
	return out
}

func TestQuorumVectors(t *testing.T) {
	v := load(t)
	require.NotEmpty(t, v.Quorum.FromCount)
	for _, x := range v.Quorum.FromCount {
		require.Equal(t, x.Quorum, paxos.QuorumOf(x.Consensus))
	}
	for _, x := range v.Quorum.FromTargets {
		require.Equal(t, x.Quorum, paxos.QuorumOf(x.Targets+1))
	}
	require.Equal(t, v.NormalizeConsensus.Out, normal(v.NormalizeConsensus.In))
}

func TestQuorumOfOne(t *testing.T) {
	v := load(t).PaxosQuorum1
	a := cast()["A"]
	a.SetQuorum(1)
	a.Propose()
	require.Equal(t, claims(v.AfterPropose), a.Claims())
	_, ok := a.Consensus()
	require.Equal(t, v.Consensus, ok)
}

// TestTrace replays the vote of the vectors. Every step is spelled as words about voters.
func TestTrace(t *testing.T) {
	v, voters := load(t), cast()
	require.NotEmpty(t, v.PaxosTrace)
	for i, s := range v.PaxosTrace {
		changed := act(t, voters, s.Of, s.Action)
		if s.Changed != nil {
			require.Equal(t, *s.Changed, changed, "step %d: %s", i, s.Action)
		}
		require.Equal(t, claims(s.State), voters[s.Of].Claims(), "step %d: %s", i, s.Action)
	}
}

// act does what the words of a step of paxosTrace say.
func act(t *testing.T, voters map[string]*paxos.Elector, who, words string) bool {
	e := voters[who]
	switch {
	case strings.Contains(words, "sets quorum 2 and proposes"):
		e.SetQuorum(2)
		e.Propose()
	case strings.Contains(words, "proposes again"):
		e.Propose()
	case strings.Contains(words, "receives"):
		_, from, _ := strings.Cut(words, "receives ")
		return e.Learn(voters[from[:1]].Claims())
	case strings.Contains(words, "thinks"):
		return e.Think()
	case strings.Contains(words, "asks for consensus"):
		_, ok := e.Consensus()
		return ok
	default:
		require.Fail(t, "unknown step", words)
	}
	return false
}

// TestDisagreement replays the run in which Weave Net 2.8 concludes twice, differently. The claims must be the same at
// every step, and B must not conclude where it did there.
func TestDisagreement(t *testing.T) {
	v, voters := load(t), cast()
	require.NotEmpty(t, v.PaxosDisagreement.Trace)
	var concluded []paxos.Value
	theirs := 0
	for i, s := range v.PaxosDisagreement.Trace {
		e := voters[s.Node]
		e.SetQuorum(2)
		if s.Action == "propose" {
			e.Propose()
		} else {
			from := s.Action[len(s.Action)-1:]
			e.Learn(voters[from].Claims())
			e.Think()
		}
		require.Equal(t, claims(s.State), e.Claims(), "step %d: %s %s", i, s.Node, s.Action)
		if got, ok := e.Consensus(); ok {
			concluded = append(concluded, got)
		}
		if s.Result != nil && s.Result.Consensus != nil {
			theirs++
		}
	}
	require.Greater(t, theirs, len(concluded), "there B concludes as well")
	require.NotEmpty(t, concluded)
	for _, c := range concluded {
		require.Equal(t, concluded[0], c)
	}
}

func TestVotersCountByName(t *testing.T) {
	e := cast()["A"]
	e.SetQuorum(2)
	e.Propose()
	e.Think()
	_, ok := e.Consensus()
	require.False(t, ok)
	old := paxos.Voter{Name: e.Self().Name, UID: 99} // our former process
	mine := e.Claims()[e.Self()]
	e.Learn(paxos.Claims{old: {Promise: mine.Promise}})
	require.False(t, e.Think(), "two processes of one peer are no quorum")
	require.Equal(t, 1, e.Known())
}

func TestLearnIsBounded(t *testing.T) {
	e := cast()["A"]
	many := make(paxos.Claims)
	for i := range 2 * paxos.MaxVoters {
		many[paxos.Voter{Name: peer.Name(i + 1), UID: 1}] = paxos.Claim{Promise: paxos.ID{Round: 1}}
	}
	e.Learn(many)
	require.LessOrEqual(t, len(e.Claims()), paxos.MaxVoters)
	require.False(t, e.Learn(paxos.Claims{{Name: 7, UID: 7}: {Promise: paxos.ID{Round: paxos.MaxRound + 1}}}))
}

// TestAgreement lets voters exchange claims at random, lose messages, and restart with what they had stored. Nobody may
// conclude differently.
func TestAgreement(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := 2 + r.IntN(5)
		voters := make([]*paxos.Elector, n)
		for i := range voters {
			voters[i] = paxos.New(paxos.Voter{Name: peer.Name(i + 1), UID: peer.UID(r.Uint64() | 1)})
			voters[i].SetQuorum(paxos.QuorumOf(n))
		}
		var agreed *paxos.Value
		for range 300 {
			e := voters[r.IntN(n)]
			switch x := r.IntN(20); {
			case x < 2:
				e.Propose()
			case x == 2: // stored before it was sent, so nothing is lost
				again := paxos.Resume(e.Self(), e.Claims())
				again.SetQuorum(paxos.QuorumOf(n))
				voters[e.Self().Name-1] = again
			default:
				if e.Learn(voters[r.IntN(n)].Claims()) {
					e.Think()
				}
			}
			if v, ok := e.Consensus(); ok {
				if agreed == nil {
					agreed = &v
				}
				require.Equal(t, *agreed, v, "seed %d", seed)
			}
		}
	}
}

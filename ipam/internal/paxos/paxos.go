// Package paxos lets peers agree, once, on the list among whom the ring is first divided (section 3 of the IPAM
// specification).
//
// Every elector is proposer, acceptor and learner. All that is sent is the set of [Claims], which each elector keeps
// and sends whole. The package is pure: no network, no clock, no goroutine.
//
// # Why two electors never conclude differently
//
// Weave Net 2.8 concludes when enough voters have accepted a value of the same origin, which is unsound: the voters may
// have accepted it under different proposals, and a later proposer that hears only one of them may prefer another value
// (vector paxosDisagreement). Here a conclusion needs a quorum of voters whose accepted proposal is the same. That is
// what Paxos asks for: a later proposal needs promises from a quorum, the two quorums share a voter, and that voter
// reports what it accepted. It costs at most one more exchange of messages, since a voter that has promised a proposal
// follows its acceptance. Voters are counted by name, so that the old and the new process of one peer are not two.
//
// For this to hold over restarts an elector must find its own claims again: the caller keeps [Elector.Claims] and
// [Elector.Self] in stable storage before it sends them, and gives them to [Resume].
package paxos

import (
	"maps"
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

// Voter is one peer that takes part: its name, and the UID it had when it joined the vote.
type Voter struct {
	Name peer.Name
	UID  peer.UID
}

// ID identifies a proposal. Round 0 is none. IDs are ordered by round, then name, then UID.
type ID struct {
	Round    uint64
	Proposer Voter
}

// Less reports whether a comes before b.
func (a ID) Less(b ID) bool {
	if a.Round != b.Round {
		return a.Round < b.Round
	}
	if a.Proposer.Name != b.Proposer.Name {
		return a.Proposer.Name < b.Proposer.Name
	}
	return a.Proposer.UID < b.Proposer.UID
}

// Value is what is agreed on: the seeds of the ring. It keeps the proposal that brought it up.
type Value struct {
	Peers  []peer.Name
	Origin ID
}

// Claim is what one voter has promised and accepted.
type Claim struct {
	Promise  ID
	Accepted ID
	Value    Value // of the accepted proposal
}

// Claims are the claims of all voters that are known.
type Claims map[Voter]Claim

// MaxVoters bounds the voters an elector keeps track of; further ones are ignored. MaxRound bounds the rounds it believes, so
// that they never wrap. Whoever claims the last round leaves no higher one, and stops the vote: voters are trusted not to, as
// they are with each other's claims, which all of them pass on.
const (
	MaxVoters = 4096
	MaxRound  = 1 << 40
)

// Elector takes part in the vote. It is not safe for concurrent use.
type Elector struct {
	me     Voter
	quorum int // 0: takes part, but has not started a vote and so cannot conclude
	claims Claims
}

// New returns an elector that has heard of nobody.
func New(me Voter) *Elector { return &Elector{me: me, claims: make(Claims)} }

// Resume returns an elector that continues as me with the claims it had.
func Resume(me Voter, claims Claims) *Elector { return &Elector{me: me, claims: maps.Clone(claims)} }

// QuorumOf returns the quorum of a cluster of n peers.
func QuorumOf(n int) int { return n/2 + 1 }

// Self returns the voter this elector is.
func (e *Elector) Self() Voter { return e.me }

// Claims returns what is to be sent, never nil. It is a copy.
func (e *Elector) Claims() Claims {
	if e.claims == nil {
		return Claims{}
	}
	return maps.Clone(e.claims)
}

// TakesPart reports whether the elector has said anything yet.
func (e *Elector) TakesPart() bool {
	_, ok := e.claims[e.me]
	return ok
}

// Quorum returns the quorum, or 0 while none is set.
func (e *Elector) Quorum() int { return e.quorum }

// SetQuorum sets how many voters must agree, at least 1. It may change in the course of a vote. Two electors conclude alike only
// if any two of the quorums that are used among them, at any time, share a voter; the caller answers for that.
func (e *Elector) SetQuorum(n int) { e.quorum = max(n, 1) }

// Known returns how many peers are known to take part, by name.
func (e *Elector) Known() int {
	names := make(map[peer.Name]bool, len(e.claims))
	for v := range e.claims {
		names[v.Name] = true
	}
	return len(names)
}

// Propose starts a round above all that was seen.
func (e *Elector) Propose() {
	var round uint64
	for _, c := range e.claims {
		round = max(round, c.Promise.Round, c.Accepted.Round)
	}
	mine := e.claims[e.me]
	mine.Promise = ID{Round: round + 1, Proposer: e.me}
	e.put(mine)
	if e.quorum == 1 {
		e.Think()
	}
}

func (e *Elector) put(mine Claim) {
	if e.claims == nil {
		e.claims = make(Claims)
	}
	e.claims[e.me] = mine
}

// Learn takes over what others claim and reports whether something was new. The caller Thinks then. What is said in
// our own name, by others who heard it from us, is not believed.
func (e *Elector) Learn(in Claims) (changed bool) {
	for v, c := range in {
		if v == e.me || c.Promise.Round > MaxRound || c.Accepted.Round > MaxRound {
			continue
		}
		have, known := e.claims[v]
		if !known && len(e.claims) >= MaxVoters {
			continue
		}
		if have.Promise.Less(c.Promise) {
			have.Promise, changed = c.Promise, true
		}
		if have.Accepted.Less(c.Accepted) {
			have.Accepted, have.Value, changed = c.Accepted, c.Value, true
		}
		changed = changed || !known
		e.claims[v] = have
	}
	return changed
}

// Think follows from what is known: it promises, and accepts where it may. It reports whether our own claim changed;
// the caller sends it then, after it was stored.
func (e *Elector) Think() (changed bool) {
	before := e.claims[e.me]
	mine := before
	for _, c := range e.claims {
		if mine.Promise.Less(c.Promise) {
			mine.Promise = c.Promise
		}
	}
	e.put(mine)
	if v, ok := e.elected(mine.Promise); ok {
		mine.Accepted, mine.Value = mine.Promise, v
	} else {
		for _, c := range e.claims {
			if c.Accepted == mine.Promise && c.Accepted.Round > 0 {
				mine.Accepted, mine.Value = c.Accepted, c.Value
				break
			}
		}
	}
	e.put(mine)
	return mine.Promise != before.Promise || mine.Accepted != before.Accepted || mine.Value.Origin != before.Value.Origin
}

// elected returns the value to accept if id is our own proposal, and a quorum has promised it.
func (e *Elector) elected(id ID) (Value, bool) {
	if id.Proposer != e.me || id.Round == 0 || e.quorum == 0 || e.claims[e.me].Accepted == id {
		return Value{}, false
	}
	names := make(map[peer.Name]bool)
	var best Claim
	for v, c := range e.claims {
		if c.Promise != id {
			continue
		}
		names[v.Name] = true
		if best.Accepted.Less(c.Accepted) {
			best = c
		}
	}
	if len(names) < e.quorum {
		return Value{}, false
	}
	if best.Accepted.Round > 0 {
		return best.Value, true
	}
	return Value{Peers: e.voters(), Origin: id}, true
}

// voters returns the names of all voters known, sorted, each once.
func (e *Elector) voters() []peer.Name {
	names := make([]peer.Name, 0, len(e.claims))
	for v := range e.claims {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Consensus returns the value that was agreed on; ok is false if nothing is known to be. An elector without a quorum
// never concludes, but waits for the ring.
func (e *Elector) Consensus() (v Value, ok bool) {
	if e.quorum == 0 {
		return Value{}, false
	}
	type tally struct {
		names map[peer.Name]bool
		value Value
	}
	votes := make(map[ID]tally)
	for voter, c := range e.claims {
		if c.Accepted.Round == 0 || len(c.Value.Peers) == 0 {
			continue
		}
		t, seen := votes[c.Accepted]
		if !seen {
			t = tally{make(map[peer.Name]bool), c.Value}
			votes[c.Accepted] = t
		}
		if t.names[voter.Name] = true; len(t.names) >= e.quorum {
			return t.value, true
		}
	}
	return Value{}, false
}

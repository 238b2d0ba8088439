package ipam

import (
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// startVote gets a ring made, if there is none and nobody is at it (section 3.3). It is called when somebody needs one.
func (c *core) startVote(now time.Time) {
	if c.hasRing() || c.voting || c.standing.has(released) {
		return
	}
	c.voting = true
	if c.elector == nil {
		c.out.broadcast = true // an observer only says that it has no ring
		return
	}
	c.elector.SetQuorum(c.quorum())
	c.proposeRing(now)
}

// patience is for how many ticks a vote asks for all in reach, and then for how many for more than half of these, where the
// old rule asks for less.
const patience = 4

// quorum returns how many voters must agree.
func (c *core) quorum() int {
	if c.birth.size > 0 {
		return paxos.QuorumOf(c.birth.size)
	}
	return c.rules.quorum(c)
}

// oldQuorum counts our targets and us, as in Weave Net 2.8, and needs more than half of them.
func (c *core) oldQuorum() int { return paxos.QuorumOf(max(c.targets(), 0) + 1) }

// openQuorum is at least that. But as long as there is hope that they all vote, all in reach must agree: two such votes share
// a voter, whoever comes in between, where majorities of a growing cluster may not.
func (c *core) openQuorum() int {
	old := c.oldQuorum()
	switch {
	case c.voteTicks >= 2*patience:
		return old
	case c.voteTicks >= patience:
		return max(old, paxos.QuorumOf(c.members.count()))
	}
	return max(old, c.members.count())
}

// pursue continues a vote at a tick.
func (c *core) pursue(now time.Time) {
	c.voteTicks++
	if c.elector != nil {
		c.elector.SetQuorum(c.quorum())
	}
	c.proposeRing(now)
}

// proposeRing starts another round, or asks again.
func (c *core) proposeRing(now time.Time) {
	c.out.broadcast = true
	if c.elector == nil {
		return
	}
	c.elector.Propose()
	c.dirty.state = true
	c.conclude(now)
}

// learn takes part in the vote of others.
func (c *core) learn(claims paxos.Claims, now time.Time) {
	if c.elector == nil || !c.elector.Learn(claims) {
		return
	}
	if c.voting {
		c.elector.SetQuorum(c.quorum())
	}
	c.dirty.state = true
	if c.elector.Think() {
		c.out.broadcast = true
	}
	c.conclude(now)
}

// conclude creates the ring if the vote is decided.
func (c *core) conclude(now time.Time) {
	value, ok := c.elector.Consensus()
	if !ok {
		return
	}
	c.born(ring.Divide(c.universe, value.Peers), c.votedFor(value.Peers), now)
	c.out.broadcast = true
	c.retry(now) // what was adopted has waited for longer than who asks now
}

// votedFor reports whether we have voted, in this life and no other, for a ring of these seeds. If not, and we are one of them
// all the same, it may have been there for long, and others may have taken over what is ours.
func (c *core) votedFor(seeds []peer.Name) bool {
	if c.elector == nil || c.resumed {
		return false
	}
	claims, self := c.elector.Claims(), c.elector.Self()
	for v := range claims {
		if v.Name == self.Name && v != self {
			return false
		}
	}
	return slices.Equal(claims[self].Value.Peers, seeds)
}

// hear follows a state from another peer (section 2.6). from is 0 if the sender is not known.
func (c *core) hear(from peer.Name, s state, now time.Time) {
	switch {
	case c.hasRing():
		if from != 0 && from != c.me {
			c.out.update(from)
		}
	case s.claims != nil:
		c.learn(s.claims, now)
	case from != 0 && c.elector != nil:
		c.startVote(now)
	}
}

// hearNicknames keeps the nicknames of peers that matter.
func (c *core) hearNicknames(nicknames map[peer.Name]string) {
	for n, nick := range nicknames {
		if n == c.me || len(c.nicknames) >= paxos.MaxVoters {
			continue
		}
		c.nicknames[n] = nick
	}
}

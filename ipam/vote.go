package ipam

import (
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// startVote gets a ring made, if there is none and nobody is at it (section 3.3). It is called when somebody needs one.
func (c *core) startVote() {
	if c.hasRing() || c.voting || c.standing.has(released) {
		return
	}
	c.voting = true
	if c.elector == nil {
		c.out.broadcast = true // an observer only says that it has no ring
		return
	}
	c.elector.SetQuorum(c.quorum())
	c.proposeRing()
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
func (c *core) pursue() {
	c.voteTicks++
	if c.elector != nil {
		c.elector.SetQuorum(c.quorum())
	}
	c.proposeRing()
}

// proposeRing starts another round, or asks again.
func (c *core) proposeRing() {
	c.out.broadcast = true
	if c.elector == nil {
		return
	}
	c.elector.Propose()
	c.dirty.state = true
	c.conclude()
}

// learn takes part in the vote of others.
func (c *core) learn(claims paxos.Claims) {
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
	c.conclude()
}

// conclude creates the ring if the vote is decided.
func (c *core) conclude() {
	value, ok := c.elector.Consensus()
	if !ok {
		return
	}
	c.born(ring.Divide(c.universe, value.Peers))
	c.out.broadcast = true
}

// hear follows a state from another peer (section 2.6). from is 0 if the sender is not known.
func (c *core) hear(from peer.Name, s state) {
	switch {
	case c.hasRing():
		if from != 0 && from != c.me {
			c.out.update(from)
		}
	case s.claims != nil:
		c.learn(s.claims)
	case from != 0 && c.elector != nil:
		c.startVote()
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

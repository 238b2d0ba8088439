package ipam

import (
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// startVote gets a ring made, if there is none and nobody is at it (section 3.3). It is called when somebody needs one.
func (c *core) startVote() {
	if c.hasRing() || c.voting || c.released {
		return
	}
	c.voting = true
	if c.elector == nil {
		c.out.broadcast = true // an observer only says that it has no ring
		return
	}
	c.elector.SetQuorum(paxos.QuorumOf(c.clusterSize()))
	c.proposeRing()
}

// patience is for how many ticks a vote asks for more than half of those in reach, where the old rule asks for less.
const patience = 6

// clusterSize returns the number of peers of which more than half must agree. If none was configured, it is that of our
// targets and us, as in Weave Net 2.8; but as long as there is hope that they all vote, at least that of the peers in
// reach: who was told of no others, and is found by some, shall not make a ring of its own beside theirs.
func (c *core) clusterSize() int {
	if c.birth.size > 0 {
		return c.birth.size
	}
	size := max(c.targets(), 0) + 1
	if c.voteTicks < patience && !c.omit.birth {
		size = max(size, c.members.count())
	}
	return size
}

// pursue continues a vote at a tick.
func (c *core) pursue() {
	if c.voteTicks++; c.voteTicks == patience && c.elector != nil {
		c.elector.LowerQuorum(paxos.QuorumOf(c.clusterSize()))
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

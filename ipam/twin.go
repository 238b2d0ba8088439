package ipam

import (
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
)

// A peer alone changes its tokens, and stores what it has changed before others hear of it. So when a ring comes in with one
// of ours at a version that we have not given it, there is another peer with our name, as of a cloned machine, or we run on
// an old copy of our store. In either case what we have for free may be in use. We give out nothing new for a while: an old
// copy is brought up to date by then; a twin goes on changing our tokens, and is heard of again.

// twinFor is for how long we give out nothing after a sign of a twin: more than the time between two gossips.
const twinFor = 2 * time.Minute

// noteTwin follows a merge in which our tokens at ahead were at versions that are not ours. In a dispute these may come from
// the rival, who grants us addresses at the versions of its own; so disputes are stored.
func (c *core) noteTwin(ahead []addr.Addr, now time.Time) {
	if !slices.ContainsFunc(ahead, func(a addr.Addr) bool { return !c.inDispute(addr.Single(a)) }) {
		return
	}
	if !c.standing.has(twin) {
		c.log.Error("another peer uses our name, or our store is an old copy: nothing new is given out", "name", c.me,
			"at", ahead[0])
	}
	c.standing.holdUntil(twin, now.Add(twinFor))
}

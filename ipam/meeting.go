package ipam

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// A meeting begins when we hear of a ring that is to go for ours. Nothing new is given out then, so that those who change over can
// ask first for what they use, until suspicion after the last of their requests. A ring that goes on being heard of, since somebody in
// it may not change over, is met again after meetAgain; and all meetings of that time together do not last longer than meetMost,
// so that we go on giving out addresses whatever is around us.
const (
	meetMost  = 3 * time.Minute
	meetAgain = 10 * time.Minute
	maxMet    = 16 // rings that are remembered; of more there is no meeting
)

// meetings are those there were of late.
type meetings struct {
	with   map[string]time.Time // by the seeds of the ring that is to go: when it was met
	guests []peer.Name          // of the present one: who has space by those rings; ascending
	end    time.Time            // of the present one

	since time.Time     // when the time began for which spent counts
	spent time.Duration // how long meetings have lasted since then
}

// meet follows a ring that was born apart from ours.
func (c *core) meet(s state, now time.Time) {
	if !s.joins || unused(s.ring) || !better(c.ring.Seeds, s.ring.Seeds) {
		return // it stays, or has nothing to bring
	}
	m := &c.met
	maps.DeleteFunc(m.with, func(_ string, at time.Time) bool { return now.Sub(at) >= meetAgain })
	seeds := fmt.Sprint(s.ring.Seeds)
	if _, known := m.with[seeds]; known || len(m.with) >= maxMet {
		return
	}
	if m.with == nil {
		m.with = make(map[string]time.Time)
	}
	m.with[seeds] = now
	c.holdMeeting(s.ring.Owners(), now)
}

// yieldToUsers is for space that was just taken over: whoever uses addresses of it, since they were adopted or were the dead
// peer's own strays, asks for them as soon as the takeover is heard of, and before they are given out.
func (c *core) yieldToUsers(now time.Time) { c.holdMeeting(nil, now) }

// holdMeeting begins a meeting, or has more guests come to the one that there is.
func (c *core) holdMeeting(guests []peer.Name, now time.Time) {
	m := &c.met
	if !c.standing.has(meeting) {
		m.guests = nil
	}
	m.guests = append(slices.Clone(m.guests), guests...)
	slices.Sort(m.guests)
	m.guests = slices.Compact(m.guests)
	c.extendMeeting(now)
}

// prolongMeeting follows a request for one address: a guest who asks may have more to ask for.
func (c *core) prolongMeeting(from peer.Name, now time.Time) {
	if _, guest := slices.BinarySearch(c.met.guests, from); guest && c.standing.has(meeting) {
		c.extendMeeting(now)
	}
}

// extendMeeting lets a meeting last until suspicion from now, as far as there is time left for meetings.
func (c *core) extendMeeting(now time.Time) {
	m := &c.met
	if now.Sub(m.since) >= meetAgain {
		m.since, m.spent = now, 0
	}
	from := now
	if m.end.After(from) {
		from = m.end
	}
	more := min(now.Add(suspicion).Sub(from), meetMost-m.spent)
	if more <= 0 {
		return
	}
	m.spent += more
	m.end = from.Add(more)
	c.standing.holdUntil(meeting, m.end)
}

package ipam

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// A meeting begins when we hear of a ring that is to go for ours. Nothing new is given out then, so that those who change over can
// ask first for what they use: until suspicion after the last of their requests, and for meetMost altogether. A ring that goes on being
// heard of, since somebody in it may not change over, is met again after meetAgain; and there are not more than maxMet meetings in that
// time, so that we go on giving out addresses whatever is around us.
const (
	meetMost  = time.Minute
	meetAgain = 10 * time.Minute
	maxMet    = 3
)

// meetings are those there were of late.
type meetings struct {
	with   map[string]time.Time // by the seeds of the ring that is to go: when it began
	guests []peer.Name          // of the present one: who has space by that ring; ascending
	end    time.Time            // the present one ends then at the latest
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
	m.with[seeds], m.guests, m.end = now, s.ring.Owners(), now.Add(meetMost)
	c.standing.holdUntil(meeting, now.Add(suspicion))
}

// prolongMeeting follows a request for one address: a guest who asks may have more to ask for.
func (c *core) prolongMeeting(from peer.Name, now time.Time) {
	m := &c.met
	if _, guest := slices.BinarySearch(m.guests, from); !guest || !c.standing.has(meeting) {
		return
	}
	until := now.Add(suspicion)
	if m.end.Before(until) {
		until = m.end
	}
	c.standing.holdUntil(meeting, until)
}

// yieldToUsers is for space that was just taken over: who uses addresses of it, since they were adopted or were the dead peer's own
// strays, asks for them as soon as the takeover is heard of, and before they are given out.
func (c *core) yieldToUsers(now time.Time) {
	if c.standing.has(meeting) {
		return
	}
	c.met.guests = nil
	c.standing.holdUntil(meeting, now.Add(suspicion))
}

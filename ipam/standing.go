package ipam

import "time"

// What we may do with what the ring says is ours depends on several things, which come and go by themselves. They are kept
// in one place, and what is done asks here whether it may be.

// hindrance is a set of reasons not to do something.
type hindrance uint8

const (
	released hindrance = 1 << iota // everything was given away
	ringless                       // there is no ring; kept by core.hindered
	twin                           // another peer is taken to use our name, or the store to be an old copy: see twin.go
	fenced                         // away for so long that a majority must confirm the ring: see fence.go
	suspect                        // the ring came from the store, and no peer has confirmed it yet
	meeting                        // others may use what came to us, and ask for it first: see meeting.go
	lapsed                         // cut off from a majority for so long that others may take over what is ours
)

// What stands against what.
const (
	againstRelying  = ringless | fenced | suspect                // on what the ring says
	againstGiving   = againstRelying | released | twin | meeting // new addresses, here
	againstDonating = againstRelying | released | twin | lapsed  // space, to others
	againstJudging  = againstRelying | released | lapsed         // the dead, and their space
)

// String gives the first reason, for people. It is empty if there is none.
func (h hindrance) String() string {
	switch first := h & -h; first {
	case released:
		return "the address space was given away"
	case ringless:
		return "there is no address ring yet"
	case twin:
		return "another peer uses our name, or the store is an old copy: nothing new is given out"
	case fenced:
		return "away for long: waiting for a majority of the address space to confirm the ring - use 'rmpeer' for dead peers"
	case suspect:
		return "the stored ring waits for a peer to confirm it"
	case meeting:
		return "other peers ask for addresses that they use already, before new ones are given out"
	case lapsed:
		return "cut off from most of the address space for long: others may take over what is ours - use 'rmpeer' for dead peers"
	}
	return ""
}

// standing are the hindrances there are. The zero standing has none.
type standing struct {
	now   hindrance
	until map[hindrance]time.Time // when those end that end by themselves
}

func (s *standing) has(h hindrance) bool { return s.now&h != 0 }

// hold keeps h until it is lifted.
func (s *standing) hold(h hindrance) {
	s.now |= h
	delete(s.until, h)
}

// holdUntil keeps h until t, if it is not lifted before.
func (s *standing) holdUntil(h hindrance, t time.Time) {
	if s.until == nil {
		s.until = make(map[hindrance]time.Time)
	}
	s.now |= h
	s.until[h] = t
}

func (s *standing) lift(h hindrance) {
	s.now &^= h
	delete(s.until, h)
}

// expire lifts what has ended, and returns it.
func (s *standing) expire(now time.Time) (over hindrance) {
	for h, t := range s.until {
		if !now.Before(t) {
			s.lift(h)
			over |= h
		}
	}
	return over
}

// hindered returns those of list that hold.
func (c *core) hindered(list hindrance) hindrance {
	h := c.standing.now
	if !c.hasRing() {
		h |= ringless
	}
	return h & list
}

// mayRely reports whether we may act on what the ring says is ours.
func (c *core) mayRely() bool { return c.hindered(againstRelying) == 0 }

// mayGive reports whether new addresses may be given out here.
func (c *core) mayGive() bool { return c.hindered(againstGiving) == 0 }

// mayDonate reports whether space may be given to other peers.
func (c *core) mayDonate() bool { return c.hindered(againstDonating) == 0 }

// mayJudge reports whether we may take over the dead, and agree that others do.
func (c *core) mayJudge() bool { return c.hindered(againstJudging) == 0 }

package overlay

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// MaxGroups bounds the groups that a peer announces. One whose stations are members of more gets all groups.
	MaxGroups = 512

	// refreshInterval is how often a peer says again what has not changed: of the announcements that the others keep the
	// oldest go first, and these should be of peers that are no more.
	refreshInterval = time.Hour
)

// localGroups are the groups that stations of this host are members of. It is pure and not safe for concurrent use.
//
// A group is kept by its address rather than its MAC, which several share. That somebody leaves it does not say that nobody
// is left, so then it ends early unless a member answers when asked.
type localGroups struct {
	querier  querier
	asks     bool // there is a port to ask at
	members  map[netip.Addr]*localGroup
	router   time.Time // until when a router counts as present
	overflow time.Time // until when there may be groups that are not in members
	settled  time.Time // when stations have had time to say their groups after the start

	nextGeneral time.Time
	startup     int // general queries that are left to be sent at the shorter interval

	said   Announcement
	saidAt time.Time // zero if nothing was
	again  bool      // it is to be said again, changed or not
}

type localGroup struct {
	mac     MAC
	expires time.Time
	asks    int // times that its members are still to be asked, since somebody left
	nextAsk time.Time
}

// start begins to ask for members, if there is a port to ask at. Until there has been time to answer this peer wants all.
func (g *localGroups) start(q querier, now time.Time, port bool) {
	g.querier, g.asks, g.members = q, port, map[netip.Addr]*localGroup{}
	g.nextGeneral, g.startup, g.settled = now, robustness, now
	if port {
		g.settled = now.Add(settleTime)
	}
}

// snoop learns from what a station of this host has said. It reports whether [localGroups.tend] has something to do.
func (g *localGroups) snoop(now time.Time, m membershipMessage) (due bool) {
	if m.fromRouter() && m.src != g.querier.v6 {
		due = !g.routed(now)
		g.router = now.Add(otherQuerierAge)
	}
	m.groups(
		func(group netip.Addr) { due = g.join(now, group) || due },
		func(group netip.Addr) { due = g.leave(now, group) || due })
	return due
}

func (g *localGroups) join(now time.Time, group netip.Addr) (due bool) {
	mac, ok := groupMAC(group)
	if !ok {
		return false
	}
	if m := g.members[group]; m != nil {
		m.expires, m.asks = now.Add(membershipAge), 0
		return false
	}
	if len(g.members) >= MaxGroups {
		due = !now.Before(g.overflow)
		g.overflow = now.Add(membershipAge)
		return due
	}
	g.members[group] = &localGroup{mac: mac, expires: now.Add(membershipAge)}
	return true
}

func (g *localGroups) leave(now time.Time, group netip.Addr) (due bool) {
	m := g.members[group]
	if m == nil || m.asks > 0 || m.expires.Before(now.Add(leaveAge)) {
		return false // not known, or ending already
	}
	m.expires, m.asks, m.nextAsk = now.Add(leaveAge), robustness, now
	return true
}

// routed reports whether a router is believed to be here.
func (g *localGroups) routed(now time.Time) bool { return now.Before(g.router) }

// tend forgets members that have not been heard of for long, and returns the queries that are due.
func (g *localGroups) tend(now time.Time) (queries [][]byte) {
	if g.asks && !now.Before(g.nextGeneral) {
		queries = g.querier.general()
		g.nextGeneral = now.Add(queryInterval)
		g.startup--
		if g.startup > 0 {
			g.nextGeneral = now.Add(startupInterval)
		}
	}
	for group, m := range g.members {
		switch {
		case !now.Before(m.expires):
			delete(g.members, group)
		case m.asks > 0 && !now.Before(m.nextAsk):
			queries = append(queries, g.querier.specific(group))
			m.asks, m.nextAsk = m.asks-1, now.Add(lastMemberQuery)
		}
	}
	return queries
}

// announce returns what is to be announced; due is false if that has been said. Versions follow the clock, so that they
// grow over a restart.
func (g *localGroups) announce(now time.Time) (a Announcement, due bool) {
	a = g.current(now)
	if same := a.same(g.said); same && !g.saidAt.IsZero() && !g.again && now.Sub(g.saidAt) < refreshInterval {
		return a, false
	}
	a.Version = max(g.said.Version, min(g.said.Version, math.MaxUint64-1)+1, uint64(max(now.UnixMilli(), 0)))
	g.said, g.saidAt, g.again = a, now, false
	return a, true
}

func (g *localGroups) current(now time.Time) (a Announcement) {
	for _, m := range g.members {
		a.Groups = append(a.Groups, m.mac)
	}
	slices.SortFunc(a.Groups, compareMACs)
	a.Groups = slices.Compact(a.Groups)
	a.All = g.routed(now) || now.Before(g.overflow) || now.Before(g.settled)
	return a
}

// contradicted notes what others take for our announcement. If it is newer than what we have said, or something else, it is
// of an earlier life, whose clock was ahead. It reports whether what we have said is to be said again.
func (g *localGroups) contradicted(heard Announcement) bool {
	if heard.Version < g.said.Version || heard.Version == g.said.Version && heard.same(g.said) {
		return false
	}
	g.said.Version, g.again = heard.Version, true
	return !g.saidAt.IsZero()
}

package overlay

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// snooper learns which groups the stations of this host are members of, once it is on.
type snooper struct {
	due chan struct{} // a signal: there is something to do before the next round
	on  atomic.Bool

	mu    sync.Mutex // also serializes writers of the forwarder's view
	local localGroups
}

func (s *snooper) signal() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// startSnooping begins to learn memberships and to ask for them. port is false if there are no stations.
func (f *Forwarder) startSnooping(now time.Time, port bool) {
	f.snooper.mu.Lock()
	defer f.snooper.mu.Unlock()
	f.snooper.local.start(newQuerier(f.self), now, port)
	f.snooper.on.Store(true)
}

// tendGroups does what is due at a time: it returns queries for the stations of this host, and what is to be announced to
// other peers, nil if it is nothing new.
func (f *Forwarder) tendGroups(now time.Time) (queries [][]byte, news Memberships) {
	f.snooper.mu.Lock()
	queries = f.snooper.local.tend(now)
	a, due := f.snooper.local.announce(now)
	var changes []Change
	if due {
		news = Memberships{f.self: a}
		changes = f.setSaid(f.view.Load().said.with(f.self, a))
	}
	f.snooper.mu.Unlock()
	f.tell(changes)
	return queries, news
}

// SetMemberships makes m what the peers have announced, from now on; those of it that are out of reach do not count. What it
// has of ourselves is not believed, but makes us announce anew if it is newer than what we have announced.
func (f *Forwarder) SetMemberships(m Memberships) {
	f.snooper.mu.Lock()
	heard, told := m[f.self]
	if ours, announced := f.view.Load().said[f.self]; announced {
		m = m.with(f.self, ours)
	} else if told {
		m = maps.Clone(m)
		delete(m, f.self)
	}
	contradicted := told && f.snooper.local.contradicted(heard)
	changes := f.setSaid(m)
	f.snooper.mu.Unlock()
	if contradicted {
		f.snooper.signal()
	}
	f.tell(changes)
}

// setSaid replaces the memberships of the view. The caller holds the snooper's mu.
func (f *Forwarder) setSaid(m Memberships) []Change {
	next, changes := f.view.Load().withMemberships(m)
	f.view.Store(next)
	return changes
}

func (f *Forwarder) tell(changes []Change) {
	for _, c := range changes {
		f.watchers.tell(c)
	}
}

// CapturedFrame decides about a frame that a station of this host sent, as Captured does, and learns what it says of
// memberships. Reports of members go to routers, and to peers that do not announce their groups, only: stations elsewhere
// that heard them might take them for a reason to be silent (RFC 4541, 2.1.1).
func (f *Forwarder) CapturedFrame(now time.Time, frame []byte) Decision {
	dst, src, ok := addresses(frame)
	if !ok {
		return Decision{Drop: DropShort}
	}
	d := f.Captured(now, dst, src)
	if !dst.IsGroup() || !f.snooper.on.Load() || d.Drop == DropForeign {
		return d
	}
	m, ok := parseMembership(frame)
	if !ok {
		return d
	}
	if f.snoop(now, m); m.query() {
		return d
	}
	return f.report(Decision{Source: f.self})
}

// ReceivedFrame decides about a frame that came from a neighbour, as Received does. Reports of members go to stations of this
// host only if a router is among them.
func (f *Forwarder) ReceivedFrame(now time.Time, srcPeer, dstPeer peer.Name, frame []byte) Decision {
	dst, src, ok := addresses(frame)
	if !ok {
		return Decision{Drop: DropShort}
	}
	d := f.Received(now, srcPeer, dstPeer, dst, src)
	if d.Drop != DropNone || !dst.IsGroup() || !f.snooper.on.Load() || dstPeer != f.self {
		return d
	}
	m, ok := parseMembership(frame)
	if !ok || m.query() {
		return d
	}
	return f.report(Decision{Source: srcPeer, Local: f.routed(now)})
}

// snoop learns from a message of a station of this host.
func (f *Forwarder) snoop(now time.Time, m membershipMessage) {
	f.snooper.mu.Lock()
	due := f.snooper.local.snoop(now, m)
	f.snooper.mu.Unlock()
	if due {
		f.snooper.signal()
	}
}

// routed reports whether a multicast router is believed to be among the stations of this host.
func (f *Forwarder) routed(now time.Time) bool {
	f.snooper.mu.Lock()
	defer f.snooper.mu.Unlock()
	return f.snooper.local.routed(now)
}

// report decides where a report of members goes.
func (f *Forwarder) report(d Decision) Decision {
	d.Flood = f.view.Load().floodReports(d.Source)
	if len(d.Flood) == 0 && !d.Local {
		d.Drop = DropNoMember
	}
	return d
}

// GroupEntry says where the stations are that are members of a group.
type GroupEntry struct {
	Group   MAC         `json:"group"`
	Members []peer.Name `json:"members"`
}

// Groups lists the groups that have members at peers in reach, in order of their addresses.
func (f *Forwarder) Groups() (out []GroupEntry) {
	v := f.view.Load()
	for g, members := range v.members {
		e := GroupEntry{Group: g}
		for _, p := range members {
			if p == v.self || v.reach()[p] {
				e.Members = append(e.Members, p)
			}
		}
		if len(e.Members) > 0 {
			slices.Sort(e.Members)
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b GroupEntry) int { return compareMACs(a.Group, b.Group) })
	return out
}

// WantAll lists the other peers in reach that get the frames of all groups, in order of their names: those that do not
// announce their groups, or have a multicast router.
func (f *Forwarder) WantAll() []peer.Name {
	return slices.SortedFunc(slices.Values(f.view.Load().wantAll()), cmp.Compare)
}

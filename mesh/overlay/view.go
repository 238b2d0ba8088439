package overlay

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	floodShards = 64
	// maxFloodSets bounds what is kept, for each of the shards; a full one begins anew.
	maxFloodSets = 256
	// maxChanges is of how many groups watchers are told one by one.
	maxChanges = 64
)

// view is what floods depend on at one moment: the routes, and who is a member of which group. Readers take no lock. It does
// not change, but for what it has computed so far.
type view struct {
	self    peer.Name
	routes  Routes
	said    Memberships
	members map[MAC][]peer.Name // of said, by group; with ourselves

	// wantAll gives the other peers that get the frames of all groups: those that say so, and those that say nothing, as
	// peers of Weave Net do. reach gives all that there are routes for.
	wantAll func() []peer.Name
	reach   func() map[peer.Name]bool

	mu   sync.Mutex // serializes writers of sets
	sets [floodShards]atomic.Pointer[map[floodKey][]peer.Name]
}

// floodKey names frames that are spread alike. With no group it stands for those that go to the peers of wantAll only.
type floodKey struct {
	src   peer.Name
	group MAC
}

func newView(self peer.Name, routes Routes, said Memberships, members map[MAC][]peer.Name) *view {
	v := &view{self: self, routes: routes, said: said, members: members}
	v.reach = sync.OnceValue(func() map[peer.Name]bool {
		reach := map[peer.Name]bool{}
		for _, p := range routes.Peers() {
			reach[p] = true
		}
		return reach
	})
	v.wantAll = sync.OnceValue(func() (out []peer.Name) {
		for _, p := range routes.Peers() {
			if a, announces := said[p]; p != self && (a.All || !announces) {
				out = append(out, p)
			}
		}
		return out
	})
	return v
}

// flood returns the neighbours to which a frame goes that src spreads to the stations with address dst. If nobody is known
// to be a member of dst, or it is not the address of a group that memberships decide about, these are all of the tree.
func (v *view) flood(src peer.Name, dst MAC) []peer.Name {
	all := v.routes.Flood(src)
	if len(all) == 0 || !dst.snooped() || len(v.members[dst]) == 0 {
		return all
	}
	return v.set(floodKey{src, dst}, all)
}

// floodReports returns the neighbours to which reports of memberships go: those that lead to routers, and to peers that we
// do not know to do without.
func (v *view) floodReports(src peer.Name) []peer.Name {
	all := v.routes.Flood(src)
	if len(all) == 0 {
		return nil
	}
	return v.set(floodKey{src: src}, all)
}

// set returns the part of all for a key, computing it once.
func (v *view) set(k floodKey, all []peer.Name) []peer.Name {
	shard := &v.sets[(byte(k.src)^k.group[5]^k.group[4]<<3)%floodShards]
	if sets := shard.Load(); sets != nil {
		if set, have := (*sets)[k]; have {
			return set
		}
	}
	set := v.compute(k, all)
	v.mu.Lock()
	defer v.mu.Unlock()
	sets := map[floodKey][]peer.Name{}
	if old := shard.Load(); old != nil && len(*old) < maxFloodSets {
		sets = maps.Clone(*old)
	}
	sets[k] = set
	shard.Store(&sets)
	return set
}

// compute returns the neighbours that lead to members of a group and to those that want all groups. Members that are out of
// reach do not count, so that a group of which nobody else is left is unknown again.
func (v *view) compute(k floodKey, all []peer.Name) []peer.Name {
	known := k.group == MAC{}
	var wanted []peer.Name
	add := func(p peer.Name) {
		if hop, ok := v.routes.FloodHop(k.src, p); ok && !slices.Contains(wanted, hop) {
			wanted = append(wanted, hop)
		}
	}
	for _, p := range v.members[k.group] {
		if p == v.self || v.reach()[p] {
			known = true
			add(p)
		}
	}
	if !known {
		return all
	}
	if k.group == (MAC{}) {
		for _, p := range v.wantAll() {
			add(p)
		}
	} else {
		wanted = append(wanted, v.set(floodKey{src: k.src}, all)...)
	}
	return slices.DeleteFunc(slices.Clone(all), func(hop peer.Name) bool { return !slices.Contains(wanted, hop) })
}

// withRoutes returns a view with other routes.
func (v *view) withRoutes(r Routes) *view { return newView(v.self, r, v.said, v.members) }

// withMemberships returns a view in which other memberships hold, and what has changed; itself if nothing has.
func (v *view) withMemberships(said Memberships) (next *view, changes []Change) {
	d := membershipDiff{members: v.members, groups: map[MAC]bool{}}
	for p, is := range said {
		was, did := v.said[p]
		d.note(p, was, is, did)
	}
	for p, was := range v.said {
		if _, still := said[p]; !still {
			d.note(p, was, Announcement{}, false)
		}
	}
	changes = d.changes()
	if len(changes) == 0 {
		return v, nil
	}
	return newView(v.self, v.routes, said, d.members), changes
}

// membershipDiff gathers what is different between two memberships.
type membershipDiff struct {
	members map[MAC][]peer.Name // copied when it changes
	groups  map[MAC]bool        // in which it is different
	peers   bool                // that announce, or want all
}

// note notes what a peer says now; continued is true if it announced before and does now.
func (d *membershipDiff) note(p peer.Name, was, is Announcement, continued bool) {
	if !continued || was.All != is.All {
		d.peers = true
	}
	if was.same(is) {
		return
	}
	for _, g := range without(was.Groups, is.Groups) {
		d.set(g, slices.DeleteFunc(slices.Clone(d.members[g]), func(q peer.Name) bool { return q == p }))
	}
	for _, g := range without(is.Groups, was.Groups) {
		d.set(g, append(slices.Clone(d.members[g]), p))
	}
}

// without returns what is in a and not in b, which are sorted.
func without(a, b []MAC) (out []MAC) {
	for _, g := range a {
		if _, have := slices.BinarySearchFunc(b, g, compareMACs); !have {
			out = append(out, g)
		}
	}
	return out
}

func (d *membershipDiff) set(group MAC, members []peer.Name) {
	if len(d.groups) == 0 {
		d.members = maps.Clone(d.members)
	}
	d.groups[group] = true
	d.members[group] = members
	if len(members) == 0 {
		delete(d.members, group)
	}
}

func (d *membershipDiff) changes() (out []Change) {
	if d.peers || len(d.groups) > maxChanges {
		return []Change{{}}
	}
	for g := range d.groups {
		out = append(out, Change{Station: g})
	}
	return out
}

package overlay

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

// tree is the routes of one peer in a network without circles, by its neighbours; peers are numbers from 1.
type tree struct {
	self   peer.Name
	edges  map[peer.Name][]peer.Name
	noteOf func() // if set, called by FloodHop
}

// randomTree joins n peers to one another at random.
func randomTree(r *rand.Rand, n int) map[peer.Name][]peer.Name {
	edges := map[peer.Name][]peer.Name{1: nil}
	for p := peer.Name(2); p <= peer.Name(n); p++ {
		q := peer.Name(1 + r.IntN(int(p)-1))
		edges[p], edges[q] = append(edges[p], q), append(edges[q], p)
	}
	return edges
}

// way returns the first step on the way from a to b.
func (r tree) way(a, b peer.Name) (hop peer.Name) {
	var find func(at, from peer.Name) bool
	find = func(at, from peer.Name) bool {
		return at == b || slices.ContainsFunc(r.edges[at], func(q peer.Name) bool { return q != from && find(q, at) })
	}
	for _, hop := range r.edges[a] {
		if find(hop, a) {
			return hop
		}
	}
	return 0
}

func (r tree) NextHop(dst peer.Name) (peer.Name, bool) {
	hop := r.way(r.self, dst)
	return hop, hop != 0 && dst != r.self
}

func (r tree) Flood(src peer.Name) (hops []peer.Name) {
	if r.edges[src] == nil {
		return nil
	}
	for _, hop := range r.edges[r.self] {
		if src == r.self || hop != r.way(r.self, src) {
			hops = append(hops, hop)
		}
	}
	return hops
}

func (r tree) FloodHop(src, dst peer.Name) (peer.Name, bool) {
	if r.noteOf != nil {
		r.noteOf()
	}
	hop := r.way(r.self, dst)
	if dst == r.self || !slices.Contains(r.Flood(src), hop) {
		return 0, false
	}
	return hop, true
}

func (r tree) Peers() (out []peer.Name) {
	for p := range r.edges {
		out = append(out, p)
	}
	return out
}

func (r tree) ShortID(peer.Name) (peer.ShortID, bool) { return 0, false }
func (r tree) Named(peer.ShortID) (peer.Name, bool)   { return 0, false }

// newNetwork returns a forwarder for each peer of a network, to whom the memberships are told as they come in practice: our
// own by ourselves.
func newNetwork(edges map[peer.Name][]peer.Name, said Memberships) map[peer.Name]*Forwarder {
	out := map[peer.Name]*Forwarder{}
	for p := range edges {
		f := NewForwarder(p)
		f.SetRoutes(tree{self: p, edges: edges})
		f.setSaid(said)
		out[p] = f
	}
	return out
}

// spread sends a frame to dst through a network and returns how often each peer got it, which is not the one it came from.
func spread(forwarders map[peer.Name]*Forwarder, src peer.Name, dst MAC) map[peer.Name]int {
	got := map[peer.Name]int{}
	var carry func(hops []peer.Name)
	carry = func(hops []peer.Name) {
		for _, p := range hops {
			got[p]++
			carry(forwarders[p].Inbound(src, p, dst).Flood)
		}
	}
	carry(forwarders[src].Outbound(dst).Flood)
	return got
}

// TestGroupFramesReachMembers: in networks in which some are members, some are not, and some do not say, frames come to all
// that may want them, once, and to peers on the way, but to no other.
func TestGroupFramesReachMembers(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	saved := 0
	for range 60 {
		edges := randomTree(r, 2+r.IntN(14))
		said, wants := Memberships{}, map[peer.Name]bool{}
		known := false
		for p := range edges {
			switch r.IntN(6) {
			case 0:
				wants[p] = true
			case 1:
				said[p], wants[p] = Announcement{All: true}, true
			case 2:
				said[p], wants[p], known = Announcement{Groups: []MAC{groupNo(1), groupNo(2)}}, true, true
			default:
				said[p] = Announcement{Groups: []MAC{groupNo(2)}}
			}
		}
		forwarders := newNetwork(edges, said)
		for src := range edges {
			got := spread(forwarders, src, groupNo(1))
			for p := range edges {
				on := 0 // the way to somebody who wants it
				for q := range edges {
					if p != src && (wants[q] || !known) && (q == p || tree{edges: edges}.way(p, q) != tree{edges: edges}.way(p, src)) && q != src {
						on = 1
					}
				}
				require.Equal(t, on, got[p], "from %d to %d of %v, %v", src, p, edges, said)
			}
			saved += len(edges) - 1 - len(got)
			require.Len(t, spread(forwarders, src, groupNo(3)), len(edges)-1, "of a group that nobody knows")
			require.Len(t, spread(forwarders, src, allNodes), len(edges)-1)
			require.Len(t, spread(forwarders, src, MAC{255, 255, 255, 255, 255, 255}), len(edges)-1)
			require.Len(t, spread(forwarders, src, testMAC(1)), len(edges)-1)
		}
	}
	require.Greater(t, saved, 500)
}

// TestMembersOutOfReach do not make a group known, and do not get frames.
func TestMembersOutOfReach(t *testing.T) {
	edges := map[peer.Name][]peer.Name{1: {2, 3}, 2: {1}, 3: {1}}
	said := Memberships{1: {}, 2: {}, 3: {}, 4: {Groups: []MAC{groupNo(1)}}}
	f := newNetwork(edges, said)[1]
	require.Equal(t, []peer.Name{2, 3}, f.Outbound(groupNo(1)).Flood)
	require.Empty(t, f.Groups())
	said, _ = said.Merge(Memberships{3: {Version: 1, Groups: []MAC{groupNo(1)}}})
	f.SetMemberships(said)
	require.Equal(t, []peer.Name{3}, f.Outbound(groupNo(1)).Flood)
	require.Equal(t, []GroupEntry{{Group: groupNo(1), Members: []peer.Name{3}}}, f.Groups())
	require.Empty(t, f.WantAll())
	require.Equal(t, DropNoMember, newNetwork(edges, Memberships{1: {Groups: []MAC{groupNo(1)}}, 2: {}, 3: {}})[1].Outbound(groupNo(1)).Drop)
	f.SetMemberships(nil)
	require.Equal(t, []peer.Name{2, 3}, f.Outbound(groupNo(1)).Flood)
	require.Equal(t, []peer.Name{2, 3}, f.WantAll(), "nobody announces any more")
	f = newNetwork(edges, nil)[1]
	f.SetMemberships(Memberships{1: {Groups: []MAC{groupNo(1)}}, 2: {}, 3: {}})
	require.Equal(t, []peer.Name{2, 3}, f.Outbound(groupNo(1)).Flood, "of ourselves we do not learn from others")
}

// TestFloodSetsAreKept: a set is computed once, and again when routes or memberships change; what is kept is bounded.
func TestFloodSetsAreKept(t *testing.T) {
	asked := 0
	edges := randomTree(rand.New(rand.NewPCG(7, 8)), 10)
	routes := tree{self: 1, edges: edges, noteOf: func() { asked++ }}
	said := Memberships{}
	for p := range edges {
		for i := range 400 {
			said[p] = Announcement{Groups: append(said[p].Groups, groupNo(i))}
		}
	}
	f := NewForwarder(1)
	f.SetRoutes(routes)
	f.SetMemberships(said)
	ask := func() int {
		asked = 0
		f.Outbound(groupNo(1))
		f.Outbound(groupNo(1))
		f.Inbound(2, 1, groupNo(1))
		f.Inbound(2, 1, groupNo(1))
		return asked
	}
	first := ask()
	require.NotZero(t, first)
	require.Zero(t, ask())
	f.SetRoutes(routes)
	require.Equal(t, first, ask())
	f.SetMemberships(said)
	require.Zero(t, ask(), "they are the same")
	f.SetMemberships(said.with(2, Announcement{}))
	require.NotZero(t, ask())
	f.SetMemberships(said)
	require.Equal(t, first, ask())

	for i := range 400 {
		for p := range edges {
			f.Inbound(p, 1, groupNo(i))
			f.Inbound(p+1000, 1, groupNo(i)) // nobody
			f.Inbound(p, 1, groupNo(1000+i)) // no group
		}
	}
	for k := range kept(f) {
		require.LessOrEqual(t, k.src, peer.Name(10))
		require.True(t, k.group == MAC{} || k.group[4] < 2)
	}
}

// kept returns what a forwarder keeps.
func kept(f *Forwarder) map[floodKey][]peer.Name {
	out := map[floodKey][]peer.Name{}
	for i := range f.view.Load().sets {
		if sets := f.view.Load().sets[i].Load(); sets != nil {
			maps.Copy(out, *sets)
		}
	}
	return out
}

// TestFloodSetsAreBounded, however many groups there are.
func TestFloodSetsAreBounded(t *testing.T) {
	edges := map[peer.Name][]peer.Name{1: {2}, 2: {1}}
	f := newNetwork(edges, nil)[1]
	said := Memberships{2: {}}
	for i := range floodShards*maxFloodSets + 5000 {
		said[2] = Announcement{Groups: append(said[2].Groups, groupNo(i))}
	}
	f.SetMemberships(said)
	for _, g := range said[2].Groups {
		require.Equal(t, []peer.Name{2}, f.Outbound(g).Flood)
		require.Equal(t, []peer.Name{2}, f.Outbound(g).Flood)
	}
	require.LessOrEqual(t, len(kept(f)), floodShards*maxFloodSets)
	require.Greater(t, len(kept(f)), 1000)
}

// TestMembershipChangesAreTold to those who keep decisions.
func TestMembershipChangesAreTold(t *testing.T) {
	f := NewForwarder(1)
	var told []Change
	defer f.Watch(func(c Change) { told = append(told, c) })()
	tells := func(m Memberships, want ...Change) {
		t.Helper()
		told = nil
		f.SetMemberships(m)
		require.ElementsMatch(t, want, told)
	}
	a, b := groupNo(1), groupNo(2)
	tells(Memberships{2: {Groups: []MAC{a}}}, Change{})
	tells(Memberships{2: {Version: 1, Groups: []MAC{a}}})
	tells(Memberships{2: {Groups: []MAC{a, b}}}, Change{b})
	tells(Memberships{2: {Groups: []MAC{b}}}, Change{a})
	tells(Memberships{2: {Groups: []MAC{a}}}, Change{a}, Change{b})
	tells(Memberships{2: {Groups: []MAC{a}, All: true}}, Change{})
	tells(Memberships{2: {Groups: []MAC{a}, All: true}, 3: {}}, Change{})
	tells(Memberships{3: {}}, Change{})
	var many []MAC
	for i := range maxChanges + 1 {
		many = append(many, groupNo(i))
	}
	tells(Memberships{3: {Groups: many}}, Change{})
	tells(Memberships{3: {Groups: many}})
	tells(Memberships{3: {Groups: many[1:]}}, Change{many[0]})
}

// TestViewConcurrency decides while routes and memberships change; the race detector does the rest.
func TestViewConcurrency(t *testing.T) {
	edges := randomTree(rand.New(rand.NewPCG(9, 10)), 8)
	f := newNetwork(edges, nil)[1]
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range 500 {
				f.Outbound(groupNo(i % 8))
				f.Inbound(peer.Name(1+i%8), 1, groupNo(i%8))
				f.CapturedFrame(epoch, linuxFrame("IGMPv2 join"))
			}
		})
	}
	wg.Go(func() {
		f.startSnooping(epoch, true)
		for i := range 200 {
			f.SetMemberships(Memberships{peer.Name(2 + i%7): {Version: uint64(i), Groups: []MAC{groupNo(i % 8)}}})
			f.SetRoutes(tree{self: 1, edges: edges})
			f.tendGroups(epoch)
			_ = f.Groups()
		}
	})
	wg.Wait()
}

package mesh

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

// graph is an immutable picture of the topology with peers as numbers, in the order of their names. Tables are computed
// when they are first asked for (section 6 of the mesh specification). It is safe for concurrent use.
type graph struct {
	self        int32
	names       []peer.Name // by number
	entries     []*entry    // by number
	all         adjacency   // every listed connection
	established []bool      // of each edge in all: its peer lists it as such
	partial     bool        // some listed connections are not there, as they lead to peers that are not known

	unicastAll func() []int32 // next hop by destination, -1 if out of reach, self for ourselves
	unicast    func() []int32 // the same over established and symmetric edges
	symmetric  func() adjacency

	flood    floods // over established and symmetric edges
	floodAll floods
}

// floods holds broadcast sets by source, nil where nobody has asked.
type floods []atomic.Pointer[[]peer.Name]

// adjacency has the edges of all peers, in ascending order for each. It holds no pointers, as there may be many.
type adjacency struct {
	start []int32 // where those of a peer start; the last one is the end
	to    []int32
}

// of returns where the edges of a peer lead.
func (a adjacency) of(p int32) []int32 { return a.to[a.start[p]:a.start[p+1]] }

// newGraph makes a graph of a topology. What has not changed since prev, which may be nil, is not read again.
func newGraph(t *topology, prev *graph) *graph {
	g := &graph{
		names: t.shareNames(), entries: slices.Clone(t.entries),
		flood: make(floods, t.size()), floodAll: make(floods, t.size()),
	}
	g.self, _ = g.number(t.self)
	if prev == nil || prev.partial {
		prev = &graph{}
	}
	g.connect(prev)
	g.symmetric = sync.OnceValue(g.makeSymmetric)
	g.unicastAll = sync.OnceValue(func() []int32 { return g.hops(g.all) })
	g.unicast = sync.OnceValue(func() []int32 { return g.hops(g.symmetric()) })
	return g
}

// number returns the number of a peer.
func (g *graph) number(name peer.Name) (n int32, known bool) {
	i, known := slices.BinarySearch(g.names, name)
	return int32(i), known
}

// connect makes the edges. Those of an entry that was in prev are taken from there.
func (g *graph) connect(prev *graph) {
	size := 0
	for _, e := range g.entries {
		size += len(e.conns) / usualConnSize
	}
	g.all = adjacency{start: make([]int32, 1, len(g.names)+1), to: make([]int32, 0, size)}
	g.established = make([]bool, 0, size)
	now := prev.renumbered(g.names)
	var scratch []int32
	old := 0
	for i, e := range g.entries {
		for old < len(prev.names) && prev.names[old] < g.names[i] {
			old++
		}
		if old < len(prev.names) && prev.entries[old] == e {
			g.copyEdges(prev, int32(old), now)
		} else {
			scratch = g.readEdges(e, scratch[:0])
		}
		g.all.start = append(g.all.start, int32(len(g.all.to)))
	}
}

// renumbered returns the numbers in another graph of the peers of this one, nowhere for those that are not in it.
func (g *graph) renumbered(names []peer.Name) []int32 {
	now := make([]int32, len(g.names))
	i := 0
	for old, name := range g.names {
		for i < len(names) && names[i] < name {
			i++
		}
		now[old] = nowhere
		if i < len(names) && names[i] == name {
			now[old] = int32(i)
		}
	}
	return now
}

// copyEdges appends the edges that a peer had in prev; now has the numbers of the peers of prev.
func (g *graph) copyEdges(prev *graph, p int32, now []int32) {
	for at := prev.all.start[p]; at < prev.all.start[p+1]; at++ {
		q := now[prev.all.to[at]]
		if q == nowhere {
			g.partial = true
			continue
		}
		g.all.to, g.established = append(g.all.to, q), append(g.established, prev.established[at])
	}
}

// readEdges appends the edges that an entry lists. If it lists a peer twice the edge is established if both are.
func (g *graph) readEdges(e *entry, scratch []int32) []int32 {
	for rest := e.conns; len(rest) > 0; {
		c, next, ok := nextConn(rest)
		if !ok {
			break
		}
		rest = next
		q, known := g.number(c.remote)
		if !known {
			g.partial = true
			continue
		}
		q <<= 1
		if c.established {
			q |= 1
		}
		scratch = append(scratch, q)
	}
	slices.Sort(scratch)
	for i, q := range scratch {
		if i == 0 || scratch[i-1]>>1 != q>>1 {
			g.all.to, g.established = append(g.all.to, q>>1), append(g.established, q&1 != 0)
		}
	}
	return scratch
}

// lists reports whether p lists q as established.
func (g *graph) lists(p, q int32) bool {
	i, ok := slices.BinarySearch(g.all.of(p), q)
	return ok && g.established[int(g.all.start[p])+i]
}

func (g *graph) makeSymmetric() adjacency {
	sym := adjacency{start: make([]int32, 1, len(g.names)+1), to: make([]int32, 0, len(g.all.to))}
	for p := range int32(len(g.names)) {
		for i, q := range g.all.of(p) {
			if g.established[int(g.all.start[p])+i] && g.lists(q, p) {
				sym.to = append(sym.to, q)
			}
		}
		sym.start = append(sym.start, int32(len(sym.to)))
	}
	return sym
}

// sameRoutes reports whether all established edges are as in another graph.
func (g *graph) sameRoutes(other *graph) bool {
	if g == other {
		return true
	}
	if !slices.Equal(g.names, other.names) {
		return false
	}
	var ours, theirs []int32
	for p := range int32(len(g.names)) {
		ours, theirs = g.appendEstablished(ours[:0], p), other.appendEstablished(theirs[:0], p)
		if !slices.Equal(ours, theirs) {
			return false
		}
	}
	return true
}

func (g *graph) appendEstablished(edges []int32, p int32) []int32 {
	for i, q := range g.all.of(p) {
		if g.established[int(g.all.start[p])+i] {
			edges = append(edges, q)
		}
	}
	return edges
}

const nowhere = -1

// walk goes over a graph in levels, each in the order of names.
type walk struct {
	adj     adjacency
	reached []bool
	// hop, if not nil, gets the neighbour of from that the way to each peer leads through, if it leads through from.
	hop  []int32
	from int32
}

func newWalk(adj adjacency) *walk { return &walk{adj: adj, reached: make([]bool, len(adj.start)-1)} }

// run walks from src. It ends when it comes to stop, which makes the result true.
func (w *walk) run(src, stop int32) bool {
	w.reached[src] = true
	level, next := []int32{src}, []int32(nil)
	for len(level) > 0 {
		slices.Sort(level)
		for _, p := range level {
			if p == stop {
				return true
			}
			for _, q := range w.adj.of(p) {
				if w.reached[q] {
					continue
				}
				w.reached[q] = true
				next = append(next, q)
				if w.hop == nil {
					continue
				}
				w.hop[q] = q
				if p != w.from {
					w.hop[q] = w.hop[p]
				}
			}
		}
		level, next = next, level[:0]
	}
	return false
}

func (g *graph) hops(adj adjacency) []int32 {
	hop := g.hopsAlong(adj, g.self)
	hop[g.self] = g.self
	return hop
}

// hopsAlong returns, for each peer that frames spread by src reach through us, the neighbour they go to from here.
func (g *graph) hopsAlong(adj adjacency, src int32) []int32 {
	hop := make([]int32, len(g.entries))
	for i := range hop {
		hop[i] = nowhere
	}
	w := newWalk(adj)
	w.hop, w.from = hop, g.self
	w.run(src, nowhere)
	return hop
}

// reachable says for each peer whether any listed connections lead to it.
func (g *graph) reachable() []bool {
	w := newWalk(g.all)
	w.run(g.self, nowhere)
	return w.reached
}

// distances returns how many steps away each peer is, over any listed connections; 0 for those out of reach.
func (g *graph) distances() []int32 {
	dist := make([]int32, len(g.entries))
	level, next := []int32{g.self}, []int32(nil)
	for steps := int32(1); len(level) > 0; steps++ {
		for _, p := range level {
			for _, q := range g.all.of(p) {
				if dist[q] == 0 && q != g.self {
					dist[q] = steps
					next = append(next, q)
				}
			}
		}
		level, next = next, level[:0]
	}
	return dist
}

// next returns the neighbour through which a table leads to dst.
func (g *graph) next(table []int32, dst peer.Name) (hop peer.Name, ok bool) {
	i, known := g.number(dst)
	if !known || i == g.self || table[i] == nowhere {
		return 0, false
	}
	return g.names[table[i]], true
}

// broadcast returns our neighbours in the tree along which src spreads. It is computed once, or a few times if several ask
// at the same time: nobody waits for another.
func (g *graph) broadcast(sets floods, adj adjacency, src peer.Name) []peer.Name {
	s, known := g.number(src)
	if !known {
		return nil
	}
	if set := sets[s].Load(); set != nil {
		return *set
	}
	set := g.broadcastSet(adj, s)
	sets[s].Store(&set)
	return set
}

func (g *graph) broadcastSet(adj adjacency, src int32) (set []peer.Name) {
	w := newWalk(adj)
	if !w.run(src, g.self) {
		return nil
	}
	for _, q := range adj.of(g.self) {
		if !w.reached[q] {
			set = append(set, g.names[q])
		}
	}
	return set
}

// spread returns the neighbours to which gossip broadcasts of src go.
func (g *graph) spread(src peer.Name) []peer.Name { return g.broadcast(g.floodAll, g.all, src) }

// weights counts, for each neighbour other than except, the destinations that it leads to.
func (g *graph) weights(except peer.Name) (names []peer.Name, weight []int, size int) {
	count := map[int32]int{}
	for dst, hop := range g.unicastAll() {
		if hop == nowhere {
			continue
		}
		size++
		if int32(dst) != g.self && g.names[hop] != except {
			count[hop]++
		}
	}
	hops := make([]int32, 0, len(count))
	for hop := range count {
		hops = append(hops, hop)
	}
	slices.Sort(hops)
	for _, hop := range hops {
		names = append(names, g.names[hop])
		weight = append(weight, count[hop])
	}
	return names, weight, size
}

// neighbourCount is how many neighbours gossip goes to, of so many candidates in a network of size peers (section 5.5).
func neighbourCount(size, candidates int) int {
	if size < 1 {
		return 0
	}
	return int(math.Min(2*math.Log2(float64(size)), float64(candidates)))
}

// choose picks neighbours for gossip, those that lead to many peers likelier. random returns a number in [0, n).
func (g *graph) choose(except peer.Name, random func(n int) int) []peer.Name {
	names, weight, size := g.weights(except)
	total := 0
	for _, w := range weight {
		total += w
	}
	count := neighbourCount(size, len(names))
	if count == len(names) {
		return names
	}
	chosen := make([]peer.Name, 0, count)
	for range count {
		at := random(total)
		i := 0
		for ; at >= weight[i]; i++ {
			at -= weight[i]
		}
		chosen = append(chosen, names[i])
		total -= weight[i]
		weight[i] = 0
	}
	return chosen
}

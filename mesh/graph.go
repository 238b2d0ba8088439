package mesh

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/overweave/overweave/mesh/peer"
)

// graph is an immutable picture of the topology with peers as numbers, in the order of their names. Tables are computed
// when they are first asked for (section 6 of the mesh specification). It is safe for concurrent use.
type graph struct {
	self    int32
	entries []*entry // by number
	index   map[peer.Name]int32
	all     [][]int32 // edges of each peer: every listed connection
	est     [][]int32 // edges of each peer that it lists as established, sorted

	unicastAll func() []int32 // next hop by destination, -1 if out of reach, self for ourselves
	unicast    func() []int32 // the same over established and symmetric edges
	symmetric  func() [][]int32

	mu       sync.Mutex
	flood    map[int32][]peer.Name // broadcast sets by source, established and symmetric
	floodAll map[int32][]peer.Name
}

// newGraph makes a graph of the entries. What has not changed since prev, which may be nil, is shared with it.
func newGraph(self peer.Name, entries map[peer.Name]*entry, prev *graph) *graph {
	g := &graph{flood: map[int32][]peer.Name{}, floodAll: map[int32][]peer.Name{}}
	same := prev != nil && prev.sameMembers(entries)
	if same {
		g.index = prev.index
		g.entries = make([]*entry, len(prev.entries))
		for i, e := range prev.entries {
			g.entries[i] = entries[e.name]
		}
	} else {
		g.number(entries)
	}
	g.self = g.index[self]
	g.all, g.est = make([][]int32, len(g.entries)), make([][]int32, len(g.entries))
	for i, e := range g.entries {
		if same && prev.entries[i] == e {
			g.all[i], g.est[i] = prev.all[i], prev.est[i]
			continue
		}
		g.all[i], g.est[i] = g.edges(e)
	}
	g.symmetric = sync.OnceValue(g.makeSymmetric)
	g.unicastAll = sync.OnceValue(func() []int32 { return g.hops(g.all) })
	g.unicast = sync.OnceValue(func() []int32 { return g.hops(g.symmetric()) })
	return g
}

func (g *graph) sameMembers(entries map[peer.Name]*entry) bool {
	if len(entries) != len(g.entries) {
		return false
	}
	for _, e := range g.entries {
		if entries[e.name] == nil {
			return false
		}
	}
	return true
}

func (g *graph) number(entries map[peer.Name]*entry) {
	g.entries = make([]*entry, 0, len(entries))
	for _, e := range entries {
		g.entries = append(g.entries, e)
	}
	slices.SortFunc(g.entries, func(a, b *entry) int { return cmp.Compare(a.name, b.name) })
	g.index = make(map[peer.Name]int32, len(entries))
	for i, e := range g.entries {
		g.index[e.name] = int32(i)
	}
}

// edges returns the edges of a peer; est shares memory with all if all are established.
func (g *graph) edges(e *entry) (all, est []int32) {
	var pending []int32
	all = make([]int32, 0, len(e.conns)/usualConnSize)
	for rest := e.conns; len(rest) > 0; {
		c, next, ok := nextConn(rest)
		if !ok {
			break
		}
		if q, known := g.index[c.remote]; known {
			all = append(all, q)
			if !c.established {
				pending = append(pending, q)
			}
		}
		rest = next
	}
	slices.Sort(all)
	if len(pending) == 0 {
		return all, all
	}
	for _, q := range all {
		if !slices.Contains(pending, q) {
			est = append(est, q)
		}
	}
	return all, est
}

func (g *graph) makeSymmetric() [][]int32 {
	sym := make([][]int32, len(g.est))
	for p, edges := range g.est {
		for _, q := range edges {
			if _, back := slices.BinarySearch(g.est[q], int32(p)); back {
				sym[p] = append(sym[p], q)
			}
		}
	}
	return sym
}

const nowhere = -1

// walk goes over a graph in levels, each in the order of names.
type walk struct {
	adj     [][]int32
	reached []bool
	// hop, if not nil, gets the neighbour of from that the way to each peer leads through, if it leads through from.
	hop  []int32
	from int32
}

func newWalk(adj [][]int32) *walk { return &walk{adj: adj, reached: make([]bool, len(adj))} }

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
			for _, q := range w.adj[p] {
				if w.reached[q] {
					continue
				}
				w.reached[q] = true
				next = append(next, q)
				if w.hop == nil {
					continue
				}
				if w.hop[q] = q; p != w.from {
					w.hop[q] = w.hop[p]
				}
			}
		}
		level, next = next, level[:0]
	}
	return false
}

func (g *graph) hops(adj [][]int32) []int32 {
	hop := g.hopsAlong(adj, g.self)
	hop[g.self] = g.self
	return hop
}

// hopsAlong returns, for each peer that frames spread by src reach through us, the neighbour they go to from here.
func (g *graph) hopsAlong(adj [][]int32, src int32) []int32 {
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
			for _, q := range g.all[p] {
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
	i, known := g.index[dst]
	if !known || i == g.self || table[i] == nowhere {
		return 0, false
	}
	return g.entries[table[i]].name, true
}

// broadcast returns our neighbours in the tree along which src spreads, computing it once.
func (g *graph) broadcast(cache map[int32][]peer.Name, adj [][]int32, src peer.Name) []peer.Name {
	s, known := g.index[src]
	if !known {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	set, have := cache[s]
	if !have {
		set = g.broadcastSet(adj, s)
		cache[s] = set
	}
	return set
}

func (g *graph) broadcastSet(adj [][]int32, src int32) (set []peer.Name) {
	w := newWalk(adj)
	if !w.run(src, g.self) {
		return nil
	}
	for _, q := range adj[g.self] {
		if !w.reached[q] {
			set = append(set, g.entries[q].name)
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
		if int32(dst) != g.self && g.entries[hop].name != except {
			count[hop]++
		}
	}
	hops := make([]int32, 0, len(count))
	for hop := range count {
		hops = append(hops, hop)
	}
	slices.Sort(hops)
	for _, hop := range hops {
		names = append(names, g.entries[hop].name)
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

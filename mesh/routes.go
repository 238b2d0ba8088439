package mesh

import (
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// routes is the data plane's view of the mesh at one moment.
type routes struct {
	g     *graph
	ids   *shortIDs
	trees []atomic.Pointer[[]int32] // by source: the neighbour on the way to each peer; nil where nobody has asked
}

var _ overlay.Routes = (*routes)(nil)

func newRoutes(g *graph, ids *shortIDs) *routes {
	return &routes{g: g, ids: ids, trees: make([]atomic.Pointer[[]int32], len(g.names))}
}

// NextHop implements overlay.Routes.
func (r *routes) NextHop(dst peer.Name) (peer.Name, bool) { return r.g.next(r.g.unicast(), dst) }

// Flood implements overlay.Routes.
func (r *routes) Flood(src peer.Name) []peer.Name {
	return r.g.broadcast(r.g.flood, r.g.symmetric(), src)
}

// FloodHop implements overlay.Routes.
func (r *routes) FloodHop(src, dst peer.Name) (peer.Name, bool) {
	s, known := r.g.number(src)
	if !known {
		return 0, false
	}
	tree := r.trees[s].Load()
	if tree == nil {
		hops := r.g.hopsAlong(r.g.symmetric(), s)
		tree = &hops
		r.trees[s].Store(tree)
	}
	return r.g.next(*tree, dst)
}

// Peers implements overlay.Routes.
func (r *routes) Peers() (names []peer.Name) {
	for i, hop := range r.g.unicast() {
		if hop != nowhere {
			names = append(names, r.g.names[i])
		}
	}
	return names
}

// ShortID implements overlay.Routes.
func (r *routes) ShortID(name peer.Name) (peer.ShortID, bool) {
	id, ok := r.ids.byName[name]
	return id, ok
}

// Named implements overlay.Routes.
func (r *routes) Named(id peer.ShortID) (peer.Name, bool) {
	name, ok := r.ids.byID[id]
	return name, ok
}

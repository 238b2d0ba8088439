package overlaytest

import (
	"maps"
	"slices"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Routes are routes as written down, not to be changed once they are in use.
type Routes struct {
	Hops   map[peer.Name]peer.Name               // neighbour by destination
	Floods map[peer.Name][]peer.Name             // neighbours by source
	Trees  map[peer.Name]map[peer.Name]peer.Name // neighbour by source and destination, for floods
	IDs    map[peer.Name]peer.ShortID
}

var _ overlay.Routes = Routes{}

// NextHop implements [overlay.Routes].
func (r Routes) NextHop(dst peer.Name) (peer.Name, bool) {
	hop, ok := r.Hops[dst]
	return hop, ok
}

// Flood implements [overlay.Routes].
func (r Routes) Flood(src peer.Name) []peer.Name { return r.Floods[src] }

// FloodHop implements [overlay.Routes].
func (r Routes) FloodHop(src, dst peer.Name) (peer.Name, bool) {
	hop, ok := r.Trees[src][dst]
	return hop, ok
}

// Peers implements [overlay.Routes]: the peers that Hops leads to.
func (r Routes) Peers() []peer.Name { return slices.Collect(maps.Keys(r.Hops)) }

// ShortID implements [overlay.Routes].
func (r Routes) ShortID(name peer.Name) (peer.ShortID, bool) {
	id, ok := r.IDs[name]
	return id, ok
}

// Named implements [overlay.Routes].
func (r Routes) Named(id peer.ShortID) (peer.Name, bool) {
	for name, have := range r.IDs {
		if have == id {
			return name, true
		}
	}
	return 0, false
}

package overlaytest

import (
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Routes are routes as written down, not to be changed once they are in use.
type Routes struct {
	Hops   map[peer.Name]peer.Name   // neighbour by destination
	Floods map[peer.Name][]peer.Name // neighbours by source
}

var _ overlay.Routes = Routes{}

// NextHop implements [overlay.Routes].
func (r Routes) NextHop(dst peer.Name) (peer.Name, bool) {
	hop, ok := r.Hops[dst]
	return hop, ok
}

// Flood implements [overlay.Routes].
func (r Routes) Flood(src peer.Name) []peer.Name { return r.Floods[src] }

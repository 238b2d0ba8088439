package mesh

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

// randomRoutes returns the routes of all peers of a random network, in which some connections are not established yet, or at
// one end only.
func randomRoutes(t *testing.T, r *rand.Rand) map[peer.Name]*routes {
	n := 1 + r.IntN(14)
	var names []peer.Name
	var edges []edge
	for i := 1; i <= n; i++ {
		names = append(names, peer.Name(i))
	}
	for _, p := range names {
		for _, q := range names[:p-1] {
			if r.IntN(n) >= 3 {
				continue
			}
			both := r.IntN(8) > 0
			edges = append(edges, edge{From: p, To: q, Established: true, Address: "10.0.0.1:6783"},
				edge{From: q, To: p, Established: both, Address: "10.0.0.1:6783"})
		}
	}
	out := map[peer.Name]*routes{}
	for _, self := range names {
		topo := topologyOf(t, self, names, edges)
		out[self] = newRoutes(newGraph(topo, nil), topo.short.current())
	}
	return out
}

// TestFloodHopIsTheWayOfFloods: on every peer that a flood passes on its way to another, FloodHop says where it goes next,
// and Flood is where it goes for all that are behind. Elsewhere FloodHop says that it does not come that way.
func TestFloodHopIsTheWayOfFloods(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	for range 150 {
		all := randomRoutes(t, rnd)
		for src := range all {
			way := map[peer.Name][]peer.Name{src: {src}} // of the flood, to each peer
			for queue := []peer.Name{src}; len(queue) > 0; queue = queue[1:] {
				for _, hop := range all[queue[0]].Flood(src) {
					require.NotContains(t, way, hop, "each peer is flooded once")
					way[hop] = append(slices.Clone(way[queue[0]]), hop)
					queue = append(queue, hop)
				}
			}
			for self, r := range all {
				hops := map[peer.Name]bool{}
				for dst := range all {
					hop, ok := r.FloodHop(src, dst)
					at := slices.Index(way[dst], self)
					require.Equal(t, at >= 0 && dst != self, ok, "from %s to %s at %s", src, dst, self)
					if ok {
						require.Equal(t, way[dst][at+1], hop)
						hops[hop] = true
					}
				}
				require.Len(t, hops, len(r.Flood(src)))
				for _, hop := range r.Flood(src) {
					require.True(t, hops[hop], "%s from %s at %s", hop, src, self)
				}
				_, ok := r.FloodHop(src, 0x77)
				require.False(t, ok, "nobody we know")
				_, ok = r.FloodHop(0x77, src)
				require.False(t, ok)
			}
		}
	}
}

// TestRoutesListPeers that there are routes to, and ourselves.
func TestRoutesListPeers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 14))
	for range 50 {
		all := randomRoutes(t, rnd)
		for self, r := range all {
			for p := range all {
				_, reached := r.NextHop(p)
				require.Equal(t, reached || p == self, slices.Contains(r.Peers(), p))
			}
			require.Len(t, slices.Compact(r.Peers()), len(r.Peers()))
		}
	}
}

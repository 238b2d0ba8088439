package mesh

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

type edge struct {
	From, To    peer.Name
	Established bool
	Address     string
	Outbound    bool
}

// topologyOf makes a topology of a list of connections.
func topologyOf(t *testing.T, self peer.Name, names []peer.Name, edges []edge) *topology {
	lists := map[peer.Name][]byte{}
	for _, e := range edges {
		a, err := parseAddress([]byte(e.Address))
		require.NoError(t, err)
		lists[e.From] = appendConn(lists[e.From], conn{remote: e.To, established: e.Established, address: a, outbound: e.Outbound})
	}
	topo := newTopology(&entry{name: self}, randomInt)
	for _, n := range names {
		topo.put(&entry{name: n, conns: connList(lists[n])})
	}
	return topo
}

func TestVectorRoutes(t *testing.T) {
	type tables struct {
		Broadcast    map[peer.Name][]peer.Name
		BroadcastAll map[peer.Name][]peer.Name `json:"broadcast_all"`
		Unicast      map[peer.Name]peer.Name
		UnicastAll   map[peer.Name]peer.Name `json:"unicast_all"`
	}
	for _, v := range vectors(t, "routes-") {
		var in struct {
			Connections []edge
			Peers       int
		}
		var want struct {
			Tables map[peer.Name]tables `json:"tables_by_self"`
		}
		require.NoError(t, json.Unmarshal(v.Inputs, &in))
		require.NoError(t, json.Unmarshal(v.Expected, &want))
		var names []peer.Name
		for n := range want.Tables {
			names = append(names, n)
		}
		for self, w := range want.Tables {
			topo := topologyOf(t, self, names, in.Connections)
			g := newGraph(topo, nil)
			r := newRoutes(g, topo.short.current())
			for _, dst := range names {
				hop, ok := r.NextHop(dst)
				requireHop(t, w.Unicast, self, dst, hop, ok)
				hop, ok = g.next(g.unicastAll(), dst)
				requireHop(t, w.UnicastAll, self, dst, hop, ok)
				require.ElementsMatch(t, w.Broadcast[dst], r.Flood(dst), "%s %s", v.ID, dst)
				require.ElementsMatch(t, w.BroadcastAll[dst], g.spread(dst), "%s %s", v.ID, dst)
			}
			again := newGraph(topo, g)
			require.True(t, again.sameRoutes(g))
		}
	}
}

func requireHop(t *testing.T, table map[peer.Name]peer.Name, self, dst, hop peer.Name, ok bool) {
	want, reached := table[dst]
	require.Equal(t, reached && dst != self, ok)
	if ok {
		require.Equal(t, want, hop)
	}
}

func TestVectorNeighbours(t *testing.T) {
	var want struct {
		Results []struct {
			Excluded, Self peer.Name
			Selected       int                     `json:"number_selected"`
			UnicastAll     map[peer.Name]peer.Name `json:"unicast_all"`
			Weights        map[peer.Name]int
		}
	}
	load(t, "neighbour-selection", nil, &want)
	for _, w := range want.Results {
		var names []peer.Name
		var edges []edge
		for dst, hop := range w.UnicastAll { // peers behind their hop, hops behind us
			names = append(names, dst)
			if dst != w.Self {
				from := hop
				if hop == dst {
					from = w.Self
				}
				edges = append(edges, edge{From: from, To: dst})
			}
		}
		g := newGraph(topologyOf(t, w.Self, names, edges), nil)
		hops, weights, size := g.weights(w.Excluded)
		got := map[peer.Name]int{}
		for i, h := range hops {
			got[h] = weights[i]
		}
		require.Len(t, got, len(w.Weights))
		for n, weight := range w.Weights {
			require.Equal(t, weight, got[n])
		}
		require.Equal(t, w.Selected, neighbourCount(size, len(hops)))
		chosen := g.choose(w.Excluded, randomInt)
		require.Len(t, chosen, w.Selected)
		slices.Sort(chosen)
		require.Len(t, slices.Compact(chosen), w.Selected, "each once")
		require.NotContains(t, chosen, w.Excluded)
	}
}

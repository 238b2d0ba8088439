package gossiptest

import (
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// Partition splits the peers into groups that do not reach each other; peers in none of the groups form one more. It
// replaces the partition there was. Messages that are under way across the border are lost.
func (b *Bus) Partition(groups ...[]peer.Name) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.groups)
	for i, g := range groups {
		for _, name := range g {
			b.groups[name] = i + 1
		}
	}
	b.reachChanged()
}

// Heal ends the partition.
func (b *Bus) Heal() { b.Partition() }

// reach reports whether messages from x get to y now. The caller holds mu.
func (b *Bus) reach(x, y *Node) bool {
	return x.state == up && y.state == up && b.groups[x.self.Name] == b.groups[y.self.Name]
}

func (b *Bus) runOf(name peer.Name) uint64 {
	if n := b.nodes[name]; n != nil {
		return n.run
	}
	return 0
}

// start lets a fresh node take part. The caller holds mu.
func (b *Bus) start(n *Node) {
	if n.state != fresh || b.finished || !b.running {
		return
	}
	n.state = up
	for _, name := range slices.Sorted(maps.Keys(n.channels)) {
		c := n.channels[name]
		n.wg.Go(c.serve)
		if b.config.Interval > 0 {
			b.round(c, time.Duration(c.rand.Int64N(int64(b.config.Interval))))
		}
	}
	b.reachChanged()
}

// round sends the complete state to some neighbours after wait, and then once each interval. The caller holds mu.
func (b *Bus) round(c *channel, wait time.Duration) {
	b.at(time.Now().Add(wait), c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if c.node.state == up {
			c.sendState(c.someNeighbours)
			b.round(c, b.config.Interval)
		}
	})
}

// reachChanged brings every node's view up to date. The caller holds mu.
func (b *Bus) reachChanged() {
	nodes := b.sortedNodes()
	for _, x := range nodes {
		if x.state != up {
			continue
		}
		for _, y := range nodes {
			if x != y && b.reach(x, y) {
				b.see(x, y)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(x.view)) {
			if y := b.nodes[name]; y == nil || !b.reach(x, y) {
				b.lose(x, name)
			}
		}
	}
}

// see notes that x has y in reach, and sends x's state there if that is news.
func (b *Bus) see(x, y *Node) {
	s := x.view[y.self.Name]
	if s != nil && !s.lost && s.run == y.run {
		return
	}
	x.view[y.self.Name] = &sight{member: y.self, run: y.run}
	for _, name := range slices.Sorted(maps.Keys(x.channels)) {
		x.channels[name].sendState(func() []peer.Name { return []peer.Name{y.self.Name} })
	}
}

// lose notes that x has lost a peer, which will be gone if it does not come back in time.
func (b *Bus) lose(x *Node, name peer.Name) {
	s := x.view[name]
	known := s.lost
	s.lost = true
	if known || b.config.Gone < 0 {
		return
	}
	b.at(time.Now().Add(b.config.Gone), x.clock, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if x.state != up || x.view[name] != s {
			return // x has crashed, or name has come back
		}
		delete(x.view, name)
		for _, channel := range slices.Sorted(maps.Keys(x.channels)) {
			c := x.channels[channel]
			c.enqueue(func() error { c.receiver.OnPeerGone(name); return nil })
		}
	})
}

// neighbours lists the peers that n believes to be in reach, in order. The caller holds mu.
func (n *Node) neighbours() []peer.Name { return slices.Sorted(maps.Keys(n.view)) }

// children lists where n passes on what source spreads: all members in order, from source on and around, are taken for the
// layers of a binary tree. The caller holds mu.
func (n *Node) children(source peer.Name) []peer.Name {
	names := append(n.neighbours(), n.self.Name)
	slices.Sort(names)
	first, ok := slices.BinarySearch(names, source)
	if !ok {
		return nil // source has left: what it spread is on its own
	}
	own, _ := slices.BinarySearch(names, n.self.Name)
	place := (own - first + len(names)) % len(names)
	var out []peer.Name
	for _, child := range []int{2*place + 1, 2*place + 2} {
		if child < len(names) {
			out = append(out, names[(first+child)%len(names)])
		}
	}
	return out
}

func (b *Bus) sortedNodes() []*Node {
	nodes := make([]*Node, 0, len(b.nodes))
	for _, name := range slices.Sorted(maps.Keys(b.nodes)) {
		nodes = append(nodes, b.nodes[name])
	}
	return nodes
}

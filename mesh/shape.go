package mesh

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// The connection limit shapes the mesh rather than refusing peers. If everybody fits, everybody is connected. Else a peer
// dials others, those with few links first, until it has two fifths of the limit, and leaves the rest for those that come.
// One that gets too many closes some, of peers that stay in reach without it, those with many links first.

// unlimited is the wish for links of a peer without limit.
const unlimited = math.MaxInt32

// wanted returns how many links a peer wants in a network of so many peers, itself included.
func wanted(limit, peers int) int {
	switch {
	case limit <= 0:
		return unlimited
	case peers-1 <= limit:
		return limit
	default:
		return max(minConnLimit, limit*2/5)
	}
}

// dialSoon has the dialer make a pass, but not too often.
func (e *engine) dialSoon(now time.Time) {
	at := now
	if again := e.lastDial.Add(dialPause); again.After(at) {
		at = again
	}
	soon(&e.dialAt, at)
}

// dialPass dials what the dialer wants to have dialled.
func (e *engine) dialPass(now time.Time) {
	if e.ctx.Err() != nil {
		return
	}
	e.lastDial = now
	d := e.r.dial
	attempting := d.attempting()
	wish := wanted(e.r.cfg.ConnLimit, len(e.r.topo.entries))
	s := situation{
		want:      min(maxAttempts, wish-len(e.links)) - attempting,
		content:   wish != unlimited && len(e.links) >= min(wish, e.r.cfg.ConnLimit),
		reachable: e.reaches,
	}
	for name, l := range e.links {
		s.links = append(s.links, linkInfo{name: name, addr: l.addr, outbound: l.outbound})
	}
	if !e.r.cfg.NoDiscovery {
		s.learned = e.candidates()
	}
	for _, t := range d.pass(s, now) {
		attempt := *t // the dialer goes on changing its own
		e.r.spawn(func() { e.r.attempt(e.ctx, attempt) })
	}
	if at := d.due(); !at.IsZero() {
		soon(&e.dialAt, maxTime(at, now.Add(dialPause)))
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// candidates returns addresses of peers that we are not connected to, as others tell them. Peers with few links come first.
func (e *engine) candidates() []candidate {
	if len(e.links) >= len(e.r.topo.entries)-1 {
		return nil
	}
	all := learn(e.r.topo, func(n peer.Name) bool { return e.links[n] != nil }, e.r.cfg.DefaultPort)
	degree := make(map[peer.Name]int, len(all))
	for i := range all {
		c := &all[i]
		if _, done := degree[c.name]; !done {
			degree[c.name] = e.r.topo.entries[c.name].conns.len()*16 + randomInt(16)
		}
		if c.name < e.r.cfg.Name { // it will dial us too, and one of the two would be for nothing
			c.wait = time.Second + time.Duration(randomInt(int(3*time.Second)))
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(degree[a.name], degree[b.name]) })
	return all
}

// learn finds addresses in the topology (section 7.2, step 3). For a peer that dialled the one who lists it, only the IP
// address is known; the port is that on which it says to listen, or else ours.
func learn(t *topology, connected func(peer.Name) bool, port uint16) (found []candidate) {
	seen := map[netip.AddrPort]bool{}
	for _, e := range t.entries {
		if e.name == t.self {
			continue
		}
		for c := range e.conns.all() {
			if c.remote == t.self || connected(c.remote) {
				continue
			}
			ap := c.address.AddrPort()
			if !c.outbound && ap.IsValid() {
				p := port
				if q := t.entries[c.remote]; q != nil && q.port != 0 {
					p = q.port
				}
				ap = netip.AddrPortFrom(ap.Addr(), p)
			}
			if ap.IsValid() && ap.Port() != 0 && !seen[ap] && t.entries[c.remote] != nil {
				seen[ap] = true
				found = append(found, candidate{name: c.remote, addr: ap})
			}
		}
	}
	return found
}

// limitSoon has links closed soon if there are too many.
func (e *engine) limitSoon(now time.Time) {
	if limit := e.r.cfg.ConnLimit; limit > 0 && len(e.links) > limit {
		soon(&e.shedAt, now.Add(shedPause/2+time.Duration(randomInt(int(shedPause)))))
	}
}

// shed closes a link if there are too many.
func (e *engine) shed(now time.Time) {
	if limit := e.r.cfg.ConnLimit; limit <= 0 || len(e.links) <= limit {
		return
	}
	if l := e.dispensable(); l != nil {
		if l.delta {
			_ = l.out.urgentNow([]byte{tagDelta, deltaGoodbye, goodbyeLimit})
			l.kick()
		}
		// The other end closes when it reads this, and one that does not know it is closed by us.
		time.AfterFunc(time.Second, func() { l.fail(ErrLimit) })
		e.removeLink(l, fmt.Errorf("%w: closed to make room", ErrLimit))
	}
	e.limitSoon(now)
}

// dispensable returns the link to the peer with most links among those that stay in reach without it; nil if there is none.
func (e *engine) dispensable() (best *link) {
	most := minConnLimit - 1
	for name, l := range e.links {
		i, known := e.graph.index[name]
		if !known {
			continue
		}
		if n := len(e.graph.all[i]); n > most && e.graph.reachesWithout(i) {
			best, most = l, n
		}
	}
	return best
}

// reachesWithout reports whether we reach a neighbour without our connection to it, nor its one to us.
func (g *graph) reachesWithout(neighbour int32) bool {
	adj := slices.Clone(g.all)
	cut := func(p, q int32) {
		adj[p] = slices.DeleteFunc(slices.Clone(adj[p]), func(x int32) bool { return x == q })
	}
	cut(g.self, neighbour)
	cut(neighbour, g.self)
	return walk(adj, g.self, neighbour, make([]bool, len(adj)), nil)
}

// sameRoutes reports whether all edges are as in another graph.
func (g *graph) sameRoutes(other *graph) bool {
	if g == other {
		return true
	}
	if len(g.entries) != len(other.entries) {
		return false
	}
	for i, e := range g.entries {
		if other.entries[i].name != e.name || !slices.Equal(g.est[i], other.est[i]) {
			return false
		}
	}
	return true
}

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

// The connection limit shapes the mesh rather than refusing peers. A peer dials others at random until it has a third of the
// limit, and leaves the rest for those that come: so the mesh is like a random graph, in which ways are short. A peer that
// gets too many links closes some, of peers that stay in reach without it, those with many links first.
//
// When no peer has come or gone for a while, each looks at the mesh. If everybody fits it goes on until everybody is
// connected: a mesh that is about to grow should not fill up first. If some peers are further away than they would be in a
// random graph, it adds links to such peers, one at a time.

// unlimited is the wish for links of a peer without limit.
const unlimited = math.MaxInt32

// growthPause is how long no peer must have come or gone for a mesh to count as settled.
const growthPause = 5 * time.Second

// wanted returns how many links a peer wants in a network of so many peers, itself included.
func wanted(limit, peers int, settled bool) int {
	switch {
	case limit <= 0:
		return unlimited
	case peers-1 <= limit && settled:
		return limit
	default:
		return min(limit, max(minConnLimit+1, limit/3))
	}
}

// depth returns how many steps apart peers may be in a mesh of so many with a limit: somewhat more than in a random graph
// whose peers have half the limit.
func depth(limit, peers int) int {
	return 1 + int(math.Ceil(math.Log(float64(peers))/math.Log(float64(max(limit, 2*minConnLimit))/2)))
}

// deepen returns the wish for links, raised by one now and then while some peer is too far away.
func (e *engine) deepen(wish int, settled bool, now time.Time) int {
	limit := e.r.cfg.ConnLimit
	e.far = 0
	if wish == unlimited || !settled || len(e.links) < wish || len(e.links) >= limit-1 {
		return wish
	}
	steps := depth(limit, len(e.graph.entries))
	if e.dist = e.graph.distances(); int(slices.Max(e.dist)) <= steps {
		return wish
	}
	soon(&e.dialAt, now.Add(time.Second+time.Duration(randomInt(int(time.Second)))))
	if randomInt(3) > 0 { // the others look at the same time, and one link helps many
		return wish
	}
	e.far = steps
	return len(e.links) + 1
}

// dialSoon has the dialer make a pass, but not too often.
func (e *engine) dialSoon(now time.Time) {
	at := now
	pause := dialPause + time.Duration(len(e.r.topo.entries))*time.Millisecond
	if again := e.lastDial.Add(pause); again.After(at) {
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
	settled := e.settled(now)
	wish := e.deepen(wanted(e.r.cfg.ConnLimit, len(e.r.topo.entries), settled), settled, now)
	atOnce := maxAttempts
	if wish != unlimited {
		atOnce = maxLimitedAttempts
	}
	s := situation{
		want:      min(atOnce, wish-len(e.links)) - attempting,
		content:   wish != unlimited && len(e.links) >= min(wish, e.r.cfg.ConnLimit),
		reachable: e.reaches,
	}
	for name, l := range e.links {
		s.links = append(s.links, linkInfo{name: name, addr: l.addr, outbound: l.outbound})
	}
	if !e.r.cfg.NoDiscovery && len(e.links) < wish {
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

// settled reports whether membership has not changed for a while; if it has, another pass follows.
func (e *engine) settled(now time.Time) bool {
	if n := len(e.r.topo.entries); n != e.lastSize {
		e.lastSize, e.grownAt = n, now
	}
	since := now.Sub(e.grownAt)
	if since < growthPause {
		soon(&e.dialAt, now.Add(growthPause-since))
	}
	return since >= growthPause
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// candidates returns addresses of peers that we are not connected to, as others tell them, in the order of their rank.
func (e *engine) candidates() []candidate {
	if len(e.links) >= len(e.r.topo.entries)-1 {
		return nil
	}
	all := learn(e.r.topo, func(n peer.Name) bool { return e.links[n] != nil }, e.r.cfg.DefaultPort)
	everybody := e.r.cfg.ConnLimit <= 0 || len(e.r.topo.entries) <= e.r.cfg.ConnLimit
	rank := make(map[peer.Name]int, len(all))
	for i := range all {
		c := &all[i]
		if _, done := rank[c.name]; !done {
			rank[c.name] = e.rank(c.name)
		}
		if everybody && c.name < e.r.cfg.Name { // it will dial us too, and one of the two would be for nothing
			c.wait = 2*time.Second + time.Duration(len(e.r.topo.entries)*10+randomInt(4000))*time.Millisecond
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(rank[a.name], rank[b.name]) })
	return all
}

// rank is where a peer stands among those to dial: at random, but after those that are far away if we look for such. Whether
// it has room does not matter: if only the latest were dialled the mesh would become a chain in the order of joining, while
// one that closes a link to make room leaves the graph as random as it was.
func (e *engine) rank(name peer.Name) int {
	const near = 1 << 20
	rank := randomInt(near)
	if i, known := e.graph.index[name]; e.far > 0 && (!known || int(e.dist[i]) <= e.far) {
		rank += near
	}
	return rank
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

// limitSoon has a link closed soon if there are too many; the more there are the sooner.
func (e *engine) limitSoon(now time.Time) {
	if limit := e.r.cfg.ConnLimit; limit > 0 && len(e.links) > limit {
		pause := shedPause / time.Duration(len(e.links)-limit)
		soon(&e.shedAt, now.Add(pause/2+time.Duration(randomInt(int(pause)))))
	}
}

// shed closes a link if there are too many.
func (e *engine) shed(now time.Time) {
	if limit := e.r.cfg.ConnLimit; limit <= 0 || len(e.links) <= limit {
		return
	}
	if l := e.dispensable(); l != nil {
		if l.delta {
			_ = l.out.urgentNow(goodbyeMessage())
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
	return newWalk(adj).run(g.self, neighbour)
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

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

// sampleSize is how many peers of those we might dial are looked at, if not all are to be connected.
const sampleSize = 16

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
	e.dist = e.graph.distances()
	if int(slices.Max(e.dist)) <= steps {
		return wish
	}
	e.dialling.soon(now.Add(time.Second + time.Duration(randomInt(int(time.Second)))))
	if randomInt(3) > 0 { // the others look at the same time, and one link helps many
		return wish
	}
	e.far = steps
	return len(e.links) + 1
}

// dialSoon has the dialer make a pass, but not too often.
func (e *engine) dialSoon(now time.Time) {
	pause := dialPause + time.Duration(e.r.topo.size())*time.Millisecond
	e.dialling.soon(e.dialling.notBefore(now, pause))
}

// dialPass dials what the dialer wants to have dialled.
func (e *engine) dialPass(now time.Time) {
	if e.ctx.Err() != nil {
		return
	}
	d := e.r.dial
	attempting := d.attempting()
	settled := e.settled(now)
	wish := e.deepen(wanted(e.r.cfg.ConnLimit, e.r.topo.size(), settled), settled, now)
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
		if s.sample = s.want <= 0; !s.sample {
			s.learned, s.sample = e.candidates()
		}
	}
	for _, t := range d.pass(s, now) {
		attempt := *t // the dialer goes on changing its own
		e.r.spawn(func() { e.r.attempt(e.ctx, attempt) })
	}
	if at := d.due(); !at.IsZero() {
		e.dialling.soon(maxTime(at, now.Add(dialPause)))
	}
}

// settled reports whether membership has not changed for a while; if it has, another pass follows.
func (e *engine) settled(now time.Time) bool {
	if n := e.r.topo.size(); n != e.lastSize {
		e.lastSize, e.grownAt = n, now
	}
	since := now.Sub(e.grownAt)
	if since < growthPause {
		e.dialling.soon(now.Add(growthPause - since))
	}
	return since >= growthPause
}

// candidates returns addresses of peers that we are not connected to, as others tell them, in the order in which to try
// them: at random, but those that are far away first if we look for such. Whether a peer has room does not matter: if only
// the latest were dialled the mesh would become a chain in the order of joining, while one that closes a link to make room
// leaves the graph as random as it was. If not everybody is to be connected it is a sample.
func (e *engine) candidates() (all []candidate, sample bool) {
	size := e.r.topo.size()
	if len(e.links) >= size-1 {
		return nil, false
	}
	if limit := e.r.cfg.ConnLimit; limit > 0 && size > limit {
		return e.sample(), true
	}
	all = learn(e.r.topo, func(n peer.Name) bool { return e.links[n] != nil }, e.r.cfg.DefaultPort)
	for i := range all {
		if all[i].name < e.r.cfg.Name { // it will dial us too, and one of the two would be for nothing
			all[i].wait = 2*time.Second + time.Duration(size*10+randomInt(4000))*time.Millisecond
		}
	}
	shuffle(all)
	return all, false
}

func shuffle[T any](list []T) {
	for i := range list {
		j := i + randomInt(len(list)-i)
		list[i], list[j] = list[j], list[i]
	}
}

// sample returns addresses of some peers that we are not connected to.
func (e *engine) sample() (found []candidate) {
	g := e.graph
	var near, far []int32
	for p, name := range g.names {
		switch {
		case int32(p) == g.self || e.links[name] != nil:
		case e.far > 0 && (e.dist[p] == 0 || int(e.dist[p]) > e.far):
			far = append(far, int32(p))
		default:
			near = append(near, int32(p))
		}
	}
	shuffle(near)
	shuffle(far)
	strangers := append(far, near...)
	for _, p := range strangers[:min(len(strangers), sampleSize)] {
		for _, q := range g.all.of(p) {
			if q == g.self {
				continue
			}
			for c := range g.entries[q].conns.all() {
				if c.remote != g.names[p] {
					continue
				}
				if ap := dialAddr(e.r.topo, c, e.r.cfg.DefaultPort); ap.IsValid() {
					found = append(found, candidate{name: c.remote, addr: ap})
				}
			}
		}
	}
	return found
}

// dialAddr returns where a peer can be dialled that somebody lists (section 7.2, step 3). For a peer that dialled the one
// who lists it, only the IP address is known; the port is that on which it says to listen, or else ours.
func dialAddr(t *topology, c conn, port uint16) netip.AddrPort {
	ap, remote := c.address.AddrPort(), t.entry(c.remote)
	if !ap.IsValid() || remote == nil {
		return netip.AddrPort{}
	}
	if !c.outbound {
		ap = netip.AddrPortFrom(ap.Addr(), cmp.Or(remote.port, port))
	}
	if ap.Port() == 0 {
		return netip.AddrPort{}
	}
	return ap
}

// learn finds the addresses in the topology that may be dialled, each once. There are more than maxPeers only if somebody
// invents them; then it finds others each time.
func learn(t *topology, connected func(peer.Name) bool, port uint16) (found []candidate) {
	seen := map[netip.AddrPort]bool{}
	first := randomInt(len(t.entries))
	for i := range t.entries {
		e := t.entries[(first+i)%len(t.entries)]
		if e.name == t.self {
			continue
		}
		for c := range e.conns.all() {
			if c.remote == t.self || connected(c.remote) {
				continue
			}
			if ap := dialAddr(t, c, port); ap.IsValid() && !seen[ap] {
				seen[ap] = true
				found = append(found, candidate{name: c.remote, addr: ap})
			}
			if len(found) == maxPeers {
				return found
			}
		}
	}
	return found
}

// limitSoon has a link closed soon if there are too many; the more there are the sooner.
func (e *engine) limitSoon(now time.Time) {
	if limit := e.r.cfg.ConnLimit; limit > 0 && len(e.links) > limit {
		pause := shedPause / time.Duration(len(e.links)-limit)
		e.shedding.soon(now.Add(pause/2 + time.Duration(randomInt(int(pause)))))
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
		e.r.spawn(func() {
			if sleep(l.ctx, time.Second) {
				l.fail(ErrLimit)
			}
		})
		e.removeLink(l, fmt.Errorf("%w: closed to make room", ErrLimit))
	}
	e.limitSoon(now)
}

// dispensable returns the link to the peer with most links among those that stay in reach without it; nil if there is none.
func (e *engine) dispensable() (best *link) {
	most := minConnLimit - 1
	for name, l := range e.links {
		i, known := e.graph.number(name)
		if !known {
			continue
		}
		if n := len(e.graph.all.of(i)); n > most && e.graph.reachesWithout(i) {
			best, most = l, n
		}
	}
	return best
}

// reachesWithout reports whether we reach a neighbour without our connection to it, nor its one to us.
func (g *graph) reachesWithout(neighbour int32) bool {
	adj := adjacency{start: g.all.start, to: slices.Clone(g.all.to)}
	cut := func(p, q int32) { // an edge from p to itself leads nowhere
		if i, ok := slices.BinarySearch(g.all.of(p), q); ok {
			adj.of(p)[i] = p
		}
	}
	cut(g.self, neighbour)
	cut(neighbour, g.self)
	return newWalk(adj).run(g.self, neighbour)
}

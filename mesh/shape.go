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

// The connection limit shapes the mesh rather than refusing peers. A peer dials others, those with few links first, until
// it has a third of the limit, and leaves the rest for those that come. If everybody fits it goes on until everybody is
// connected, but only when no peer has come or gone for a while: a mesh that is about to grow should not fill up first. One
// that gets too many closes some, of peers that stay in reach without it, those with many links first.

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
		return min(limit, max(minConnLimit+2, limit/3))
	}
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
	wish := wanted(e.r.cfg.ConnLimit, len(e.r.topo.entries), e.settled(now))
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
			c.wait = 2*time.Second + time.Duration(len(e.r.topo.entries)*10+randomInt(4000))*time.Millisecond
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

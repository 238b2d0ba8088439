package mesh

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	eventBatch     = 256
	collectDelay   = time.Second
	minRoutesDelay = 20 * time.Millisecond
	maxRoutesDelay = 2 * time.Second
	manyPeers      = 64 // from so many on routes follow our own links with a delay too
	dialPause      = 200 * time.Millisecond
	shedPause      = 500 * time.Millisecond
)

// engine is the one goroutine that owns links, topology and targets. Everything else posts events to it. Events are taken in
// batches; what follows from them (routes, updates, dials) is done once for a batch, or later.
type engine struct {
	r   *Router
	ctx context.Context // of the router: nothing is dialled after its end

	links map[peer.Name]*link
	graph *graph
	runs  map[peer.Name]formerRun // runs of peers that were replaced by later ones

	past       []EndedStatus // connections that have ended lately
	clones     []CloneStatus // other runs under our name, the latest one last
	ownChanged bool          // our links have changed: our entry has to follow, and the view
	updates    map[peer.Name]struct{}
	lastSize   int           // how many peers the dialer saw last
	grownAt    time.Time     // when that changed
	routesCost time.Duration // of the last graph
	dist       []int32       // steps to each peer of the graph, if far is set
	shortIDs   *shortIDs     // that the data plane has
	far        int           // dial peers further away than so many steps first; zero: any

	comparedAt time.Time // when versions were last sent

	collecting, routing, gossiping, updating, digesting, flushing, shedding, dialling task

	tasks []*task // in the order in which they are done
}

// formerRun is an earlier run of a peer that a later one has replaced.
type formerRun struct {
	uid  peer.UID
	addr netip.AddrPort
}

func newEngine(r *Router, ctx context.Context) *engine {
	e := &engine{
		r: r, ctx: ctx, links: map[peer.Name]*link{}, runs: map[peer.Name]formerRun{},
		updates: map[peer.Name]struct{}{}, graph: r.view.Load().graph,
	}
	now := time.Now()
	e.makeTasks()
	e.gossiping.at, e.dialling.at = now.Add(r.cfg.GossipInterval), now
	r.topoMu.Lock()
	r.topo.setOwn(func(own *entry) {
		own.version--
		if !r.cfg.NoDeltas {
			own.port = r.Addr().Port()
		}
	})
	r.topoMu.Unlock()
	return e
}

// run handles events and deadlines until ctx ends.
func (e *engine) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer close(e.r.stopped)
	for {
		select {
		case f := <-e.r.events:
			f(e)
			e.drain()
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		e.settle(now)
		if next := earliest(e.tasks); !next.IsZero() {
			timer.Reset(max(0, next.Sub(now)))
		}
	}
}

func (e *engine) drain() {
	for range eventBatch {
		select {
		case f := <-e.r.events:
			f(e)
		default:
			return
		}
	}
}

// makeTasks says what there is to do, and in which order.
func (e *engine) makeTasks() {
	e.collecting.run = e.collect
	e.routing.run = func(time.Time) { e.refresh() }
	e.gossiping.run = e.gossip
	e.updating.run = e.sendUpdates
	e.digesting.run = func(time.Time) { e.sendDigests(digestLinks) }
	e.flushing.run = e.flush
	e.shedding.run = e.shed
	e.dialling.run = e.dialPass
	e.tasks = []*task{
		&e.collecting, &e.routing, &e.gossiping, &e.updating, &e.digesting, &e.flushing, &e.shedding, &e.dialling,
	}
}

// settle does what is due.
func (e *engine) settle(now time.Time) {
	if e.ownChanged {
		e.renewOwn(now)
	}
	for _, t := range e.tasks {
		t.settle(now)
	}
}

// renewOwn makes our entry say what our links are, and the view with it.
func (e *engine) renewOwn(now time.Time) {
	e.ownChanged = false
	var list []byte
	for _, name := range slices.Sorted(maps.Keys(e.links)) {
		l := e.links[name]
		list = appendConn(list, conn{
			remote: name, outbound: l.outbound, established: l.established, address: addressOf(l.addr),
		})
	}
	e.r.topoMu.Lock()
	e.r.topo.setOwn(func(own *entry) { own.conns = connList(list) })
	e.r.topoMu.Unlock()
	e.announce(now, e.r.cfg.Name)
	if e.r.topo.size() < manyPeers {
		e.refresh()
		return
	}
	e.r.view.Store(&view{graph: e.graph, links: maps.Clone(e.links)})
	e.refreshSoon(now)
}

// refresh makes the graph and the view follow the topology.
func (e *engine) refresh() {
	e.routing.at = time.Time{}
	start := time.Now()
	prev := e.graph
	if e.r.topo.changed {
		e.graph = newGraph(e.r.topo, prev)
		e.r.topo.changed = false
	}
	e.r.view.Store(&view{graph: e.graph, links: maps.Clone(e.links)})
	if sw := e.r.cfg.Switch; sw != nil {
		e.setRoutes(sw.Forwarder(), prev)
	}
	e.routesCost = time.Since(start)
}

// setRoutes gives the data plane the new routes, if they or the short ids differ from what it has.
func (e *engine) setRoutes(f *overlay.Forwarder, prev *graph) {
	ids := e.r.topo.short.current()
	if ids == e.shortIDs && e.graph.sameRoutes(prev) {
		return
	}
	e.shortIDs = ids
	f.SetRoutes(newRoutes(e.graph, ids))
}

// refreshSoon has refresh called after a while, a longer one the more it costs.
func (e *engine) refreshSoon(now time.Time) {
	delay := minRoutesDelay + 50*e.routesCost + time.Duration(e.r.topo.size())*500*time.Microsecond
	e.routing.soon(now.Add(min(delay, maxRoutesDelay)))
}

// collect removes peers that cannot be reached any more.
func (e *engine) collect(now time.Time) {
	if e.r.topo.changed {
		e.refresh()
	}
	e.r.topoMu.Lock()
	gone := e.r.topo.collect(e.graph)
	e.r.topoMu.Unlock()
	if len(gone) == 0 {
		return
	}
	e.refresh()
	names := make([]peer.Name, len(gone))
	for i, g := range gone {
		names[i] = g.name
		delete(e.runs, g.name)
		if sw := e.r.cfg.Switch; sw != nil {
			sw.Forwarder().ForgetPeer(g.name)
		}
	}
	e.r.cfg.Log.Debug("peers gone", "peers", names)
	for _, c := range e.r.channels {
		c.peersGone(names)
	}
	e.checkShortID()
	e.dialSoon(now)
}

// checkShortID takes another short id if a peer with a lower name has ours.
func (e *engine) checkShortID() {
	own := e.r.topo.own()
	if owner, ok := e.r.topo.short.owner(own.shortID); !ok || owner == own.name {
		return
	}
	id, ok := e.r.topo.short.choose()
	if !ok {
		return // when some peer has gone there may be one
	}
	e.r.topoMu.Lock()
	e.r.topo.setOwn(func(own *entry) { own.shortID = id })
	e.r.topoMu.Unlock()
	now := time.Now()
	e.announce(now, own.name)
	e.refreshSoon(now)
}

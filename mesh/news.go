package mesh

import (
	"maps"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// digestLinks is how many links digests go to at a time.
	digestLinks   = 3
	digestDelay   = 3 * time.Second // after the last change
	versionsPause = time.Second     // between version lists on one link
)

// merge takes an update in that came over a link; old are entries it held that told nothing new.
func (e *engine) merge(l *link, entries []*entry, old []stamp) {
	now, size := time.Now(), e.r.topo.size()
	e.r.topoMu.Lock()
	m := e.r.topo.merge(entries, l.remote())
	for _, s := range old {
		e.r.topo.room.heard(s.name, l.remote())
	}
	if m.forged != nil {
		e.r.topo.outrun(m.forged)
	}
	e.r.topoMu.Unlock()
	e.r.counter.topology.dropped.Add(uint64(m.left))
	if m.foreign != nil {
		e.noteClone(m.foreign, l.remote(), now)
	}
	if m.foreign != nil || m.forged != nil {
		e.announce(now, e.r.cfg.Name)
	}
	e.omit(l, m, old)
	e.judge(l, len(m.news), len(m.stale)+len(old))
	if len(m.news) == 0 && m.foreign == nil && m.forged == nil && e.r.topo.size() == size {
		return
	}
	names := make([]peer.Name, len(m.news))
	for i, n := range m.news {
		names[i] = n.name
	}
	e.passOn(l, names)
	e.checkShortID()
	e.refreshSoon(now)
	e.collecting.soon(now.Add(collectDelay + time.Duration(e.r.topo.size())*2*time.Millisecond))
	e.digesting.at = now.Add(digestDelay)
	e.dialSoon(now)
}

// omit takes back what waits for a link and its other end has shown to know.
func (e *engine) omit(l *link, m merged, old []stamp) {
	var names []peer.Name
	for _, s := range m.stale {
		if have := e.r.topo.entry(s.name); have != nil && !have.supersedes(s) {
			names = append(names, s.name)
		}
	}
	names = append(names, e.r.topo.covered(old)...)
	if len(names) > 0 {
		l.out.omitTopology(names)
	}
}

// passOn queues news for neighbours other than the one it came from, if any.
func (e *engine) passOn(from *link, names []peer.Name) {
	if len(names) == 0 {
		return
	}
	except := e.r.cfg.Name
	if from != nil {
		except = from.remote()
	}
	var chosen []peer.Name
	if e.hasOldLinks() {
		chosen = e.graph.choose(except, randomInt)
	}
	for name, l := range e.links {
		if l == from {
			continue
		}
		if l.delta && l.eager || !l.delta && slices.Contains(chosen, name) {
			l.out.addTopology(names)
		}
	}
	e.flushSoon()
}

func (e *engine) hasOldLinks() bool {
	for _, l := range e.links {
		if !l.delta {
			return true
		}
	}
	return false
}

// announce has an update about peers, and ourselves, sent soon; under churn less soon, so that one tells of many changes.
func (e *engine) announce(now time.Time, names ...peer.Name) {
	for _, n := range names {
		e.updates[n] = struct{}{}
	}
	pause := time.Second + time.Duration(e.r.topo.size())*2*time.Millisecond
	e.updating.soon(e.updating.notBefore(now.Add(minRoutesDelay), pause))
	e.digesting.at = now.Add(digestDelay)
}

// sendUpdates tells neighbours what was announced.
func (e *engine) sendUpdates(time.Time) {
	e.updates[e.r.cfg.Name] = struct{}{}
	names := slices.Collect(maps.Keys(e.updates))
	clear(e.updates)
	e.passOn(nil, names)
}

// flushSoon lets the topology that waits go, but not too often: under churn it gathers.
func (e *engine) flushSoon() {
	pause := 50*time.Millisecond + time.Duration(e.r.topo.size())*500*time.Microsecond
	e.flushing.soon(e.flushing.last.Add(pause))
}

// flush has the topology written that waits.
func (e *engine) flush(time.Time) {
	for _, l := range e.links {
		if l.out.flushTopology() {
			l.kick()
		}
	}
}

// gossip is the periodic exchange of full states.
func (e *engine) gossip(now time.Time) {
	e.gossiping.at = now.Add(e.r.cfg.GossipInterval)
	for _, c := range e.r.channels {
		c.wantState(nil)
	}
	e.sendDigests(digestLinks)
	if !e.hasOldLinks() {
		return
	}
	for _, name := range e.graph.choose(e.r.cfg.Name, randomInt) {
		if l := e.links[name]; l != nil && !l.delta {
			l.out.addTopology(nil)
		}
	}
	e.flushSoon()
}

// sendVersions tells the other end which versions we have, since its digest differs from ours. While news is on its way
// digests always differ; then, but for links to peers that came from elsewhere, once in a gossip interval is enough.
func (e *engine) sendVersions(l *link, now time.Time) {
	moving := !e.digesting.at.IsZero() && now.Sub(e.comparedAt) < e.r.cfg.GossipInterval
	if e.links[l.remote()] != l || now.Sub(l.versionsAt) < versionsPause || moving && !l.fresh {
		return
	}
	l.versionsAt, e.comparedAt, l.fresh = now, now, false
	e.r.topoMu.RLock()
	msg := e.r.topo.versionsMessage()
	e.r.topoMu.RUnlock()
	_ = l.out.urgentNow(msg)
	l.kick()
}

// sendDigests sends our digest over some links.
func (e *engine) sendDigests(count int) {
	var links []*link
	for _, l := range e.links {
		if l.delta {
			links = append(links, l)
		}
	}
	for range min(count, len(links)) {
		i := randomInt(len(links))
		l := links[i]
		links = slices.Delete(links, i, i+1)
		e.r.topoMu.RLock()
		msg := e.r.topo.digestMessage()
		e.r.topoMu.RUnlock()
		_ = l.out.urgentNow(msg)
		l.kick()
	}
}

package mesh

import (
	"fmt"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// eagerLinks is how many links of a peer take news at once, at least.
	eagerLinks = 3
	// wasteLimit is how many entries may come for nothing before an eager link is given up.
	wasteLimit = 64
)

// addLink is step 9 of section 2.1 of the mesh specification: the link becomes one of ours, or is refused.
func (e *engine) addLink(l *link, now time.Time) error {
	if l.ctx.Err() != nil || e.ctx.Err() != nil {
		return errStopped
	}
	remote := &l.sess.remote
	known := e.r.topo.entry(remote.name)
	if known == nil && l.outbound && !l.direct {
		return fmt.Errorf("%w: %s at %s", errUnknown, remote.name, l.addr)
	}
	if l.outbound {
		e.r.dial.answered[l.target] = remote.name
	}
	if err := e.settleDuplicate(l); err != nil {
		return err
	}
	restarted := known != nil && known.uid != remote.uid
	fresh := restarted || !e.reaches(remote.name)
	if err := e.checkLimit(l, fresh); err != nil {
		return err
	}
	if err := e.register(l, known); err != nil {
		return err
	}
	e.links[remote.name] = l
	l.established = l.bundle == nil
	e.ownChanged = true
	if l.outbound {
		e.r.dial.connected(l.target)
	}
	if l.bundle != nil {
		l.bundle.Confirm() // here, so that of two links to one peer the one that stays is confirmed last
	}
	e.announce(now, remote.name)
	e.greet(l, fresh)
	e.limitSoon(now)
	return nil
}

// checkLimit refuses a link if there are far too many. One over the limit is let in, and then some link is closed; but a peer
// of the old wire does not understand that, and would dial again at once and without end. So it is let in only if the mesh
// does not reach it otherwise: fresh.
func (e *engine) checkLimit(l *link, fresh bool) error {
	limit := e.r.cfg.ConnLimit
	most := max(2*limit, limit+64)
	if !l.delta && !fresh {
		most = limit
	}
	if limit > 0 && len(e.links) >= most {
		return fmt.Errorf("%w: %d connections", ErrLimit, len(e.links))
	}
	return nil
}

// reaches reports whether gossip reaches a peer. Weave Net asks the table of the data plane instead, which at times sends
// full states more often than they are needed.
func (e *engine) reaches(name peer.Name) bool {
	_, ok := e.graph.next(e.graph.unicastAll(), name)
	return ok
}

// register makes the remote known and holds it.
func (e *engine) register(l *link, known *entry) error {
	remote := &l.sess.remote
	e.r.topoMu.Lock()
	defer e.r.topoMu.Unlock()
	if known == nil {
		if e.r.topo.size() >= maxPeers {
			return errTooMany
		}
		entry := &entry{
			name: remote.name, uid: remote.uid, nickname: remote.nickname, shortID: remote.shortID,
			hasShortID: remote.hasShortID, port: remote.port,
		}
		entry.tidy()
		e.r.topo.put(entry)
	}
	e.r.topo.hold(remote.name)
	return nil
}

// settleDuplicate decides between a new link and one that we have to the same peer. The error says that the new one loses.
func (e *engine) settleDuplicate(l *link) error {
	name := l.remote()
	old := e.links[name]
	if old == nil {
		return nil
	}
	if old.sess.remote.uid != l.sess.remote.uid {
		return e.settleRuns(old, l)
	}
	switch {
	case l.sess.connUID < old.sess.connUID:
		e.dropLink(old, errDuplicate)
		return nil
	case l.sess.connUID > old.sess.connUID:
		return errDuplicate
	default:
		e.dropLink(old, errDuplicate)
		return errDuplicate
	}
}

// settleRuns decides between links to two runs of a peer. The later one is right, since a peer that restarts has lost its
// links; unless the one that was replaced comes back: then there are two.
func (e *engine) settleRuns(old, l *link) error {
	name := l.remote()
	if former, ok := e.runs[name]; ok && former.uid == l.sess.remote.uid {
		return fmt.Errorf("%w: %s is the name of peers at %s and at %s", ErrNameTaken, name, old.addr, l.addr)
	}
	e.runs[name] = formerRun{uid: old.sess.remote.uid, addr: old.addr}
	e.dropLink(old, errReplaced)
	return nil
}

// greet starts the exchange of topology, and of the state of channels if the remote has not had ours.
func (e *engine) greet(l *link, fresh bool) {
	if fresh {
		for _, c := range e.r.channels {
			c.wantState(l)
		}
	}
	if !l.delta {
		if fresh {
			l.out.addTopology(nil)
			e.flushSoon()
		}
		return
	}
	switch {
	case fresh:
		l.fresh = true
		e.makeEager(l)
		e.r.topoMu.RLock()
		msg := e.r.topo.digestMessage()
		e.r.topoMu.RUnlock()
		_ = l.out.urgentNow(msg)
		l.kick()
	case e.countEager() < eagerLinks:
		e.makeEager(l)
	}
}

func (e *engine) countEager() (n int) {
	for _, l := range e.links {
		if l.delta && l.eager {
			n++
		}
	}
	return n
}

// makeEager has news go over a link in both directions.
func (e *engine) makeEager(l *link) {
	l.eager, l.wasted = true, 0
	_ = l.out.urgentNow([]byte{tagDelta, deltaEager})
	l.kick()
}

// judge takes note of what came over a link. An eager one that brings little news is given up if there are enough others.
func (e *engine) judge(l *link, news, stale int) {
	l.wasted = max(0, l.wasted+stale-news)
	if !l.eager || l.wasted < wasteLimit || e.countEager() <= eagerLinks+1 {
		return
	}
	l.eager = false
	_ = l.out.urgentNow([]byte{tagDelta, deltaLazy})
	l.kick()
}

// becomeLazy is told that the other end has given up an eager link.
func (e *engine) becomeLazy(l *link) {
	l.eager = false
	e.keepEager(l)
}

// keepEager makes another link eager if there are too few, rather not one that has just ceased to be.
func (e *engine) keepEager(not *link) {
	if e.countEager() >= eagerLinks {
		return
	}
	for _, other := range e.links {
		if other.delta && !other.eager && other != not {
			e.makeEager(other)
			return
		}
	}
}

// dropLink takes a link out; it ends for the given reason.
func (e *engine) dropLink(l *link, reason error) {
	l.fail(reason)
	e.removeLink(l, reason)
}

// removeLink takes a link out that has ended, if it is one of ours.
func (e *engine) removeLink(l *link, reason error) {
	name := l.remote()
	if e.links[name] != l {
		return
	}
	delete(e.links, name)
	e.r.topoMu.Lock()
	e.r.topo.release(name)
	e.r.topoMu.Unlock()
	e.ownChanged = true
	e.collecting.soon(time.Now())
	e.r.cfg.Log.Info("connection ended", "peer", name, "addr", l.addr, "reason", reason)
	e.keepEager(l)
}

// establish notes that the data plane of a link works.
func (e *engine) establish(l *link) {
	if e.links[l.remote()] == l && !l.established {
		l.established = true
		e.ownChanged = true
	}
}

// inboundEnded is told of every inbound connection that is over.
func (e *engine) inboundEnded(l *link, err error) {
	e.ended(l, err)
	e.dialSoon(time.Now())
}

// outboundEnded is told of every attempt that is over; l is nil if it did not get through.
func (e *engine) outboundEnded(key string, l *link, err error) {
	e.r.dial.ended(key, err, time.Now())
	if l != nil {
		e.ended(l, err)
	} else {
		e.r.counter.terminations.Add(1)
	}
	e.dialSoon(time.Now())
}

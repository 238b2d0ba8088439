package fastdp

import (
	"context"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const (
	settleTime  = 2 * time.Millisecond // changes often come in company
	reviseBatch = 512                  // flows that are changed with one request
)

// judgement is what to do with a flow that has been decided about anew.
type judgement uint8

const (
	judgeKeep judgement = iota
	judgePut
	judgeRemove
)

// judge compares a flow with a new decision. reachable tells whether a neighbour is known to the routes at all.
//
// What does not work any more goes on for a while as it was, if there is nothing better: copies of frames to a neighbour that
// has fallen out of the topology, and flows whose destination has. So a peer that restarts loses nothing that its kernel still
// forwards; and since nobody has a route to it nobody else sends it the same frames.
func judge(e *entry, v verdict, now time.Time, hold time.Duration, reachable func(peer.Name) bool) (judgement, verdict) {
	if v.gone || v.noFlow {
		return judgeRemove, v
	}
	lasts := e.expires.IsZero()
	var missed []step
	if lasts {
		missed = missing(e.steps, v, reachable)
	}
	if len(missed) == 0 {
		e.lostSince = time.Time{}
	} else {
		if e.lostSince.IsZero() {
			e.lostSince = now
		}
		if now.Sub(e.lostSince) < hold {
			v = verdict{steps: append(slices.Clone(v.steps), missed...)}
		}
	}
	switch {
	case lasts && v.brief:
		return judgeRemove, v
	case sameSteps(e.steps, v.steps):
		e.steps = v.steps // with the names of the neighbours
		return judgeKeep, v
	}
	return judgePut, v
}

// missing returns those steps of a flow that a new decision lacks only because what they lead to is out of reach.
func missing(old []step, v verdict, reachable func(peer.Name) bool) (steps []step) {
	if v.lost && len(v.steps) == 0 {
		return old
	}
	for _, s := range old {
		if s.kind == stepTunnel && !slices.ContainsFunc(v.steps, s.same) && (s.hop == 0 || !reachable(s.hop)) {
			steps = append(steps, s)
		}
	}
	return steps
}

// reachable reports whether a neighbour has a link or a route.
func (t *table) reachable(name peer.Name) bool {
	if t.fwd.Link(name, t.fwd.Self(), name) != nil {
		return true
	}
	_, ok := t.fwd.Routes().NextHop(name)
	return ok
}

// revise decides anew about flows, and changes those that are not right any more.
func (s *session) revise(ctx context.Context, w *work, keys []flowKey) error {
	now := time.Now()
	for _, k := range keys {
		s.reviseOne(w, k, now)
		if len(w.ops) >= reviseBatch {
			if err := w.run(ctx); err != nil {
				return err
			}
		}
	}
	return w.run(ctx)
}

func (s *session) reviseOne(w *work, k flowKey, now time.Time) {
	var former []step // of a flow of a former run that has to be made out yet
	s.index.update(k, func(e *entry) {
		if e.adopted && now.Before(s.adopt) {
			former = e.steps
		}
	})
	if former != nil && !s.resolve(k, former, now) {
		return
	}
	v, j, id := s.table.decide(k), judgeKeep, odp.UFID("")
	s.index.update(k, func(e *entry) {
		j, v = judge(e, v, now, s.cfg.Hold, s.table.reachable)
		e.adopted = false
		if id = e.id; j == judgePut {
			e.steps, e.expires = v.steps, v.end(now)
		}
	})
	switch j {
	case judgeRemove:
		s.stats.removed.Add(1)
		w.remove(k)
	case judgePut:
		s.stats.replaced.Add(1)
		w.replace(k, id, v, now)
	}
}

// reviseChanged deals with all that has changed.
func (s *session) reviseChanged(ctx context.Context, w *work) error {
	macs, all := s.changes.take()
	if all {
		return s.revise(ctx, w, s.index.keys(overlay.MAC{}, true))
	}
	var keys []flowKey
	for m := range macs {
		keys = append(keys, s.index.keys(m, false)...)
	}
	return s.revise(ctx, w, keys)
}

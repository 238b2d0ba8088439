package fastdp

import (
	"context"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// adoptFlows takes the flows of a former run over: they go on as they are until the mesh is back and they can be decided
// about, or for the hold. What was not made by a datapath of ours, or leads nowhere any more, is removed.
func (s *session) adoptFlows(ctx context.Context) error {
	now := time.Now()
	s.adopt = now.Add(s.cfg.Hold)
	w := newWork(s.Datapath, s.kernel.conn, s.kernel.dp)
	var orphans []odp.Flow
	var adopted []flowKey
	for f, err := range s.kernel.conn.Flows(ctx, s.kernel.dp, odp.DumpOptions{}) {
		if err != nil && f.UFID == "" {
			return err
		}
		f = s.withActions(ctx, f)
		k, isOurs := parseKey(f.Match, f.UFID)
		steps, readable := parseActions(f.Actions)
		switch {
		case err != nil || !isOurs || !readable || s.cfg.Hold == 0 || !s.adoptable(k, steps):
			orphans = append(orphans, f)
		default:
			s.index.adopt(k, steps, f.Stats, now)
			adopted = append(adopted, k)
		}
	}
	s.stats.adopted.Add(uint64(len(adopted)))
	for _, k := range adopted {
		if k.shape == shapeSource {
			s.learn(k, now)
		}
	}
	return s.removeOrphans(ctx, w, orphans)
}

// withActions returns a flow of a listing with its actions.
func (s *session) withActions(ctx context.Context, f odp.Flow) odp.Flow {
	if f.ActionsOmitted {
		if whole, err := s.kernel.conn.GetFlow(ctx, s.kernel.dp, f); err == nil {
			return whole
		}
	}
	return f
}

// adoptable reports whether a flow of a former run still means what it did: its ports are there, and it forwards. Flows that
// only drop are soon made anew.
func (s *session) adoptable(k flowKey, steps []step) bool {
	ports := s.table.ports.Load()
	if len(steps) == 0 || k.shape.matchesPort() && ports.byNumber[k.port].role == roleNone {
		return false
	}
	for _, st := range steps {
		if r := ports.byNumber[st.port].role; st.kind == stepTunnel && r != roleTunnel || st.kind == stepOutput && r == roleNone {
			return false
		}
	}
	return true
}

func (s *session) removeOrphans(ctx context.Context, w *work, orphans []odp.Flow) error {
	for _, f := range orphans {
		w.batch.DeleteFlow(w.dp, odp.Flow{UFID: f.UFID, Match: f.Match})
		w.ops = append(w.ops, op{kind: opRemove})
		if len(w.ops) >= reviseBatch {
			if err := w.run(ctx); err != nil {
				return err
			}
		}
	}
	s.stats.orphans.Add(uint64(len(orphans)))
	return w.run(ctx)
}

// adopt notes a flow that is in the kernel already.
func (x *index) adopt(k flowKey, steps []step, st odp.FlowStats, now time.Time) {
	x.put(k, verdict{steps: steps}, now, 0)
	x.update(k, func(e *entry) { e.adopted, e.lostSince, e.packets, e.bytes = true, now, st.Packets, st.Bytes })
}

// resolve finds out what a flow of a former run stands for, and learns from it. It returns false as long as the mesh does not
// know enough.
func (s *session) resolve(k flowKey, steps []step, now time.Time) bool {
	routes := s.table.fwd.Routes()
	own, known := s.table.ownID()
	if !known {
		return false
	}
	switch k.shape {
	case shapeArrive:
		src, ok := routes.Named(k.vni.src())
		if ok && k.vni.dst() == own && src != s.cfg.Self && isStation(k.mac) && !s.known(k.mac) {
			s.table.fwd.LearnRemote(now, k.mac, src)
		}
		return ok
	case shapeToPeer:
		if steps[0].kind != stepTunnel {
			return s.known(k.mac) // a user-space overlay has to learn it
		}
		dst, ok := routes.Named(steps[0].vni.dst())
		if ok && steps[0].vni.src() == own && !s.known(k.mac) {
			s.table.fwd.LearnRemote(now, k.mac, dst)
		}
		return ok
	}
	return true
}

func (s *session) known(m overlay.MAC) bool {
	_, known := s.table.fwd.Station(m)
	return known
}

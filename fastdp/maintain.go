package fastdp

import (
	"context"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

const (
	briefInterval = 250 * time.Millisecond
	fullEvery     = 12 // sweeps: how often actions are compared too
)

// maintain keeps flows and ports right until ctx ends or the datapath is gone.
func (s *session) maintain(ctx context.Context) error {
	w := newWork(s.Datapath, s.kernel.conn, s.kernel.dp)
	sweep, brief := time.NewTicker(s.cfg.Sweep), time.NewTicker(briefInterval)
	defer sweep.Stop()
	defer brief.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.changes.wake:
			if err = pause(ctx, settleTime); err == nil {
				err = s.reviseChanged(ctx, w)
			}
		case <-s.touched:
			err = s.look(ctx)
		case <-brief.C:
			err = s.endBrief(ctx, w)
		case <-sweep.C:
			err = s.sweep(ctx, w)
		}
		if isGone(err) {
			return errGone
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("fastdp: upkeep of flows", "err", err)
			s.stats.upkeepErrors.Add(1)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// look looks at the datapath and its ports, after something happened to them.
func (s *session) look(ctx context.Context) error {
	dp, err := s.kernel.conn.DatapathByIndex(ctx, s.kernel.dp)
	if err != nil {
		return err
	}
	if dp.Features != features {
		s.log.Warn("fastdp: another program changed the datapath's features", "features", dp.Features)
		s.stats.repairs.Add(1)
		if err := s.setFeatures(ctx); err != nil {
			return err
		}
	}
	if err := s.ensurePorts(ctx, s.kernel); err != nil {
		return err
	}
	if err := s.tendTunnels(ctx); err != nil && ctx.Err() == nil {
		s.log.Debug("fastdp: tunnel devices", "err", err)
	}
	return nil
}

// endBrief removes the flows that were not to last.
func (s *session) endBrief(ctx context.Context, w *work) error {
	now := time.Now()
	for _, k := range s.brief.ended(now) {
		ended := false
		s.index.update(k, func(e *entry) { ended = !e.expires.IsZero() && !now.Before(e.expires) })
		if ended {
			w.remove(k)
		}
	}
	return w.run(ctx)
}

// sweep looks at all flows of the kernel: what they say of stations and traffic, which are idle, and whether they are those
// that they should be.
func (s *session) sweep(ctx context.Context, w *work) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	if err := s.tendReaders(ctx, time.Now()); err != nil {
		return err
	}
	if err := s.endTunnels(ctx, time.Now()); err != nil {
		return err
	}
	now, no := time.Now(), s.sweepNo.Add(1)
	full := no%fullEvery == 0 || s.resync.Swap(false)
	for f, err := range s.kernel.conn.Flows(ctx, s.kernel.dp, odp.DumpOptions{OmitKey: !full, OmitMask: !full, OmitActions: !full}) {
		if err != nil && f.UFID == "" {
			return err
		}
		k, known := s.index.lookup(f.UFID)
		if !known {
			w.removeFlow(f)
			continue
		}
		if full && s.index.forwards(k) {
			f = s.withActions(ctx, f)
		}
		s.sweepOne(w, k, f, no, full, now)
		if len(w.ops) >= reviseBatch {
			if err := w.run(ctx); err != nil {
				return err
			}
		}
	}
	s.sweepIndex(w, no, now)
	s.sweepStations(now)
	if err := w.run(ctx); err != nil {
		return err
	}
	return s.count(ctx)
}

// sweepOne takes note of one flow of the kernel.
func (s *session) sweepOne(w *work, k flowKey, f odp.Flow, no uint64, full bool, now time.Time) {
	var packets, bytes uint64
	var steps []step
	put := false
	id := f.UFID
	s.index.update(k, func(e *entry) {
		e.seen, steps = no, e.steps
		if f.Stats.Packets >= e.packets {
			packets, bytes = f.Stats.Packets-e.packets, f.Stats.Bytes-e.bytes
		}
		if e.packets, e.bytes = f.Stats.Packets, f.Stats.Bytes; packets > 0 {
			e.used = now
		}
		if is, readable := parseActions(f.Actions); full && (!readable || !sameSteps(is, e.steps)) {
			put = true
		}
	})
	if put {
		s.stats.repairs.Add(1)
		w.replace(k, id, verdict{steps: steps}, now)
	}
	if packets == 0 {
		return
	}
	s.credit(k, steps, packets, bytes)
	if k.shape.matchesSource() && isStation(k.mac) && len(steps) > 0 && !(s.isThere(k) && s.learn(k, now)) {
		s.changed(overlay.Change{Station: k.mac})
	}
}

// isThere reports whether the station of a flow that goes by the source is not known elsewhere by now: what the flow has seen
// may be older than that.
func (d *Datapath) isThere(k flowKey) bool {
	t := &d.table
	if k.shape == shapeSource {
		port, known := t.stations.port(k.mac)
		return (!known || port == k.port) && !t.remote(k.mac)
	}
	at, known := t.fwd.Station(k.mac)
	src, named := t.fwd.Routes().Named(k.vni.src())
	return !known || named && at == src
}

// sweepIndex removes flows that are idle, decides anew about those that were held, and puts back those that are missing.
func (s *session) sweepIndex(w *work, no uint64, now time.Time) {
	var idle, again, lost []flowKey
	s.index.each(func(k flowKey, e *entry) {
		switch {
		case now.Sub(e.used) >= s.cfg.Idle:
			idle = append(idle, k)
		case e.seen < no-1:
			lost = append(lost, k) // for two sweeps, in which a listing may have left it out
		case !e.lostSince.IsZero() || e.adopted:
			again = append(again, k)
		}
	})
	for _, k := range append(idle, s.index.crowded(s.cfg.MaxFlows)...) {
		s.stats.idle.Add(1)
		w.remove(k)
	}
	for _, k := range lost {
		s.stats.repairs.Add(1)
		w.remove(k) // it is made anew when it is needed
	}
	for _, k := range again {
		s.reviseOne(w, k, now)
	}
}

func (s *session) sweepStations(now time.Time) {
	gone := s.table.stations.removeIf(func(_ overlay.MAC, e portEntry) bool { return now.Sub(e.seen) >= overlay.MACAge })
	for _, m := range append(gone, s.table.stations.makeRoom()...) {
		s.changed(overlay.Change{Station: m})
	}
}

// credit counts traffic of a flow for the links that it came and goes by.
func (d *Datapath) credit(k flowKey, steps []step, packets, bytes uint64) {
	t := &d.table
	if k.shape == shapeArrive || k.shape == shapeRelay {
		if l := t.from(k); l != nil {
			l.received.add(packets, bytes)
		}
	}
	for _, s := range steps {
		if s.kind != stepTunnel {
			continue
		}
		if l := t.to(s); l != nil {
			l.sent.add(packets, bytes)
		}
	}
}

// count reads the counters of the datapath, and has flows compared in full after losses.
func (s *session) count(ctx context.Context) error {
	dp, err := s.kernel.conn.DatapathByIndex(ctx, s.kernel.dp)
	if err != nil {
		return err
	}
	lost := dp.Stats.Lost
	if before := s.stats.lost.Swap(lost); lost > before {
		s.stats.overruns.Add(1)
		s.resync.Store(true)
		s.log.Warn("fastdp: frames that no flow matches were lost", "frames", lost-before)
	}
	s.stats.kernel.Store(&dp)
	return nil
}

func (w *work) removeFlow(f odp.Flow) {
	w.batch.DeleteFlow(w.dp, odp.Flow{UFID: f.UFID, Match: f.Match})
	w.ops = append(w.ops, op{kind: opRemove})
}

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
	missBatch = 64

	// spreadPerSecond bounds the frames in a second that user space sends on for want of a lasting flow: those to unknown
	// stations, those that tell of memberships, and those of whoever has used up a share of the flows. More are dropped.
	spreadPerSecond = 16384
)

// handle deals with upcalls that were read together. What changes meanwhile, and so may make a decision of ours an old one, is
// seen afterwards: then we decide again.
func (r *reader) handle(ctx context.Context, ups []odp.Upcall) error {
	d, now := r.s.Datapath, time.Now()
	gen := d.gen.Load()
	for i := range ups {
		if ups[i].Datapath == d.dpIndex() {
			r.upcall(&ups[i], now)
		}
	}
	put := r.work.puts()
	if err := r.work.run(ctx); err != nil {
		return err
	}
	for d.gen.Load() != gen && len(put) > 0 {
		gen = d.gen.Load()
		for _, o := range put {
			r.again(o, now)
		}
		put = r.work.puts()
		if err := r.work.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// puts returns the flows that are about to be put.
func (w *work) puts() (out []op) {
	for _, o := range w.ops {
		if o.kind == opPut {
			out = append(out, o)
		}
	}
	return out
}

// again decides once more about a flow that was put while something changed.
func (r *reader) again(o op, now time.Time) {
	switch v := r.s.table.decide(o.key); {
	case v.gone || v.noFlow:
		r.s.index.forget(o.key)
		r.work.removeNamed(o.id) // others may have forgotten it by now, and removed it before it was there
	case !sameSteps(v.steps, o.steps):
		r.work.put(o.key, v, now)
	}
}

func (r *reader) upcall(up *odp.Upcall, now time.Time) {
	d := r.s.Datapath
	f, ok := parseFrame(up.Key)
	switch {
	case !ok:
		d.stats.odd.Add(1)
	case up.Kind == odp.ActionUpcall:
		r.asked(up, &f)
	case f.tunneled && unaddressed(up.Packet):
		d.stats.heartbeats.Add(1)
		d.heartbeat(&f, up.Packet)
	default:
		d.stats.misses.Add(1)
		r.miss(up, f, now)
	}
}

// miss has flows made for a frame, and sends it on: by the flow for its source, and then, without waiting for the kernel to
// come back with it, by the flow for its destination.
func (r *reader) miss(up *odp.Upcall, f frameKey, now time.Time) {
	t := &r.s.table
	for {
		k, ok := t.classify(&f)
		if !ok {
			r.s.stats.odd.Add(1)
			return
		}
		r.learn(k, now)
		v := t.decide(k)
		if !v.noFlow && !v.gone {
			if r.s.room(k, v.brief) {
				r.work.put(k, v, now)
			} else {
				v.brief = true
			}
		}
		if len(v.steps) == 1 && v.steps[0].kind == stepRecirc {
			f.stage = odp.RecircID(v.steps[0].port)
			continue
		}
		r.send(up, &f, k, v, now)
		return
	}
}

// learn notes where a frame came from.
func (r *reader) learn(k flowKey, now time.Time) {
	if isStation(k.mac) && k.shape.matchesSource() {
		r.s.learn(k, now)
	}
}

// learn notes that a flow that goes by the source has seen a frame. It returns false if the source is not believed.
func (d *Datapath) learn(k flowKey, now time.Time) bool {
	t := &d.table
	switch k.shape {
	case shapeSource:
		if !t.stations.admits(k.mac, k.port) {
			d.stats.crowded.Add(1)
			return false
		}
		if !t.fwd.LearnLocal(now, k.mac) {
			return false
		}
		if t.stations.learn(k.mac, k.port, now) {
			d.changed(overlay.Change{Station: k.mac})
		}
	case shapeArrive:
		src, known := t.fwd.Routes().Named(k.vni.src())
		if l := t.from(k); !known || src == d.cfg.Self || l == nil || t.wrongWay(l, src) {
			return false
		}
		t.fwd.LearnRemote(now, k.mac, src)
	}
	return true
}

// send does for one frame what its flow does for the next ones; what the kernel cannot do is done here.
func (r *reader) send(up *odp.Upcall, f *frameKey, k flowKey, v verdict, now time.Time) {
	d := r.s.Datapath
	decision, ok := d.decision(f)
	steps := v.steps
	switch {
	case k.proto.membership():
		d.stats.snooped.Add(1)
		decision, ok = d.membership(f, up.Packet, now)
		if v := d.table.toMany(k, decision); k.shape == shapeFromPort {
			steps = v.steps
		} else {
			steps = d.table.spreadOn(k, decision).steps
		}
	case k.shape == shapeRelay && v.noFlow:
		steps = d.returned(f, up.Packet)
	}
	if len(steps) > 0 && (v.brief || v.noFlow) && !d.spread.allow(f.origin(), spreadPerSecond, now) {
		d.stats.limited.Add(1)
		return
	}
	if i := slices.IndexFunc(steps, func(s step) bool { return s.kind == stepUser }); i >= 0 {
		if ok {
			d.sendForeign(decision, up.Packet)
		}
		steps = slices.Delete(slices.Clone(steps), i, i+1)
	}
	for part := range slices.Chunk(steps, maxSteps) {
		r.work.execute(up, actions(part))
	}
}

// asked handles a frame that a flow gave to user space, for neighbours that the datapath does not reach.
func (r *reader) asked(up *odp.Upcall, f *frameKey) {
	if decision, ok := r.s.decision(f); ok && len(up.Userdata) == 1 && up.Userdata[0] == foreignMark {
		r.s.sendForeign(decision, up.Packet)
	} else {
		r.s.stats.odd.Add(1)
	}
}

// decision decides about one frame; ok is false if the peers that it is from or for are not known.
func (d *Datapath) decision(f *frameKey) (decision overlay.Decision, ok bool) {
	if !f.tunneled {
		return d.table.fwd.Outbound(f.dst), true
	}
	src, dst, ok := d.table.ends(f.vni)
	if !ok {
		return decision, false
	}
	return d.table.fwd.Inbound(src, dst, f.dst), true
}

// membership decides about one frame that tells of memberships, and learns from it.
func (d *Datapath) membership(f *frameKey, packet []byte, now time.Time) (decision overlay.Decision, ok bool) {
	if !f.tunneled {
		return d.table.fwd.CapturedFrame(now, packet), true
	}
	src, dst, ok := d.table.ends(f.vni)
	if !ok {
		return decision, false
	}
	return d.table.fwd.ReceivedFrame(now, src, dst, packet), true
}

// sendForeign sends a frame to those neighbours that it goes to and that the datapath does not reach.
func (d *Datapath) sendForeign(decision overlay.Decision, packet []byte) {
	t := &d.table
	d.stats.foreign.Add(1)
	send := func(hop, dst peer.Name, flooded bool) {
		l := t.fwd.Link(hop, decision.Source, dst)
		if l == nil || t.links.own(l) != nil {
			return
		}
		l.Send([]overlay.Frame{{Data: packet, Src: decision.Source, Dst: dst, Flooded: flooded}})
	}
	if decision.Hop != 0 {
		send(decision.Hop, decision.Dst, false)
	}
	for _, hop := range decision.Flood {
		send(hop, hop, true)
	}
}

// heartbeat gives a frame without addresses to the link that it is about, if it came the way that link's frames come.
func (d *Datapath) heartbeat(f *frameKey, packet []byte) {
	uid, ok := parseHeartbeat(packet)
	if !ok {
		p, isTest := parseTest(packet)
		uid, ok = p.uid, isTest
	}
	l := d.table.links.connection(uid)
	if !ok || l == nil || l.outer != f.outer.reversed() {
		return
	}
	l.take(packet)
}

// room reports whether there may be one more flow.
func (d *Datapath) room(k flowKey, brief bool) bool {
	o, has := k.origin()
	ok := d.index.len() < d.cfg.MaxFlows && (!has || int(d.index.of[o].Load()) < o.share(d.cfg.MaxFlows)) && (!brief || d.brief.room(k))
	if !ok {
		d.stats.noRoom.Add(1)
	}
	return ok
}

func (d *Datapath) dpIndex() odp.Index {
	if k := d.kernel.Load(); k != nil {
		return k.dp
	}
	return 0
}

package fastdp

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/overweave/overweave/odp"
)

// briefLife is how long a flow lives that is about something unknown or unwanted.
const briefLife = time.Second

// work is a list of things to ask the kernel for, sent together. It is not safe for concurrent use, and is used again.
type work struct {
	d     *Datapath
	conn  *odp.Conn
	dp    odp.Index
	batch odp.Batch
	ops   []op
}

// op is one of the things: a flow that is put or removed, or a packet.
type op struct {
	kind  opKind
	key   flowKey
	steps []step // opPut: what the flow does
}

type opKind uint8

const (
	opPut opKind = iota + 1
	opRemove
	opExecute
)

func newWork(d *Datapath, conn *odp.Conn, dp odp.Index) *work { return &work{d: d, conn: conn, dp: dp} }

// put has a flow made or its actions replaced. Flows that could match the same frames go first.
func (w *work) put(k flowKey, v verdict, now time.Time) {
	if w.has(k) {
		return
	}
	id, rivals := w.d.index.put(k, v, now, w.d.sweepNo.Load())
	for _, rival := range rivals {
		w.batch.DeleteFlow(w.dp, odp.Flow{UFID: rival})
		w.ops = append(w.ops, op{kind: opRemove})
	}
	w.replace(k, id, v, now)
}

// replace has the actions of a flow replaced that the index has already.
func (w *work) replace(k flowKey, id odp.UFID, v verdict, now time.Time) {
	if v.brief {
		w.d.brief.add(k, v.end(now))
	}
	w.batch.PutFlow(w.dp, odp.Flow{UFID: id, Match: k.match(), Actions: actions(v.steps)})
	w.ops = append(w.ops, op{kind: opPut, key: k, steps: v.steps})
}

// has reports whether a flow is to be put already.
func (w *work) has(k flowKey) bool {
	return slices.ContainsFunc(w.ops, func(o op) bool { return o.kind == opPut && o.key == k })
}

// remove has a flow removed, if it is known.
func (w *work) remove(k flowKey) {
	if id := w.d.index.forget(k); id != "" {
		w.removeNamed(id)
	}
}

func (w *work) removeNamed(id odp.UFID) {
	w.batch.DeleteFlow(w.dp, odp.Flow{UFID: id})
	w.ops = append(w.ops, op{kind: opRemove})
}

// execute has a packet handled.
func (w *work) execute(up *odp.Upcall, list []odp.Action) {
	w.batch.Execute(w.dp, odp.Execute{Packet: up.Packet, Key: up.Key, Actions: list, Hash: up.Hash, MRU: up.MRU})
	w.ops = append(w.ops, op{kind: opExecute})
}

// run asks the kernel, and empties the list. Refusals are counted, and put right by the next sweep. The error says that the
// datapath is gone or the kernel did not answer.
func (w *work) run(ctx context.Context) error {
	defer w.reset()
	if len(w.ops) == 0 {
		return nil
	}
	err := w.conn.Run(ctx, &w.batch)
	var refused *odp.BatchError
	if !errors.As(err, &refused) {
		if err != nil {
			w.d.stats.lostReplies.Add(1)
			w.forgetPut() // they may or may not be there
		}
		return err
	}
	for _, f := range refused.Failed {
		switch o := w.ops[f.Request]; {
		case errors.Is(f.Err, os.ErrNotExist) && o.kind == opRemove:
		case o.kind == opPut:
			w.d.index.forget(o.key)
			w.d.stats.flowErrors.Add(1)
			w.d.log.Debug("fastdp: flow refused", "shape", o.key.shape, "err", f.Err)
		case o.kind == opExecute:
			w.d.stats.executeErrors.Add(1)
		}
	}
	if k := w.d.kernel.Load(); k != nil && len(refused.Failed) == len(w.ops) && w.missing(ctx, k) {
		return errGone
	}
	return nil
}

// missing asks whether the datapath is gone, after everything was refused.
func (w *work) missing(ctx context.Context, k *kernel) bool {
	_, err := k.conn.DatapathByIndex(ctx, k.dp)
	return errors.Is(err, os.ErrNotExist)
}

func (w *work) forgetPut() {
	for _, o := range w.ops {
		if o.kind == opPut {
			w.d.index.forget(o.key)
		}
	}
}

func (w *work) reset() {
	w.batch.Reset()
	clear(w.ops)
	w.ops = w.ops[:0]
}

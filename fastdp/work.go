package fastdp

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/overweave/overweave/odp"
)

const (
	// briefLife is how long a flow lives that is about something unknown or unwanted.
	briefLife = time.Second
	// putTries is how often a flow is asked for that the kernel refuses because another hand was quicker: another reader, or a
	// flow that went or came unseen.
	putTries = 4
)

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
	kind   opKind
	key    flowKey
	id     odp.UFID
	steps  []step // opPut: what the flow does
	exists bool   // opPut: the kernel is believed to have it
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
	p := w.d.index.put(k, v, now, w.d.sweepNo.Load())
	for _, rival := range p.rivals {
		w.removeNamed(rival)
	}
	if v.brief {
		w.d.brief.add(k, v.end(now))
	}
	w.ask(op{kind: opPut, key: k, id: p.id, steps: v.steps, exists: p.known})
}

// replace has the actions of a flow replaced that the index has already.
func (w *work) replace(k flowKey, id odp.UFID, v verdict, now time.Time) {
	if v.brief {
		w.d.brief.add(k, v.end(now))
	}
	w.ask(op{kind: opPut, key: k, id: id, steps: v.steps, exists: true})
}

// ask has a flow made, or its actions replaced if it exists. There are two requests for that: one that makes flows replaces
// actions too, but only of those flows whose match says what the frame's type is.
func (w *work) ask(o op) {
	f := odp.Flow{UFID: o.id, Match: o.key.match(), Actions: actions(o.steps)}
	if o.exists {
		w.batch.ModifyFlow(w.dp, f)
	} else {
		w.batch.PutFlow(w.dp, f)
	}
	w.ops = append(w.ops, o)
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
	for try := 1; len(w.ops) > 0; try++ {
		err := w.conn.Run(ctx, &w.batch)
		var refused *odp.BatchError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refused):
			w.d.stats.lostReplies.Add(1)
			w.forgetPut() // they may or may not be there
			return err
		}
		all := len(refused.Failed) == len(w.ops)
		again := w.refused(refused, try < putTries)
		if k := w.d.kernel.Load(); k != nil && all && w.missing(ctx, k) {
			w.forgetPut()
			return errGone
		}
		w.reset()
		for _, o := range again {
			o.exists = !o.exists
			w.ask(o)
		}
	}
	return nil
}

// refused deals with what the kernel refused, and returns the flows to ask for once more: those that are there although they
// were believed not to be, or the other way round.
func (w *work) refused(e *odp.BatchError, mayRetry bool) (again []op) {
	for _, f := range e.Failed {
		switch o := w.ops[f.Request]; {
		case errors.Is(f.Err, os.ErrNotExist) && o.kind == opRemove:
		case errors.Is(f.Err, os.ErrNotExist) && o.kind == opPut && mayRetry:
			again = append(again, o)
		case o.kind == opPut:
			w.d.index.forget(o.key)
			w.d.stats.flowErrors.Add(1)
			w.d.log.Debug("fastdp: flow refused", "shape", o.key.shape, "err", f.Err)
		case o.kind == opExecute:
			w.d.stats.executeErrors.Add(1)
		}
	}
	return again
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

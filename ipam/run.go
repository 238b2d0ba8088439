package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// view is our state as others may hear it, with its encoding. It holds nothing that is not stored.
type view struct {
	state state
	told  uint64 // of the core's watch

	mu      sync.Mutex // guards encoded and at
	encoded []byte
	at      time.Time
}

// maxGather is how many changes are enough for one commit.
const maxGather = 4096

// An encoded state is kept for a while: its clock may be as old as encodingAge, but the age of a contact only contactAge, since
// who hears of it relies on it.
const (
	encodingAge = 30 * time.Second
	contactAge  = time.Second
)

// view returns our state as it is now: last itself if it is that already.
func (c *core) view(last *view) *view {
	if last != nil && c.hasRing() && last.state.ring == c.ring && last.told == c.watch.told && maps.Equal(last.state.nicknames, c.nicknames) {
		return last
	}
	return &view{state: c.gossiped(), told: c.watch.told}
}

func (v *view) encode(now time.Time, form codec) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	keep := encodingAge
	if !v.state.contact.IsZero() {
		keep = contactAge
	}
	if v.encoded == nil || now.Sub(v.at) > keep {
		s := v.state
		s.now = now.Unix()
		v.encoded, v.at = form.encodeState(s), now
	}
	return v.encoded
}

// live is our state as gossip: what it is when it is sent, not when it was queued. All of them are alike.
type live struct{ a *Allocator }

var _ gossip.Data = live{}

func (l live) Encode() [][]byte                    { return [][]byte{l.a.encoded()} }
func (l live) Merge(other gossip.Data) gossip.Data { return l }

func (a *Allocator) encoded() []byte { return a.published.Load().encode(a.now(), a.codec) }

// Run stores, sends and keeps time until ctx ends; then it stores what is left, fails what waits with [ErrClosed], and
// returns nil. An allocator runs once. That the store fails is no reason to end: callers are told, and it is tried again.
func (a *Allocator) Run(ctx context.Context) error {
	a.mu.Lock()
	if a.running || a.ended {
		a.mu.Unlock()
		return errors.New("ipam: allocator runs once")
	}
	a.running = true
	a.core.start(a.now())
	a.unlock()

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { a.commitLoop(gctx); return nil })
	g.Go(func() error { a.sendLoop(gctx); return nil })
	err := g.Wait()

	a.mu.Lock()
	a.running, a.ended = false, true
	a.mu.Unlock()
	a.flush()
	a.mu.Lock()
	a.core.end()
	a.next.finish(ErrClosed) // nothing is dirty, or the store fails
	a.mu.Unlock()
	return err
}

func (a *Allocator) commitLoop(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			a.mu.Lock()
			a.core.tick(a.now())
			a.mu.Unlock()
		case <-a.kick:
			a.gather()
		}
		a.flush()
	}
}

// gather lets callers that are about to change something do so, as long as there are more of them: those whom the last
// commit has released mostly come back at once, and shall share the next one.
func (a *Allocator) gather() {
	if a.store == nil {
		return
	}
	for last := -1; ; {
		a.mu.Lock()
		n := len(a.core.dirty.addrs)
		a.mu.Unlock()
		if n == last || n >= maxGather {
			return
		}
		last = n
		runtime.Gosched()
	}
}

// flush stores what is dirty, in one commit, and then lets go what rests on it: answers, published state, messages.
func (a *Allocator) flush() {
	a.mu.Lock()
	c := a.core
	if !c.dirty.any() && c.out.empty() {
		a.mu.Unlock()
		return
	}
	b, changed := a.next, c.dirty.any()
	change, held := c.change()
	out := c.takeOut()
	v := c.view(a.published.Load())
	a.next, a.flight = newBatch(), b
	a.mu.Unlock()

	var err error
	if changed && a.store != nil {
		err = a.store.Commit(change)
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	a.flight = nil
	a.noteCommit(err)
	if err != nil {
		c.dirty.merge(held)
		out.add(c.out)
		c.out = out
		b.finish(fmt.Errorf("%w: %w", ErrStore, err))
		return
	}
	a.published.Store(v)
	a.hand(out)
	b.finish(nil)
}

// noteCommit logs when the store begins to fail, and when it ends.
func (a *Allocator) noteCommit(err error) {
	a.commits++
	if (err == nil) != (a.storeErr == nil) {
		if err != nil {
			a.core.log.Error("changes of addresses are not stored", "err", err)
		} else {
			a.core.log.Info("changes of addresses are stored again")
		}
	}
	a.storeErr = err
}

// hand gives messages to the send loop.
func (a *Allocator) hand(out outbox) {
	if out.empty() {
		return
	}
	if out.broadcast { // never blocks
		a.sender.Broadcast(live{a})
		out.broadcast = false
	}
	a.postMu.Lock()
	a.post.add(out)
	a.postMu.Unlock()
	signal(a.toSend)
}

// unlock ends a change: it wakes the commit loop if need be, and returns the batch that an answer has to wait for, nil if
// none. Without a store answers wait for nothing.
func (a *Allocator) unlock() *batch {
	defer a.mu.Unlock()
	b := a.pending()
	if a.store == nil {
		return nil
	}
	return b
}

// pending wakes the commit loop if need be, and returns the batch after which all that has happened so far is stored and
// published; nil if it is.
func (a *Allocator) pending() *batch {
	if a.core.dirty.any() || !a.core.out.empty() {
		signal(a.kick)
		return a.next
	}
	return a.flight
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait waits for the commit. A nil batch is done.
func (b *batch) wait(ctx context.Context) error {
	if b == nil {
		return nil
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *batch) finish(err error) {
	b.err = err
	close(b.done)
}

// wait waits until w is answered. If ctx ends first, w is given up, and the error says what was missing.
func (a *Allocator) wait(ctx context.Context, w *waiter) error {
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.answered && w.err != nil {
		return w.err
	}
	a.core.waiting.remove(w)
	if !a.core.hasRing() {
		return fmt.Errorf("%w: %w", ErrNoRing, ctx.Err())
	}
	switch why := a.core.hindered(againstGiving); {
	case !w.subnet.IsValid() || w.answered:
		return ctx.Err()
	case why != 0:
		return fmt.Errorf("%w: %v: %w", ErrNotGiving, why, ctx.Err())
	case a.core.inDoubt(w.owner, w.subnet):
		return fmt.Errorf("%w: it is not known yet whether an address that the owner had is still its own: %w", ErrNotGiving, ctx.Err())
	}
	return fmt.Errorf("%w: %w", ErrExhausted, ctx.Err())
}

// sendLoop sends what was handed to it.
func (a *Allocator) sendLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.toSend:
		}
		a.postMu.Lock()
		out := a.post
		a.post = outbox{}
		a.postMu.Unlock()
		a.send(ctx, out)
	}
}

// round is one go through what is to be sent. Peers that cannot be sent to must not hold up the others: none of them is tried
// again, and when the time for which we wait for all of them is over, those who are left are hardly waited for.
type round struct {
	slow map[peer.Name]error // who could not be sent to in time
	left time.Duration       // for all; each has leastWait in any case
}

// send sends, for which others wait, first.
func (a *Allocator) send(ctx context.Context, out outbox) {
	rd := &round{slow: make(map[peer.Name]error), left: sendTimeout}
	for _, r := range out.requests {
		a.ask(ctx, r, rd)
	}
	for _, d := range out.denials {
		_ = a.unicast(ctx, d.to, encodeUnicast(tagDenied, a.codec.encodeRange(d.want)), rd) // the asker repeats its request
	}
	for _, p := range named(out.updates) {
		_ = a.unicast(ctx, p, encodeUnicast(tagUpdate, a.encoded()), rd) // gossip brings it as well
	}
	if len(out.surveys) == 0 {
		return
	}
	ask := encodeUnicast(tagUpdate, a.codec.encodeState(state{now: a.now().Unix()}))
	for _, p := range named(out.surveys) {
		if a.unicast(ctx, p, ask, rd) != nil {
			a.mu.Lock()
			a.core.unanswered(p, a.now())
			a.mu.Unlock()
		}
	}
}

// ask sends a request to the first peer that it can be sent to.
func (a *Allocator) ask(ctx context.Context, r request, rd *round) {
	msg := encodeUnicast(tagRequest, a.codec.encodeRange(r.want))
	for _, p := range r.to {
		err := a.unicast(ctx, p, msg, rd)
		if err == nil {
			return
		}
		if r.claim && ctx.Err() == nil {
			a.mu.Lock()
			a.core.failClaims(p, r.want, err)
			a.mu.Unlock()
		}
	}
}

// unicast sends a message, unless that failed before in this round.
func (a *Allocator) unicast(ctx context.Context, to peer.Name, msg []byte, rd *round) error {
	if err := rd.slow[to]; err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, max(rd.left, leastWait))
	defer cancel()
	begun := time.Now()
	err := a.sender.Unicast(ctx, to, msg)
	rd.left -= time.Since(begun)
	if err != nil && ctx.Err() != nil {
		rd.slow[to] = err
	}
	return err
}

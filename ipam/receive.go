package ipam

import (
	"context"
	"fmt"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// receiver is the allocator as the carrier sees it. An error it returns is about one message, and stops nothing.
type receiver struct{ a *Allocator }

var _ gossip.Receiver = receiver{}

// OnUnicast implements [gossip.Receiver] (section 2.7).
func (r receiver) OnUnicast(from peer.Name, msg []byte) error {
	if len(msg) == 0 {
		return fmt.Errorf("ipam: message from %v: %w", from, errEmpty)
	}
	switch tag, body := msg[0], msg[1:]; tag {
	case tagUpdate:
		s, err := r.a.codec.decodeState(body)
		if err != nil {
			return err
		}
		_, err = r.a.receive(from, s)
		return err
	case tagRequest, tagDenied:
		want, err := r.a.codec.decodeRange(body)
		if err != nil {
			return err
		}
		return r.a.change(func(c *core) {
			if tag == tagRequest {
				c.asked(from, want, r.a.now())
				return
			}
			c.denied(from, want, r.a.now())
			c.retry(r.a.now())
		})
	}
	return nil // a message of the future
}

// OnBroadcast implements [gossip.Receiver]. What is passed on is our state with the news in it; so it waits until that
// is stored.
func (r receiver) OnBroadcast(from peer.Name, msg []byte) (gossip.Data, error) {
	s, err := r.a.codec.decodeState(msg)
	if err != nil {
		return nil, err
	}
	b, err := r.a.receive(from, s)
	if err != nil {
		return nil, err
	}
	if err := b.wait(context.Background()); err != nil { // Run finishes every batch
		return nil, err
	}
	return live(r), nil
}

// OnGossip implements [gossip.Receiver]. Nothing is passed on: every peer sends its state at intervals.
func (r receiver) OnGossip(msg []byte) (gossip.Data, error) {
	s, err := r.a.codec.decodeState(msg)
	if err != nil {
		return nil, err
	}
	_, err = r.a.receive(0, s)
	return nil, err
}

// OnPeerGone implements [gossip.Receiver].
func (r receiver) OnPeerGone(name peer.Name) {
	_ = r.a.change(func(c *core) { // if Run does not run, there is nothing to forget
		c.forgetNicknames()
		delete(c.faults, name)
		c.unanswered(name, r.a.now())
	})
}

// State implements [gossip.Receiver].
func (r receiver) State() gossip.Data { return live(r) }

// change applies f to the core, while Run runs.
func (a *Allocator) change(f func(*core)) error {
	a.mu.Lock()
	if !a.running {
		a.mu.Unlock()
		return ErrNotRunning
	}
	f(a.core)
	a.unlock()
	return nil
}

// receive merges a state. from is 0 if the sender is not known. The batch is done when the result is published.
func (a *Allocator) receive(from peer.Name, s state) (*batch, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.running {
		return nil, ErrNotRunning
	}
	err := a.core.receive(from, s, a.now())
	return a.pending(), err
}

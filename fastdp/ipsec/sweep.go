package ipsec

import (
	"errors"
	"fmt"
	"time"
)

// counters are what the protector counts.
type counters struct {
	adopted, repaired, removed uint64
	sweepErr                   error
}

// step does what is due, and returns after how long there is more.
func (g *Protector) step(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := g.expire(now)
	if !now.Before(g.sweepAt) {
		g.swept, g.sweepAt = now, now.Add(g.cfg.Sweep)
		g.counters.sweepErr = g.sweep(now)
		if g.counters.sweepErr != nil {
			g.warn("comparing", g.counters.sweepErr)
		}
	}
	next = earliest(next, g.sweepAt)
	for _, p := range g.pairs {
		for _, t := range p.open {
			next = earliest(next, t.rekey(now))
		}
	}
	return max(0, next.Sub(now))
}

// sweep compares the kernel with what ought to be in it, and repairs.
func (g *Protector) sweep(now time.Time) error {
	policies, associations, err := g.cfg.Kernel.List()
	if err != nil {
		return err
	}
	err = g.sweepPolicies(policies)
	g.sweepAssociations(associations)
	for _, p := range g.pairs {
		for _, t := range p.open {
			t.repair(now)
		}
	}
	return err
}

// sweepPolicies puts back what is missing, the blocks first, and removes what nobody needs.
func (g *Protector) sweepPolicies(list []Policy) error {
	have := map[policyID]Policy{}
	for _, p := range list {
		if have[p.id()] = p; !g.ports[p.Port] {
			continue
		}
		if _, ok := g.policies[p.id()]; !ok {
			g.counters.removed++
			g.warn("removing a policy", gone(g.cfg.Kernel.DeletePolicy(p)))
		}
	}
	var errs []error
	for _, blocks := range []bool{true, false} {
		for id, want := range g.policies {
			if (want.Action == Block) != blocks || have[id] == want {
				continue
			}
			g.counters.repaired++
			g.cfg.Log.Warn("a policy was changed by others, and is put back", "action", want.Action, "direction", want.Direction, "to", want.Dst, "port", want.Port)
			errs = append(errs, g.cfg.Kernel.PutPolicy(want))
		}
	}
	return errors.Join(errs...)
}

// sweepAssociations forgets what is missing, counts what was carried, and removes what nobody needs.
func (g *Protector) sweepAssociations(list []Association) {
	have := map[associationID]Association{}
	for _, a := range list {
		if have[a.id()] = a; !g.ports[a.Port] {
			continue
		}
		if _, ok := g.associations[a.id()]; !ok {
			g.counters.removed++
			g.warn("removing an association", gone(g.cfg.Kernel.DeleteAssociation(a)))
		}
	}
	for id, a := range g.associations {
		if k, ok := have[id]; ok {
			a.Packets, a.Bytes = k.Packets, k.Bytes
		} else {
			delete(g.associations, id)
		}
	}
}

// has reports whether an association is in the kernel.
func (g *Protector) has(a *association) bool { return a != nil && g.associations[a.id()] == a }

// repair makes up for associations that are gone, and lets the one go that is not used any more.
func (p *Protection) repair(now time.Time) {
	if p.t.Key == nil || p.err != nil {
		return
	}
	if p.old != nil && p.in.Packets > 0 {
		retire(p.old, now.Add(p.g.cfg.Grace))
	}
	if !p.g.has(p.old) {
		p.old = nil
	}
	err := p.repairInbound(now)
	if err == nil {
		err = p.repairOutbound(now)
	}
	if err != nil {
		p.fail(err)
	}
}

// repairInbound announces a new key if the one before is gone.
func (p *Protection) repairInbound(now time.Time) error {
	switch {
	case p.g.has(p.in):
		return nil
	case !p.t.Rekeys && now.Sub(p.made) < repairGap:
		return ErrLost // for a second time: someone is at work there
	case p.t.Rekeys && now.Sub(p.made) < renewGap:
		return nil // the next sweep
	}
	p.g.counters.repaired++
	p.g.cfg.Log.Warn("an association was deleted by others; there is a new one", "from", p.t.RemoteAddr)
	return p.announce(0, now)
}

// repairOutbound asks for a new key if the one before is gone; it cannot be put back.
func (p *Protection) repairOutbound(now time.Time) error {
	if !p.ready || p.g.has(p.out) {
		return nil
	}
	if !p.t.Rekeys {
		return ErrLost
	}
	if p.out != nil {
		if p.pair.out == p.out {
			p.pair.out = nil
		}
		p.out = nil
		if err := p.g.apply(p.pair); err != nil {
			return err
		}
	}
	if now.Sub(p.asked) < renewGap {
		return nil
	}
	p.asked = now
	p.g.counters.repaired++
	p.g.cfg.Log.Warn("an association was deleted by others; the other end is asked for a new one", "to", p.t.RemoteAddr)
	return p.renew(flagRenew, now)
}

// rekey changes the key of what is sent to us if it is time, and returns when it is.
func (p *Protection) rekey(now time.Time) (next time.Time) {
	if p.t.Key == nil || p.err != nil || p.old != nil || !p.ready {
		return time.Time{}
	}
	after := p.g.cfg.RekeyAfter
	if !p.t.Rekeys {
		after = max(after, oldWireRekey)
	}
	due := p.made.Add(after)
	full := p.in.Packets >= p.g.cfg.RekeyPackets && (p.t.Rekeys || now.Sub(p.made) >= oldWireRekey)
	if now.Before(due) && !full {
		return due
	}
	if err := p.renew(0, now); err != nil {
		p.fail(fmt.Errorf("ipsec: new key for the tunnel from %s: %w", p.t.RemoteAddr, err))
	}
	return time.Time{}
}

package ipsec

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// tuple is what kernel state is about: there is one set of policies for it, whoever the peer is.
type tuple struct {
	local, remote netip.Addr
	port          uint16
}

func (t tuple) compare(o tuple) int {
	return cmp.Or(t.local.Compare(o.local), t.remote.Compare(o.remote), cmp.Compare(t.port, o.port))
}

// selector is that of packets in a direction.
func (t tuple) selector(d Direction) Selector {
	single := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	if d == In {
		return Selector{Src: single(t.remote), Dst: single(t.local), Port: t.port}
	}
	return Selector{Src: single(t.local), Dst: single(t.remote), Port: t.port}
}

// pair is the state of one tuple: the tunnels over it, of which the youngest counts, and what is left of closed ones.
//
// Which action the policies have:
//
//	open tunnels      encrypted: ESP      only clear ones: Clear      none: held, that of the last one that closed
//	hold is over      the policies go, and what they left is blocked
type pair struct {
	tuple
	reqID uint32
	open  []*Protection // the oldest first
	held  Action        // Block: nothing is held
	until time.Time     // end of the hold, while none is open
	out   *association  // that the policy for the way out names; may be that of a closed tunnel
}

// association is one that is in the kernel.
type association struct {
	Association
	expires time.Time // zero: not as things stand
}

// pair returns the state of a tuple, new if need be.
func (g *Protector) pair(id tuple) *pair {
	p := g.pairs[id]
	if p == nil {
		p = &pair{tuple: id, reqID: g.freeReqID()}
		g.pairs[id] = p
	}
	return p
}

func (g *Protector) freeReqID() uint32 {
	taken := map[uint32]bool{}
	for _, p := range g.pairs {
		taken[p.reqID] = true
	}
	for range reqIDs {
		g.lastReqID = (g.lastReqID + 1) % reqIDs
		if !taken[firstReqID+g.lastReqID] {
			break
		}
	}
	return firstReqID + g.lastReqID // taken if all are, without harm: associations are bound to addresses too
}

// action is what is to become of packets of the pair.
func (p *pair) action() Action {
	if len(p.open) == 0 {
		return p.held
	}
	if slices.ContainsFunc(p.open, func(t *Protection) bool { return t.t.Key != nil }) {
		return ESP
	}
	return Clear
}

// outbound is the association to send with: that of the youngest tunnel that has one, or else what is used now.
func (p *pair) outbound() *association {
	for _, t := range slices.Backward(p.open) {
		if t.out != nil {
			return t.out
		}
	}
	return p.out
}

// apply brings the policies of a pair in line with its tunnels.
func (g *Protector) apply(p *pair) error {
	policy := Policy{Action: p.action()}
	if policy.Action == ESP {
		policy.ReqID = p.reqID
	}
	var errs []error
	for _, d := range []Direction{In, Out} {
		policy.Direction, policy.Selector = d, p.selector(d)
		if policy.Action == Block {
			errs = append(errs, g.drop(policy))
			continue
		}
		p.out = p.outbound()
		if d == Out && policy.Action == ESP && p.out != nil {
			policy.SPI = p.out.SPI
		}
		errs = append(errs, g.put(policy))
	}
	return errors.Join(errs...)
}

// forget removes a pair without open tunnels, policies first.
func (g *Protector) forget(p *pair) error {
	p.held, p.out = Block, nil
	err := g.apply(p)
	for _, a := range g.associations {
		if a.ReqID == p.reqID && g.pairOf(a) == p {
			if rerr := g.remove(a); err == nil {
				err = rerr
			}
		}
	}
	delete(g.pairs, p.tuple)
	return err
}

// pairOf finds the pair of an association.
func (g *Protector) pairOf(a *association) *pair {
	if p := g.pairs[tuple{a.Src.Addr(), a.Dst.Addr(), a.Port}]; p != nil {
		return p
	}
	return g.pairs[tuple{a.Dst.Addr(), a.Src.Addr(), a.Port}]
}

// retire has an association go after a while.
func retire(a *association, at time.Time) {
	if a != nil && a.expires.IsZero() {
		a.expires = at
	}
}

// expire removes what is due, and returns when the next is.
func (g *Protector) expire(now time.Time) (next time.Time) {
	for _, a := range g.associations {
		switch {
		case a.expires.IsZero():
		case now.Before(a.expires):
			next = earliest(next, a.expires)
		default:
			g.expireAssociation(a)
		}
	}
	for _, p := range g.pairs {
		switch {
		case len(p.open) > 0:
		case now.Before(p.until):
			next = earliest(next, p.until)
		default:
			g.warn("end of a hold", g.forget(p))
		}
	}
	return next
}

// expireAssociation removes one; the policy that names it stops to do so first.
func (g *Protector) expireAssociation(a *association) {
	if p := g.pairOf(a); p != nil && p.out == a {
		p.out = nil
		g.warn("end of an association", g.apply(p))
	}
	g.warn("end of an association", g.remove(a))
}

func (g *Protector) warn(what string, err error) {
	if err != nil {
		g.cfg.Log.Warn("IPsec in the kernel is left as it is", "at", what, "err", err)
	}
}

// earliest is the earlier of two times, of which zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

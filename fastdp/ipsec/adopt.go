package ipsec

import "time"

// adopt takes over what a former run left for a port: it is kept for the hold, so that traffic goes on until new tunnels have
// taken their places.
func (g *Protector) adopt(port uint16, now time.Time) error {
	policies, associations, err := g.cfg.Kernel.List()
	if err != nil {
		return err
	}
	end := now.Add(g.cfg.Hold)
	spis := map[*pair]uint32{}
	for _, p := range policies {
		if p.Port != port || p.Action == Block || !p.Src.IsSingleIP() || !p.Dst.IsSingleIP() {
			continue
		}
		pair := g.adoptPolicy(p, end)
		if p.Direction == Out {
			spis[pair] = p.SPI
		}
	}
	for _, a := range associations {
		if a.Port != port {
			continue
		}
		known := &association{Association: a, expires: end}
		p := g.pairOf(known)
		if p == nil || p.reqID != a.ReqID {
			g.counters.removed++ // no policy is for it
			g.warn("removing an association", gone(g.cfg.Kernel.DeleteAssociation(a)))
			continue
		}
		g.counters.adopted++
		g.associations[a.id()] = known
		if a.Selector == p.selector(Out) && spis[p] == a.SPI {
			p.out = known
		}
	}
	g.expire(now)
	return nil
}

// adoptPolicy takes over a policy, and returns the pair that it is for.
func (g *Protector) adoptPolicy(p Policy, end time.Time) *pair {
	id := tuple{p.Src.Addr(), p.Dst.Addr(), p.Port}
	if p.Direction == In {
		id.local, id.remote = id.remote, id.local
	}
	pair := g.pair(id)
	pair.until = end
	if p.Action == ESP {
		pair.reqID = p.ReqID
	}
	pair.held = max(pair.held, p.Action) // ESP goes before Clear, should a crash have left both
	g.policies[p.id()] = p
	g.counters.adopted++
	return pair
}

package dnsserver

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// race is one query at several upstreams.
type race struct {
	f       *forwarder
	e       *exchange
	servers []netip.AddrPort

	asked []time.Time        // of the first servers, when
	heard [maxUpstreams]bool // of which there is a result
	best  result             // so far
	err   error              // the last one
}

// worth is how much an answer settles.
type worth uint8

const (
	failed    worth = iota // no answer
	unwilling              // an error that another upstream need not have: the last resort
	nothing                // the name, or such a record of it, does not exist
	found
)

func worthOf(m *dns.Msg) worth {
	switch {
	case m.Rcode == dns.RcodeNameError, m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && !m.Truncated:
		return nothing
	case m.Rcode == dns.RcodeSuccess:
		return found
	}
	return unwilling
}

// run asks one upstream after the other, each as soon as the one before has failed or its head start is over, until there
// is an answer that counts. That something does not exist counts when all upstreams before have been heard, or after half
// of the timeout more: the first may know names that the others do not.
func (r *race) run(parent context.Context) {
	ctx, cancel := context.WithTimeout(parent, r.f.timeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	results := make(chan result, len(r.servers))
	turn := time.NewTimer(0)
	defer turn.Stop()
	var enough <-chan time.Time
	for left := len(r.servers); left > 0 && !r.settled(); {
		select {
		case <-turn.C:
			if i := len(r.asked); i < len(r.servers) {
				r.asked = append(r.asked, time.Now())
				wg.Go(func() { results <- r.f.ask(ctx, r.e, r.servers[i], i) })
				turn.Reset(r.f.headStart)
			}
		case res := <-results:
			left--
			r.note(res, ctx.Err() != nil)
			switch {
			case res.worth <= unwilling:
				turn.Reset(0)
			case enough == nil:
				enough = time.After(r.f.timeout / 2)
			}
		case <-enough:
			left = 0
		}
	}
	if parent.Err() == nil {
		r.blame()
	}
}

// settled reports whether the best answer counts.
func (r *race) settled() bool {
	switch r.best.worth {
	case found:
		return true
	case nothing:
		for _, heard := range r.heard[:r.best.place] {
			if !heard {
				return false
			}
		}
		return true
	}
	return false
}

// note takes a result in. late says that it is none but the end of the time.
func (r *race) note(res result, late bool) {
	r.heard[res.place] = !late || res.worth != failed
	server := r.servers[res.place]
	switch {
	case res.worth != failed:
		r.f.standing.answered(server)
	case !late:
		r.f.standing.missed(server, time.Now())
	}
	if res.worth == failed {
		r.err = fmt.Errorf("%v: %w", server, res.err)
	}
	if res.worth > r.best.worth || res.worth == r.best.worth && res.place < r.best.place {
		r.best = res
	}
}

// blame notes who has said nothing although there was time to. Who merely lost the race is not among them.
func (r *race) blame() {
	now := time.Now()
	for i, asked := range r.asked {
		if !r.heard[i] && now.Sub(asked) >= r.f.headStart {
			r.f.standing.missed(r.servers[i], now)
		}
	}
}

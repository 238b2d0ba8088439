package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// deniedFor is how long a peer that has nothing to give for a range is not asked again.
const deniedFor = 30 * time.Second

// waiting are the calls that cannot be answered yet, each kind in order of arrival. They are tried again when the ring
// changes, and every tick.
type waiting struct {
	primes []*waiter
	claims []*waiter
	allocs []*waiter
	denied map[denial]time.Time // who had nothing to give for what, and until when that counts
}

// waiter is one call that waits.
type waiter struct {
	owner    string
	subnet   netip.Prefix // what to allocate from
	addr     netip.Prefix // what to claim
	unsent   int          // how often the request could not be sent
	adopted  bool         // a claim of the start, for which nobody waits
	doubt    bool         // a claim of what we had before a long absence; adopted as well
	answered bool
	result   netip.Prefix
	err      error
	done     chan struct{} // closed when answered
}

func newWaiter(owner string) *waiter { return &waiter{owner: owner, done: make(chan struct{})} }

func (w *waiter) answer(p netip.Prefix, err error) {
	if !w.answered {
		w.answered, w.result, w.err = true, p, err
		close(w.done)
	}
}

func (q *waiting) len() int { return len(q.primes) + len(q.claims) + len(q.allocs) }

// remove takes out a call that is given up.
func (q *waiting) remove(w *waiter) {
	for _, list := range []*[]*waiter{&q.primes, &q.claims, &q.allocs} {
		if i := slices.Index(*list, w); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// fail answers all calls with err.
func (q *waiting) fail(err error) {
	for _, list := range [][]*waiter{q.primes, q.claims, q.allocs} {
		for _, w := range list {
			w.answer(netip.Prefix{}, err)
		}
	}
	q.primes, q.claims, q.allocs = nil, nil, nil
}

// deny notes that from has nothing to give for want.
func (q *waiting) deny(from peer.Name, want addr.Range, now time.Time) {
	if q.denied == nil {
		q.denied = make(map[denial]time.Time)
	}
	for d, until := range q.denied {
		if now.After(until) || len(q.denied) >= maxDenials {
			delete(q.denied, d)
		}
	}
	q.denied[denial{from, want}] = now.Add(deniedFor)
}

// open drops what is answered from a list.
func open(list []*waiter) []*waiter {
	return slices.DeleteFunc(list, func(w *waiter) bool { return w.answered })
}

// retry tries everything that waits: primes, then claims, then allocations.
func (c *core) retry(now time.Time) {
	q := &c.waiting
	if q.len() == 0 {
		return
	}
	if !c.hasRing() {
		c.startVote()
	}
	if !c.hasRing() {
		return
	}
	for _, w := range q.primes {
		w.answer(netip.Prefix{}, nil)
	}
	q.primes = nil
	for _, w := range q.claims {
		c.tryClaim(w)
	}
	q.claims = open(q.claims)
	hopeless := make(map[netip.Prefix]bool) // an attempt for the same subnet has just failed
	for _, w := range q.allocs {
		if !hopeless[w.subnet] {
			c.tryAllocate(w, now)
			hopeless[w.subnet] = !w.answered
		}
	}
	q.allocs = open(q.allocs)
}

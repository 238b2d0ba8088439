package ipam

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// deniedFor is how long a peer that has nothing to give for a range is not asked again, deniedLeast how long it is not even if it
// tells of more free addresses: that is the pace at which Weave Net asks.
const (
	deniedFor   = 30 * time.Second
	deniedLeast = 5 * time.Second
)

// waiting are the calls that cannot be answered yet, each kind in order of arrival. They are tried again when the ring
// changes, and every tick.
type waiting struct {
	primes []*waiter
	claims []*waiter
	allocs []*waiter
	denied map[denial]refusal      // who had nothing to give for what
	asked  map[peer.Name]time.Time // who was asked for space and has not answered, since when
}

// refusal is for how long a denial counts, at most.
type refusal struct {
	until time.Time
	free  uint64 // the least that the peer has told of since; if it tells of more, it has got some
}

// waiter is one call that waits.
type waiter struct {
	owner    string
	subnet   netip.Prefix // what to allocate from
	addr     netip.Prefix // what to claim
	unsent   int          // how often the request could not be sent
	adopted  bool         // a claim of the start, for which nobody waits
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

// deny notes that d.to has nothing to give for d.want.
func (q *waiting) deny(d denial, now time.Time) {
	if q.denied == nil {
		q.denied = make(map[denial]refusal)
	}
	for old, r := range q.denied {
		if now.After(r.until) || len(q.denied) >= maxDenials {
			delete(q.denied, old)
		}
	}
	q.denied[d] = refusal{until: now.Add(deniedFor), free: math.MaxUint64}
}

// hear compares denials of want with what peers tell of free addresses there: those end of who tells of more than before.
func (q *waiting) hear(want addr.Range, donors []ring.Donor, now time.Time) {
	told := make(map[peer.Name]uint64, len(donors))
	for _, d := range donors {
		told[d.Peer] = d.Free
	}
	for d, r := range q.denied {
		switch free := told[d.to]; {
		case d.want != want:
		case free > r.free && now.Sub(r.until) >= deniedLeast-deniedFor:
			delete(q.denied, d)
		default:
			r.free = min(free, r.free)
			q.denied[d] = r
		}
	}
}

// ask notes that p is asked for space. After a time without an answer it is as good as any other again.
func (q *waiting) ask(p peer.Name, now time.Time) {
	maps.DeleteFunc(q.asked, func(_ peer.Name, at time.Time) bool { return now.Sub(at) >= deniedFor })
	if q.asked == nil {
		q.asked = make(map[peer.Name]time.Time)
	}
	if _, again := q.asked[p]; !again {
		q.asked[p] = now
	}
}

// silent reports whether p was asked for space a while ago and does not answer: it may not rely on its ring, or hangs.
func (q *waiting) silent(p peer.Name, now time.Time) bool {
	at, asked := q.asked[p]
	return asked && now.Sub(at) >= tick
}

// refused reports whether d counts.
func (q *waiting) refused(d denial, now time.Time) bool { return now.Before(q.denied[d].until) }

// open drops what is answered from a list.
func open(list []*waiter) []*waiter {
	return slices.DeleteFunc(list, func(w *waiter) bool { return w.answered })
}

// retry tries everything that waits: what is in doubt, then primes, claims, and allocations.
func (c *core) retry(now time.Time) {
	c.settleDoubts()
	q := &c.waiting
	if q.len() == 0 {
		return
	}
	if !c.hasRing() {
		c.startVote(now)
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
	hopeless := make(map[netip.Prefix]bool) // there was nothing left of the subnet for somebody before
	for _, w := range q.allocs {
		if !hopeless[w.subnet] && !c.inDoubt(w.owner, w.subnet) {
			c.tryAllocate(w, now)
			hopeless[w.subnet] = !w.answered
		}
	}
	q.allocs = open(q.allocs)
}

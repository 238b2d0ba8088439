package ipam

import (
	"maps"
	"slices"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// Bounds of the outbox. What does not fit is left out: requests are repeated at the next tick, an asker that hears no
// denial asks again, and rings travel by gossip as well.
const (
	maxRequests = 4096
	maxDenials  = 1024
	maxUpdates  = 1024
	maxSurveys  = 1024
)

// outbox gathers what is to be sent, after what it rests on is stored. The zero outbox is empty.
type outbox struct {
	broadcast bool                   // our state to everyone
	denials   []denial               // tag 2, each followed by an update
	updates   map[peer.Name]struct{} // tag 1: our state
	surveys   map[peer.Name]struct{} // tag 1: a state that asks for theirs
	requests  []request              // tag 0
	asked     map[addr.Range]int     // index in requests
}

type denial struct {
	to   peer.Name
	want addr.Range
}

// request asks for space: the first peer that it can be sent to.
type request struct {
	want  addr.Range
	to    []peer.Name
	claim bool // a claim waits for it, and wants to know if it cannot be sent
}

func (o *outbox) empty() bool {
	return !o.broadcast && len(o.denials) == 0 && len(o.updates) == 0 && len(o.surveys) == 0 && len(o.requests) == 0
}

func (o *outbox) update(to peer.Name) { o.updates = include(o.updates, to, maxUpdates) }

func (o *outbox) survey(to peer.Name) { o.surveys = include(o.surveys, to, maxSurveys) }

// include puts a peer into a set, as long as that has room.
func include(set map[peer.Name]struct{}, p peer.Name, most int) map[peer.Name]struct{} {
	if set == nil {
		set = make(map[peer.Name]struct{})
	}
	if len(set) < most {
		set[p] = struct{}{}
	}
	return set
}

func (o *outbox) deny(to peer.Name, want addr.Range) {
	if len(o.denials) < maxDenials {
		o.denials = append(o.denials, denial{to, want})
	}
	o.update(to)
}

// request adds r, unless the same is asked for already.
func (o *outbox) request(r request) {
	if i, ok := o.asked[r.want]; ok {
		o.requests[i].claim = o.requests[i].claim || r.claim
		return
	}
	if len(o.requests) >= maxRequests {
		return
	}
	if o.asked == nil {
		o.asked = make(map[addr.Range]int)
	}
	o.asked[r.want] = len(o.requests)
	o.requests = append(o.requests, r)
}

// add puts what a later outbox holds behind what this one holds.
func (o *outbox) add(later outbox) {
	o.broadcast = o.broadcast || later.broadcast
	for _, d := range later.denials {
		o.deny(d.to, d.want)
	}
	for _, p := range named(later.updates) {
		o.update(p)
	}
	for _, p := range named(later.surveys) {
		o.survey(p)
	}
	for _, r := range later.requests {
		o.request(r)
	}
}

// named lists a set of peers, by name.
func named(set map[peer.Name]struct{}) []peer.Name { return slices.Sorted(maps.Keys(set)) }

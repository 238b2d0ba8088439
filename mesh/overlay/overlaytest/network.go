package overlaytest

import (
	"fmt"
	"slices"
	"sync"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Network is the medium under in-memory overlays. It joins the two links that were prepared for one connection in overlays
// of one name, and carries their frames without loss or delay until told otherwise. It is safe for concurrent use.
type Network struct {
	mu    sync.Mutex // guards all below and the state of links; no call leaves the package while it is held
	wires map[wireID][]*link
	cuts  map[direction]bool
}

// wireID names what ties the two ends together.
type wireID struct {
	overlay string
	connUID uint64
}

// direction is one way between two peers in one overlay.
type direction struct {
	overlay  string
	from, to peer.Name
}

// NewNetwork makes an empty network.
func NewNetwork() *Network {
	return &Network{wires: map[wireID][]*link{}, cuts: map[direction]bool{}}
}

// Overlay returns the overlay called name at the peer self. Overlays of one name reach each other.
func (n *Network) Overlay(self peer.Name, name string) *Overlay {
	return &Overlay{net: n, self: self, name: name}
}

// Overlay is the in-memory overlay of one peer. It is safe for concurrent use.
type Overlay struct {
	net  *Network
	self peer.Name
	name string
}

var _ overlay.Overlay = (*Overlay)(nil)

// Name implements [overlay.Overlay].
func (o *Overlay) Name() string { return o.name }

// Prepare implements [overlay.Overlay]. It fails if the network has two ends of that connection already.
func (o *Overlay) Prepare(p overlay.Params) (overlay.Link, error) {
	if p.Self != o.self {
		return nil, fmt.Errorf("overlaytest: overlay of %s prepared for %s", o.self, p.Self)
	}
	n, id := o.net, wireID{o.name, p.ConnUID}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.wires[id]) == 2 || slices.ContainsFunc(n.wires[id], func(l *link) bool { return l.params.Remote != o.self }) {
		return nil, fmt.Errorf("overlaytest: connection %d has no place for %s", p.ConnUID, o.self)
	}
	l := newLink(o, p)
	n.wires[id] = append(n.wires[id], l)
	n.probe(id)
	l.running.Go(l.run)
	return l, nil
}

// Cut loses everything that this overlay sends to a peer from now on; what comes from there still arrives.
func (o *Overlay) Cut(to peer.Name) { o.setCut(to, true) }

// Heal ends what Cut began.
func (o *Overlay) Heal(to peer.Name) { o.setCut(to, false) }

func (o *Overlay) setCut(to peer.Name, cut bool) {
	o.net.mu.Lock()
	defer o.net.mu.Unlock()
	o.net.cuts[direction{o.name, o.self, to}] = cut
	for id := range o.net.wires {
		o.net.probe(id)
	}
}

// Hold puts the links to a peer on hold, for the reason err. They report it, and carry frames all the same.
func (o *Overlay) Hold(to peer.Name, err error) {
	o.tell(to, overlay.Event{Kind: overlay.OnHold, Err: err})
}

// Release makes the links to a peer healthy again.
func (o *Overlay) Release(to peer.Name) { o.tell(to, overlay.Event{Kind: overlay.Healthy}) }

// Fail makes the links to a peer fail, for the reason err.
func (o *Overlay) Fail(to peer.Name, err error) {
	o.tell(to, overlay.Event{Kind: overlay.Failed, Err: err})
}

// tell has every confirmed link to a peer report an event.
func (o *Overlay) tell(to peer.Name, e overlay.Event) {
	o.net.mu.Lock()
	defer o.net.mu.Unlock()
	for id, ends := range o.net.wires {
		for _, l := range ends {
			if id.overlay == o.name && l.params.Self == o.self && l.params.Remote == to {
				l.event(e)
			}
		}
	}
}

// Links returns how many links of this overlay are open.
func (o *Overlay) Links() int {
	o.net.mu.Lock()
	defer o.net.mu.Unlock()
	count := 0
	for id, ends := range o.net.wires {
		if id.overlay == o.name && slices.ContainsFunc(ends, func(l *link) bool { return l.params.Self == o.self }) {
			count++
		}
	}
	return count
}

// probe lets the two ends of a wire find each other, as real ones do with heartbeats: an end that is confirmed is heard by
// the other, and an end that has heard and is confirmed itself says so with a control message. The caller holds mu.
func (n *Network) probe(id wireID) {
	for _, l := range n.wires[id] {
		other := n.otherEnd(l)
		if other == nil || !other.confirmed || !n.carries(other) || !l.confirmed || l.answered {
			continue
		}
		l.answered = true
		l.queueLocked(func() { _ = l.params.SendControl(tagHeard, nil) })
	}
}

// otherEnd returns the link at the other end of l, or nil.
func (n *Network) otherEnd(l *link) *link {
	for _, other := range n.wires[l.id] {
		if other != l {
			return other
		}
	}
	return nil
}

// carries reports whether what l sends arrives.
func (n *Network) carries(l *link) bool {
	return !n.cuts[direction{l.id.overlay, l.params.Self, l.params.Remote}]
}

// remove takes l off its wire.
func (n *Network) remove(l *link) {
	ends := slices.DeleteFunc(n.wires[l.id], func(x *link) bool { return x == l })
	n.wires[l.id] = ends
	if len(ends) == 0 {
		delete(n.wires, l.id)
	}
}

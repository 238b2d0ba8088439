package overlay

import (
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// spanningTree is the group address of bridge protocol frames, which never leave a host.
var spanningTree = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00}

// Decision is where one frame goes. A Decision depends on the addresses of the frame, the routes, the MAC table and the
// memberships of groups alone, so a carrier may keep it for further frames until one of those changes. Decisions
// for frames of [IsMembership] must not be kept.
type Decision struct {
	// Local: the frame goes to the stations of this host.
	Local bool
	// Source is the peer at which the frame entered the overlay; it goes with every copy.
	Source peer.Name
	// Hop is the neighbour to which the frame goes for delivery at Dst; zero if it is not forwarded to a single peer.
	Hop, Dst peer.Name
	// Flood lists the neighbours that get a copy each, for delivery there and further spreading. It is not to be changed.
	Flood []peer.Name
	// Drop says why the frame goes nowhere; DropNone if it goes somewhere.
	Drop DropReason
}

// DropReason is why a frame goes nowhere. Not all reasons are faults: a frame between two stations of one host has
// nothing to do in the overlay.
type DropReason uint8

const (
	DropNone     DropReason = iota
	DropShort               // no Ethernet header
	DropSpanning            // bridge protocol frame
	DropLocal               // both stations are on this host
	DropForeign             // captured here, but its source station is known at another peer
	DropNoRoute             // the destination peer is out of reach
	DropNobody              // to be flooded, but there is no neighbour to flood to
	DropNoLink              // the next hop has no link, or not any more
	DropNoMember            // to a group, but no neighbour leads to a member; or a report of members, but none to a router
	DropOwn                 // came from a neighbour, which says that it entered the overlay here: a loop, or a lie
	numDropReasons
)

var dropNames = [numDropReasons]string{
	"none", "short", "spanning_tree", "local", "foreign_source", "no_route", "no_neighbour", "no_link", "no_member", "own_source",
}

// String returns the name of the reason in status reports and metrics.
func (d DropReason) String() string { return dropNames[d] }

// Forwarder decides where frames go, and over which links. It is safe for concurrent use; deciding takes no lock, except to
// note a station that is new or has moved.
//
// Whoever keeps decisions, as a datapath does that has them in the kernel, watches for what makes them void: [Forwarder.Watch].
type Forwarder struct {
	self     peer.Name
	view     atomic.Pointer[view]
	macs     macTable
	links    linkTable
	watchers watchers
	snooper  snooper
}

// NewForwarder returns a Forwarder for the peer self, with no routes and no stations.
func NewForwarder(self peer.Name) *Forwarder {
	f := &Forwarder{self: self}
	f.snooper.due = make(chan struct{}, 1)
	f.view.Store(newView(self, noRoutes{}, nil, map[MAC][]peer.Name{}))
	f.macs.changed = func(m MAC) { f.watchers.tell(Change{Station: m}) }
	return f
}

type noRoutes struct{}

func (noRoutes) NextHop(peer.Name) (peer.Name, bool)             { return 0, false }
func (noRoutes) Flood(peer.Name) []peer.Name                     { return nil }
func (noRoutes) FloodHop(peer.Name, peer.Name) (peer.Name, bool) { return 0, false }
func (noRoutes) Peers() []peer.Name                              { return nil }
func (noRoutes) ShortID(peer.Name) (peer.ShortID, bool)          { return 0, false }
func (noRoutes) Named(peer.ShortID) (peer.Name, bool)            { return 0, false }

// Self returns the peer for which it decides.
func (f *Forwarder) Self() peer.Name { return f.self }

// Routes returns the routes in use.
func (f *Forwarder) Routes() Routes { return f.view.Load().routes }

// SetRoutes makes r the routes for all decisions from now on.
func (f *Forwarder) SetRoutes(r Routes) {
	f.snooper.mu.Lock()
	f.view.Store(f.view.Load().withRoutes(r))
	f.snooper.mu.Unlock()
	f.watchers.tell(Change{})
}

// Watch has changed called after each change that decisions depend on, until stop is called; a call may still be under way
// then. Calls come from any goroutine, several at once, and must not block.
func (f *Forwarder) Watch(changed func(Change)) (stop func()) { return f.watchers.add(changed) }

// Link returns the link over which frames go to a neighbour that entered the overlay at src and are to leave it at dst; nil
// if there is none.
func (f *Forwarder) Link(hop, src, dst peer.Name) Link {
	b := f.links.get(hop)
	if b == nil {
		return nil
	}
	if m := b.pick(src, dst); m != nil {
		return m.link
	}
	return nil
}

// linksChanged tells those who keep decisions that frames may now go over other links.
func (f *Forwarder) linksChanged() { f.watchers.tell(Change{}) }

// Captured decides about a frame that a station of this host sent. It notes where the station is.
func (f *Forwarder) Captured(now time.Time, dst, src MAC) Decision {
	if !f.LearnLocal(now, src) {
		return Decision{Drop: DropForeign}
	}
	return f.Outbound(dst)
}

// LearnLocal notes that a station of this host has sent something. It returns false, and notes nothing, if the station was
// seen at another peer in the last ten seconds: its frames are then taken for our own that come back.
func (f *Forwarder) LearnLocal(now time.Time, src MAC) bool {
	return f.macs.learn(src, f.self, now, false)
}

// Outbound decides about a frame of a station of this host by its destination alone.
func (f *Forwarder) Outbound(dst MAC) Decision {
	if dst == spanningTree {
		return Decision{Drop: DropSpanning}
	}
	at, known := f.macs.lookup(dst)
	switch {
	case !known:
		return f.flood(Decision{Source: f.self}, dst)
	case at == f.self:
		return Decision{Drop: DropLocal}
	default:
		return f.relay(f.self, at)
	}
}

// Received decides about a frame that came from a neighbour, with the peers that its sender gave. It notes where the
// source station is if the frame is for this peer; relays learn nothing.
func (f *Forwarder) Received(now time.Time, srcPeer, dstPeer peer.Name, dst, src MAC) Decision {
	if dstPeer == f.self {
		f.LearnRemote(now, src, srcPeer)
	}
	return f.Inbound(srcPeer, dstPeer, dst)
}

// LearnRemote notes that a station has sent something that entered the overlay at another peer. The latest word holds; where our
// own stations are nobody tells us.
func (f *Forwarder) LearnRemote(now time.Time, src MAC, at peer.Name) {
	if at != f.self {
		f.macs.learn(src, at, now, true)
	}
}

// Inbound decides about a frame that came from a neighbour without regard to the station that sent it.
func (f *Forwarder) Inbound(srcPeer, dstPeer peer.Name, dst MAC) Decision {
	if srcPeer == f.self {
		return Decision{Drop: DropOwn}
	}
	if dstPeer != f.self {
		return f.relay(srcPeer, dstPeer)
	}
	d := Decision{Source: srcPeer, Local: true}
	if at, known := f.macs.lookup(dst); known && at == f.self {
		return d
	}
	return f.flood(d, dst)
}

func (f *Forwarder) relay(src, dst peer.Name) Decision {
	hop, ok := f.Routes().NextHop(dst)
	if !ok {
		return Decision{Drop: DropNoRoute}
	}
	return Decision{Source: src, Hop: hop, Dst: dst}
}

func (f *Forwarder) flood(d Decision, dst MAC) Decision {
	v := f.view.Load()
	d.Flood = v.flood(d.Source, dst)
	if len(d.Flood) > 0 || d.Local {
		return d
	}
	d.Drop = DropNobody
	if len(v.routes.Flood(d.Source)) > 0 {
		d.Drop = DropNoMember
	}
	return d
}

// Station returns the peer at which a station was last seen.
func (f *Forwarder) Station(m MAC) (at peer.Name, known bool) { return f.macs.lookup(m) }

// Expire forgets stations that were last seen more than MACAge before now.
func (f *Forwarder) Expire(now time.Time) {
	oldest := now.Add(-MACAge).UnixNano()
	f.macs.removeIf(func(st *station) bool { return st.seen.Load() < oldest })
}

// ForgetPeer forgets the stations of a peer that is gone.
func (f *Forwarder) ForgetPeer(name peer.Name) {
	f.macs.removeIf(func(st *station) bool { return st.peer == name })
}

// MACs lists the known stations in order of their addresses.
func (f *Forwarder) MACs() []MACEntry { return f.macs.list() }

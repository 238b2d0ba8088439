package overlay

import (
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// spanningTree is the group address of bridge protocol frames, which never leave a host.
var spanningTree = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00}

// Decision is where one frame goes. A Decision depends on the addresses of the frame, the routes and the MAC table alone,
// so a carrier may keep it for further frames until one of those changes.
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
	DropNoRoute             // the peer to deliver it is out of reach
	DropNobody              // to be flooded, but there is no neighbour to flood to
	DropNoLink              // the next hop has no link, or not any more
	numDropReasons
)

var dropNames = [numDropReasons]string{"none", "short", "spanning_tree", "local", "foreign_source", "no_route", "no_neighbour", "no_link"}

// String returns the name of the reason in status reports and metrics.
func (d DropReason) String() string { return dropNames[d] }

// Forwarder decides where frames go. It is safe for concurrent use; deciding takes no lock, except to note a station that
// is new or has moved.
type Forwarder struct {
	self   peer.Name
	routes atomic.Pointer[Routes]
	macs   macTable
}

// NewForwarder returns a Forwarder for the peer self, with no routes and no stations.
func NewForwarder(self peer.Name) *Forwarder {
	f := &Forwarder{self: self}
	f.SetRoutes(noRoutes{})
	return f
}

type noRoutes struct{}

func (noRoutes) NextHop(peer.Name) (peer.Name, bool) { return 0, false }
func (noRoutes) Flood(peer.Name) []peer.Name         { return nil }

// SetRoutes makes r the routes for all decisions from now on.
func (f *Forwarder) SetRoutes(r Routes) { f.routes.Store(&r) }

// Captured decides about a frame that a station of this host sent. It notes where the station is.
func (f *Forwarder) Captured(now time.Time, dst, src MAC) Decision {
	if !f.macs.learn(src, f.self, now, false) {
		return Decision{Drop: DropForeign}
	}
	if dst == spanningTree {
		return Decision{Drop: DropSpanning}
	}
	at, known := f.macs.lookup(dst)
	switch {
	case !known:
		return f.flood(Decision{Source: f.self})
	case at == f.self:
		return Decision{Drop: DropLocal}
	default:
		return f.relay(f.self, at)
	}
}

// Received decides about a frame that came from a neighbour, with the peers that its sender gave. It notes where the
// source station is if the frame is for this peer; relays learn nothing.
func (f *Forwarder) Received(now time.Time, srcPeer, dstPeer peer.Name, dst, src MAC) Decision {
	if dstPeer != f.self {
		return f.relay(srcPeer, dstPeer)
	}
	f.macs.learn(src, srcPeer, now, true)
	d := Decision{Source: srcPeer, Local: true}
	if at, known := f.macs.lookup(dst); known && at == f.self {
		return d
	}
	return f.flood(d)
}

func (f *Forwarder) relay(src, dst peer.Name) Decision {
	hop, ok := (*f.routes.Load()).NextHop(dst)
	if !ok {
		return Decision{Drop: DropNoRoute}
	}
	return Decision{Source: src, Hop: hop, Dst: dst}
}

func (f *Forwarder) flood(d Decision) Decision {
	d.Flood = (*f.routes.Load()).Flood(d.Source)
	if len(d.Flood) == 0 && !d.Local {
		d.Drop = DropNobody
	}
	return d
}

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

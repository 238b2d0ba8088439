package fastdp

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// table is what decisions are made from. Its parts are immutable snapshots, or safe for concurrent use.
type table struct {
	fwd      *overlay.Forwarder
	ports    atomic.Pointer[portMap]
	links    linkSet
	stations stationTable
	pid      atomic.Uint32 // the socket that actions name for user space
}

// verdict is what is to become of the frames of a flow. It follows from the flow's key and the table alone.
type verdict struct {
	steps []step
	// brief: the flow is not to last, because it is about something unknown or unwanted.
	brief bool
	// noFlow: frames are handled one by one.
	noFlow bool
	// gone: such frames are not matched by such a flow any more.
	gone bool
	// lost: what carried the frames does not work now. If a flow did carry them it is left alone for a while.
	lost bool
}

var (
	verdictDrop = verdict{brief: true}
	verdictLost = verdict{brief: true, lost: true}
	verdictGone = verdict{gone: true}
)

// classify returns the key of the flow for a frame; ok is false if there is to be none and the frame is to be dropped.
func (t *table) classify(f *frameKey) (k flowKey, ok bool) {
	ports := t.ports.Load()
	k = flowKey{port: f.port, mac: f.dst, vni: f.vni, outer: f.outer, tags: f.tags, proto: f.proto}
	switch ports.byNumber[f.port].role {
	case roleLocal:
		switch {
		case f.stage == stageFirst:
			k.shape, k.mac = shapeSource, f.src
		case t.remote(f.dst):
			k.shape = shapeToPeer
		default:
			k.shape = shapeFromPort
		}
	case roleUser:
		k.shape = shapeUser
	case roleTunnel:
		_, here := t.deliverTo(f.dst)
		switch own, known := t.ownID(); {
		case !f.tunneled || !known:
			return k, false
		case f.vni.dst() != own:
			k.shape = shapeRelay
		case f.stage == stageFirst:
			k.shape, k.mac = shapeArrive, f.src
		case here:
			k.shape = shapeDeliver
		default:
			k.shape = shapeSpread
		}
	default:
		return k, false
	}
	return k.cleaned(), true
}

// ownID returns our short id, if it is really ours.
func (t *table) ownID() (peer.ShortID, bool) { return t.fwd.Routes().ShortID(t.fwd.Self()) }

// remote reports whether a station is known at another peer.
func (t *table) remote(m overlay.MAC) bool {
	at, known := t.fwd.Station(m)
	return known && at != t.fwd.Self()
}

// deliverTo returns the local port of a station that is known to be at this host.
func (t *table) deliverTo(m overlay.MAC) (port uint32, ok bool) {
	if at, known := t.fwd.Station(m); !known || at != t.fwd.Self() {
		return 0, false
	}
	port, ok = t.stations.port(m)
	return port, ok && t.ports.Load().isLocal(port)
}

// decide returns what is to become of the frames of a flow.
func (t *table) decide(k flowKey) verdict {
	switch k.shape {
	case shapeSource:
		return t.source(k)
	case shapeToPeer:
		return t.toPeer(k)
	case shapeFromPort:
		return t.fromPort(k)
	case shapeArrive:
		return t.arrive(k)
	case shapeDeliver:
		return t.deliver(k)
	case shapeSpread:
		return t.spread(k)
	case shapeRelay:
		return t.relay(k)
	case shapeUser:
		return t.fromUser(k)
	}
	return verdictGone
}

func (t *table) source(k flowKey) verdict {
	switch {
	case !t.ports.Load().isLocal(k.port):
		return verdictGone
	case !isStation(k.mac) || t.remote(k.mac):
		return verdictDrop
	}
	switch port, known := t.stations.port(k.mac); {
	case !known:
		return verdictDrop // there are too many behind this port
	case port != k.port:
		return verdictGone // it moved; if it moves back it has to be learned
	}
	return verdict{steps: []step{{kind: stepRecirc, port: stageLocal}}}
}

// isStation reports whether a frame may come from an address.
func isStation(m overlay.MAC) bool { return !m.IsGroup() && m != overlay.MAC{} }

func (t *table) toPeer(k flowKey) verdict {
	switch at, known := t.fwd.Station(k.mac); {
	case !known:
		return verdictLost // its peer may be back soon
	case at == t.fwd.Self():
		return verdictGone
	}
	d := t.fwd.Outbound(k.mac)
	s, ok := t.hopStep(d.Hop, d.Source, d.Dst, foreignByPort)
	if d.Hop == 0 || !ok {
		return verdictLost
	}
	return verdict{steps: []step{s}}
}

func (t *table) fromPort(k flowKey) verdict {
	ports := t.ports.Load()
	if !ports.isLocal(k.port) || t.remote(k.mac) {
		return verdictGone
	}
	if port, here := t.deliverTo(k.mac); here {
		if port == k.port {
			return verdict{}
		}
		return verdict{steps: []step{{kind: stepOutput, port: port}}}
	}
	return t.toMany(k, t.fwd.Outbound(k.mac))
}

// toMany returns what is to become of frames of local stations that go to many.
func (t *table) toMany(k flowKey, d overlay.Decision) verdict {
	v := verdict{brief: !k.mac.IsGroup()}
	v.steps = t.ports.Load().flood(nil, k.port)
	var hops []step
	hops, v.lost = t.hopSteps(d, foreignByPort)
	v.steps = append(v.steps, hops...)
	v.noFlow = k.single() || len(v.steps) > maxSteps
	return v
}

// single reports whether frames to a group are to be handled one by one: where they go depends on what they say, or the kernel
// cannot match what they are (frames of IEEE 802.2 to groups of IP, which make no sense).
func (k flowKey) single() bool {
	return k.proto.membership() || forGroups(k.mac) && !k.proto.set
}

// flood appends outputs to all local ports but one.
func (m *portMap) flood(steps []step, except uint32) []step {
	for _, p := range m.local {
		if p != except {
			steps = append(steps, step{kind: stepOutput, port: p})
		}
	}
	return steps
}

func (t *table) arrive(k flowKey) verdict {
	routes := t.fwd.Routes()
	own, known := t.ownID()
	src, hasName := routes.Named(k.vni.src())
	switch {
	case known && k.vni.dst() != own || !t.isTunnel(k.port):
		return verdictGone
	case !known || !hasName:
		return verdictLost
	case k.mac == (overlay.MAC{}):
		return verdict{noFlow: true} // a flow would match heartbeats
	case src == t.fwd.Self() || !isStation(k.mac):
		return verdictDrop
	}
	switch l := t.from(k); {
	case l == nil:
		return verdictLost
	case t.wrongWay(l, src):
		return verdictDrop
	}
	if at, known := t.fwd.Station(k.mac); known && at != src {
		return verdictGone
	}
	return verdict{steps: []step{{kind: stepRecirc, port: stageArrived}}}
}

// from returns the link over which the frames of a flow come from the tunnel; nil if there is none. If several peers are
// behind the address it is that of the peer where the frames entered the overlay, or of one by which they may have come.
func (t *table) from(k flowKey) *link {
	list := t.links.arriving(k.outer, t.ports.Load().byNumber[k.port].udp)
	if len(list) == 0 {
		return nil
	}
	src, _ := t.fwd.Routes().Named(k.vni.src())
	for _, l := range list {
		if l.params.Remote == src {
			return l
		}
	}
	for _, l := range list {
		if !t.wrongWay(l, src) {
			return l
		}
	}
	return list[0]
}

// to returns the link by which a step sends to a neighbour; nil if there is none.
func (t *table) to(s step) *link {
	list := t.links.arriving(s.outer.reversed(), t.ports.Load().byNumber[s.port].udp)
	for _, l := range list {
		if l.params.Remote == s.hop || len(list) == 1 {
			return l
		}
	}
	return nil
}

// wrongWay reports whether frames that entered the overlay at src cannot rightly come over a link: because they come to its
// peer only through us. Then they go in a circle, or src is not where they are from.
func (t *table) wrongWay(l *link, src peer.Name) bool {
	return slices.Contains(t.fwd.Routes().Flood(src), l.params.Remote)
}

func (t *table) isTunnel(port uint32) bool { return t.ports.Load().byNumber[port].role == roleTunnel }

func (t *table) deliver(k flowKey) verdict {
	port, here := t.deliverTo(k.mac)
	if !here {
		return verdictGone
	}
	return verdict{steps: []step{{kind: stepOutput, port: port}}}
}

func (t *table) spread(k flowKey) verdict {
	own, known := t.ownID()
	if _, here := t.deliverTo(k.mac); here || known && k.vni.dst() != own || !t.isTunnel(k.port) {
		return verdictGone
	}
	src, hasName := t.fwd.Routes().Named(k.vni.src())
	if !known || !hasName {
		return verdictLost
	}
	return t.spreadOn(k, t.fwd.Inbound(src, t.fwd.Self(), k.mac))
}

// spreadOn returns what is to become of frames that came from a peer and go to many.
func (t *table) spreadOn(k flowKey, d overlay.Decision) verdict {
	v := verdict{brief: !k.mac.IsGroup()}
	if d.Local {
		v.steps = t.ports.Load().flood(nil, 0)
	}
	hops, _ := t.hopSteps(d, foreignByUser)
	v.steps = append(v.steps, hops...)
	v.noFlow = k.single() || len(v.steps) > maxSteps
	return v
}

func (t *table) relay(k flowKey) verdict {
	own, known := t.ownID()
	if known && k.vni.dst() == own || !t.isTunnel(k.port) {
		return verdictGone
	}
	src, dst, ok := t.ends(k.vni)
	if !known || !ok {
		return verdictLost
	}
	switch l := t.from(k); {
	case l == nil:
		return verdictLost
	case src == t.fwd.Self() || t.wrongWay(l, src):
		return verdict{noFlow: true} // comes back: see returned
	}
	hop, ok := t.fwd.Routes().NextHop(dst)
	if !ok {
		return verdictLost
	}
	s, ok := t.hopStep(hop, src, dst, foreignByUser)
	switch {
	case !ok:
		return verdictLost
	case s.kind == stepTunnel && s.outer == k.outer.reversed() && s.port == k.port:
		return verdict{noFlow: true} // it would go back to where it comes from
	}
	return verdict{steps: []step{s}}
}

// ends returns the peers that a VNI names.
func (t *table) ends(v vni) (src, dst peer.Name, ok bool) {
	r := t.fwd.Routes()
	src, hasSrc := r.Named(v.src())
	dst, hasDst := r.Named(v.dst())
	return src, dst, hasSrc && hasDst
}

func (t *table) fromUser(k flowKey) verdict {
	ports := t.ports.Load()
	if ports.byNumber[k.port].role != roleUser {
		return verdictGone
	}
	if port, here := t.deliverTo(k.mac); here {
		return verdict{steps: []step{{kind: stepOutput, port: port}}}
	}
	return verdict{steps: ports.flood(nil, k.port), brief: !k.mac.IsGroup()}
}

// foreign says how frames get to neighbours that only another overlay reaches.
type foreign bool

const (
	foreignByPort foreign = false // frames of local stations: through the port of the user-space overlays, if there is one
	foreignByUser foreign = true  // frames that came from peers: by user space, which knows where they come from
)

// hopSteps returns the steps for a frame that goes to several neighbours, each once. lost is true if there is none to go to.
func (t *table) hopSteps(d overlay.Decision, f foreign) (steps []step, lost bool) {
	for _, hop := range d.Flood {
		s, ok := t.hopStep(hop, d.Source, hop, f)
		if ok && (s.kind == stepTunnel || !slices.Contains(steps, s)) {
			steps = append(steps, s)
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.hop, b.hop)) })
	return steps, len(steps) == 0 && (len(d.Flood) > 0 || d.Drop == overlay.DropNobody)
}

// hopStep returns the step that brings a frame to a neighbour; ok is false if there is no way.
func (t *table) hopStep(hop, src, dst peer.Name, f foreign) (s step, ok bool) {
	l := t.fwd.Link(hop, src, dst)
	if l == nil {
		return step{}, false
	}
	if mine := t.links.own(l); mine != nil {
		port, exists := t.ports.Load().tunnels[mine.udp]
		id, known := t.vniOf(src, dst)
		return step{kind: stepTunnel, port: port, vni: id, outer: mine.outer, hop: hop}, exists && known
	}
	if user := t.ports.Load().user; user != 0 && f == foreignByPort {
		return step{kind: stepOutput, port: user}, true
	}
	return step{kind: stepUser, port: t.pid.Load()}, true
}

func (t *table) vniOf(src, dst peer.Name) (vni, bool) {
	r := t.fwd.Routes()
	s, hasSrc := r.ShortID(src)
	d, hasDst := r.ShortID(dst)
	return newVNI(s, d), hasSrc && hasDst
}

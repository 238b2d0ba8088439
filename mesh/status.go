package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	maxEnded  = 16 // connections that have ended and are still shown
	maxClones = 8  // runs under our name that are shown
	// sureOfClone is how often a run under our name must be ahead of us to be no former one of ours.
	sureOfClone = 3
)

// Status describes a router for people and for metrics.
type Status struct {
	Name           peer.Name      `json:"name"`
	Nickname       string         `json:"nickname"`
	UID            peer.UID       `json:"uid,string"`
	ShortID        peer.ShortID   `json:"short_id"`
	Listen         netip.AddrPort `json:"listen,omitzero"`
	MinProtocol    int            `json:"min_protocol"`
	MaxProtocol    int            `json:"max_protocol"`
	Encryption     bool           `json:"encryption"` // a password is set
	Discovery      bool           `json:"discovery"`
	ConnLimit      int            `json:"conn_limit"` // negative: none
	TrustedSubnets []netip.Prefix `json:"trusted_subnets"`

	Peers           []PeerStatus     `json:"peers"`
	Connections     []ConnStatus     `json:"connections"`
	Ended           []EndedStatus    `json:"ended"`  // connections that have ended lately, last one first
	Clones          []CloneStatus    `json:"clones"` // heard of by gossip, last one first
	Targets         []TargetStatus   `json:"targets"`
	UnicastRoutes   []UnicastRoute   `json:"unicast_routes"`   // of the data plane
	BroadcastRoutes []BroadcastRoute `json:"broadcast_routes"` // of the data plane, those computed so far
	Channels        []ChannelStatus  `json:"channels"`         // those joined, and "topology"

	Terminations uint64 `json:"terminations"` // connections and attempts that have ended
	Refused      uint64 `json:"refused"`      // inbound connections beyond what is taken at a time
	UnknownTags  uint64 `json:"unknown_tags"` // messages of no known kind
	Unrouted     uint64 `json:"unrouted"`     // unicasts to be passed on without a way
	Unrelayed    uint64 `json:"unrelayed"`    // messages to be passed on of channels not joined here, without room
}

// PeerStatus describes a peer as the topology has it.
type PeerStatus struct {
	Name        peer.Name        `json:"name"`
	Nickname    string           `json:"nickname"`
	UID         peer.UID         `json:"uid,string"` // 0 while only the name is known
	ShortID     peer.ShortID     `json:"short_id"`
	HasShortID  bool             `json:"has_short_id"`
	Version     uint64           `json:"version"`
	Connections []PeerConnection `json:"connections"`
}

// PeerConnection is a connection as one of its ends tells of it.
type PeerConnection struct {
	Name        peer.Name `json:"name"`
	Nickname    string    `json:"nickname"`
	Address     string    `json:"address"`
	Outbound    bool      `json:"outbound"`
	Established bool      `json:"established"`
}

// ConnStatus describes a connection of ours.
type ConnStatus struct {
	Address   netip.AddrPort `json:"address"`
	Outbound  bool           `json:"outbound"`
	State     string         `json:"state"` // "established", or "pending" while the data plane is not
	Name      peer.Name      `json:"name"`
	Nickname  string         `json:"nickname"`
	Protocol  int            `json:"protocol"`
	Sealed    bool           `json:"sealed"`    // the mesh connection itself
	Encrypted bool           `json:"encrypted"` // frames: there is a password, and not both ends trust the address
	Deltas    bool           `json:"deltas"`    // topology goes in the short form
	Since     time.Time      `json:"since"`
	// RTT is how long the last probe took to the other end and back, some 30 s ago at most; zero if the other end speaks the
	// old wire only, which has none.
	RTT      time.Duration `json:"rtt_ns"`
	Sent     uint64        `json:"sent_bytes"`
	Received uint64        `json:"received_bytes"`
	Dropped  uint64        `json:"dropped"` // messages that found the queue full
	Queue    int           `json:"queue"`   // messages that wait

	Link  overlay.LinkStatus   `json:"link,omitzero"`   // the one in use
	Links []overlay.LinkStatus `json:"links,omitempty"` // of all overlays in common
}

// EndedStatus describes a connection that is over.
type EndedStatus struct {
	Address  netip.AddrPort `json:"address"`
	Outbound bool           `json:"outbound"`
	Name     peer.Name      `json:"name"` // nobody if the introduction did not get that far
	Reason   string         `json:"reason"`
	At       time.Time      `json:"at"`

	// Err is the reason as an error, for errors.Is with ErrPassword, ErrNameTaken and others.
	Err error `json:"-"`
}

// CloneStatus describes another run under our name that gossip tells of. If Heard stays small it is a former run of ours
// that somebody had not forgotten. If it goes on rising there is another peer with our name: both tell more and more recent
// news of the same peer.
type CloneStatus struct {
	UID   peer.UID  `json:"uid,string"`
	Via   peer.Name `json:"via"`   // the neighbour that told of it last
	Heard int       `json:"heard"` // how often it was more recent than ours
	Last  time.Time `json:"last"`
	// Address is where another peer says to be connected to that run, as "ip:port"; empty if nobody we know of does.
	Address string `json:"address,omitempty"`
	// Reason names both, once Heard leaves no doubt.
	Reason string `json:"reason,omitempty"`

	// Err is the reason as an error, which wraps ErrNameTaken.
	Err error `json:"-"`
}

// noteClone notes that gossip tells of another run under our name.
func (e *engine) noteClone(other *entry, via peer.Name, now time.Time) {
	c := CloneStatus{UID: other.uid, Via: via, Heard: 1, Last: now, Address: e.cloneAddress(other)}
	if i := slices.IndexFunc(e.clones, func(k CloneStatus) bool { return k.UID == c.UID }); i >= 0 {
		c.Heard += e.clones[i].Heard
		c.Address = cmp.Or(c.Address, e.clones[i].Address)
		e.clones = slices.Delete(e.clones, i, i+1)
	}
	if c.Heard >= sureOfClone {
		c.Err = fmt.Errorf("%w: %s is our name (we are at %s) and that of another peer at %s, of which %s tells", ErrNameTaken,
			e.r.cfg.Name, e.r.Addr(), cmp.Or(c.Address, "an address that is not known"), via)
		c.Reason = c.Err.Error()
	}
	if c.Heard == sureOfClone {
		e.r.cfg.Log.Warn("another peer has our name", "uid", c.UID, "err", c.Err)
	}
	e.clones = append(e.clones, c)
	if len(e.clones) > maxClones {
		e.clones = e.clones[1:]
	}
}

// cloneAddress returns where a peer with our name, of which gossip tells, is connected to others: those that it lists, and
// that list it but have no link to us.
func (e *engine) cloneAddress(other *entry) string {
	for c := range other.conns.all() {
		neighbour := e.r.topo.entry(c.remote)
		if neighbour == nil || e.links[c.remote] != nil {
			continue
		}
		for back := range neighbour.conns.all() {
			if back.remote == other.name {
				return back.address.String()
			}
		}
	}
	return ""
}

// TargetStatus describes an address that we dial, or would.
type TargetStatus struct {
	Address string    `json:"address"`
	Direct  bool      `json:"direct"` // given by the operator; otherwise learned from the mesh
	State   string    `json:"state"`  // "waiting", "attempting", "connected", "suspended"; "never" if it is no other peer
	Reason  string    `json:"reason,omitempty"`
	Next    time.Time `json:"next,omitzero"` // next attempt

	// Err is the reason as an error, for errors.Is with ErrPassword, ErrNameTaken and others.
	Err error `json:"-"`
}

// UnicastRoute is the way to a peer; for ourselves Via is nobody.
type UnicastRoute struct {
	Dest peer.Name `json:"dest"`
	Via  peer.Name `json:"via"`
}

// BroadcastRoute is where frames go that a peer spreads.
type BroadcastRoute struct {
	Source peer.Name   `json:"source"`
	Via    []peer.Name `json:"via"`
}

// ChannelStatus counts what a gossip channel has done; in the case of "topology", what peers say of their connections. There
// Dropped counts peers, or their news, for which there was no room.
type ChannelStatus struct {
	Name          string `json:"name"`
	Received      uint64 `json:"received"`
	ReceivedBytes uint64 `json:"received_bytes"`
	Sent          uint64 `json:"sent"`
	SentBytes     uint64 `json:"sent_bytes"`
	Dropped       uint64 `json:"dropped"`
	Queue         int    `json:"queue"` // messages that wait for the receiver
	Faults        uint64 `json:"faults"`
	LastFault     string `json:"last_fault,omitempty"`
}

// ended notes that a connection is over.
func (e *engine) ended(l *link, err error) {
	if errors.Is(err, errSelf) {
		return
	}
	e.r.counter.terminations.Add(1)
	st := EndedStatus{Address: l.addr, Outbound: l.outbound, At: time.Now(), Err: err}
	if err != nil {
		st.Reason = err.Error()
	}
	if l.sess != nil {
		st.Name = l.sess.remote.name
	}
	e.past = append(e.past, st)
	if len(e.past) > maxEnded {
		e.past = e.past[1:]
	}
}

// Status describes the router as it is now.
func (r *Router) Status() Status {
	cfg := &r.cfg
	st := Status{
		Name: cfg.Name, Nickname: cfg.Nickname, UID: cfg.UID, Listen: r.Addr(), MinProtocol: cfg.MinProtocol,
		MaxProtocol: maxProtocol, Encryption: len(cfg.Password) > 0, Discovery: !cfg.NoDiscovery, ConnLimit: cfg.ConnLimit,
		TrustedSubnets: slices.Clone(cfg.TrustedSubnets), Terminations: r.counter.terminations.Load(), Refused: r.counter.refused.Load(),
		UnknownTags: r.counter.unknownTags.Load(), Unrouted: r.counter.unrouted.Load(), Unrelayed: r.surrogates.dropped.Load(),
	}
	v := r.view.Load()
	own := v.graph.entries[v.graph.self]
	st.ShortID = own.shortID
	st.Peers = v.graph.peers()
	st.UnicastRoutes, st.BroadcastRoutes = v.graph.routeTables()
	r.mu.Lock()
	channels := r.channels
	r.mu.Unlock()
	for _, c := range channels {
		st.Channels = append(st.Channels, c.status())
	}
	st.Channels = append(st.Channels, r.counter.topology.status(topologyChannel))
	established := map[*link]bool{}
	r.look(func(d *dialer, e *engine) {
		st.Targets = d.status()
		if e == nil {
			return
		}
		for _, l := range e.links {
			established[l] = l.established
		}
		st.Ended, st.Clones = newestFirst(e.past), newestFirst(e.clones)
	})
	for _, name := range slices.Sorted(maps.Keys(v.links)) {
		st.Connections = append(st.Connections, v.links[name].status(established[v.links[name]]))
	}
	return st
}

func newestFirst[T any](list []T) []T {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

func (l *link) status(established bool) ConnStatus {
	st := ConnStatus{
		Address: l.addr, Outbound: l.outbound, State: "pending", Name: l.remote(), Nickname: l.sess.remote.nickname,
		Protocol: l.sess.version, Sealed: l.sess.key != nil, Encrypted: l.encryptsData(), Deltas: l.delta, Since: l.started, RTT: l.probe.last(),
		Sent: l.sent.Load(), Received: l.received.Load(), Dropped: l.out.dropped.Load(), Queue: l.out.depth(),
	}
	if established {
		st.State = "established"
	}
	if l.bundle != nil {
		st.Link, st.Links = l.bundle.Status(), l.bundle.Statuses()
	}
	return st
}

func (d *dialer) status() (list []TargetStatus) {
	for _, t := range d.targets {
		st := TargetStatus{Address: t.key, Direct: t.direct, State: t.state.String(), Err: t.err}
		if t.err != nil {
			st.Reason = t.err.Error()
		}
		if t.state == targetWaiting {
			st.Next = t.next
			if t.never {
				st.State, st.Next = "never", time.Time{}
			}
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b TargetStatus) int { return cmp.Compare(a.Address, b.Address) })
	return list
}

func (c *channel) status() ChannelStatus {
	st := c.stats.status(c.name)
	c.mu.Lock()
	st.Queue = len(c.inbox)
	c.mu.Unlock()
	return st
}

func (c *channelCounters) status(name string) ChannelStatus {
	st := ChannelStatus{
		Name: name, Received: c.received.Load(), ReceivedBytes: c.receivedBytes.Load(), Sent: c.sent.Load(),
		SentBytes: c.sentBytes.Load(), Dropped: c.dropped.Load(), Faults: c.faults.Load(),
	}
	if text := c.lastFault.Load(); text != nil {
		st.LastFault = *text
	}
	return st
}

func (g *graph) peers() []PeerStatus {
	list := make([]PeerStatus, 0, len(g.entries))
	for _, e := range g.entries {
		st := PeerStatus{
			Name: e.name, Nickname: e.nickname, UID: e.uid, ShortID: e.shortID, HasShortID: e.hasShortID, Version: e.version,
		}
		for c := range e.conns.all() {
			pc := PeerConnection{Name: c.remote, Address: c.address.String(), Outbound: c.outbound, Established: c.established}
			if i, known := g.number(c.remote); known {
				pc.Nickname = g.entries[i].nickname
			}
			st.Connections = append(st.Connections, pc)
		}
		list = append(list, st)
	}
	return list
}

// routeTables lists the routes of the data plane.
func (g *graph) routeTables() (unicast []UnicastRoute, broadcast []BroadcastRoute) {
	for dst, hop := range g.unicast() {
		if hop == nowhere {
			continue
		}
		r := UnicastRoute{Dest: g.entries[dst].name}
		if int32(dst) != g.self {
			r.Via = g.entries[hop].name
		}
		unicast = append(unicast, r)
	}
	for src := range g.flood {
		if set := g.flood[src].Load(); set != nil {
			broadcast = append(broadcast, BroadcastRoute{Source: g.entries[src].name, Via: *set})
		}
	}
	return unicast, broadcast
}

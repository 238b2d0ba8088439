package overlay

import (
	"net/netip"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// Overlay is one way to carry frames between two peers that have a mesh connection, such as sleeve. It is safe for
// concurrent use.
type Overlay interface {
	// Name is the overlay's name in the handshake: no space in it, the same on all peers, never given another meaning.
	Name() string

	// Prepare sets up the near end of a link and returns it silent: it may receive, but sends nothing before
	// [Link.Confirm], because the connection may yet lose against a duplicate. An error means that this overlay cannot
	// serve the connection; others may.
	Prepare(p Params) (Link, error)
}

// Params is what an overlay learns of a connection. Fields are constant; functions are safe for concurrent use.
type Params struct {
	Self, Remote peer.Name
	// Local and RemoteAddr are the ends of the TCP connection. For an outbound one RemoteAddr is the remote's listener,
	// from which an overlay may derive its own ports; for an inbound one the port is ephemeral and means nothing.
	Local, RemoteAddr netip.AddrPort
	// Outbound is true at the end that dialled.
	Outbound bool
	// ConnUID is the same at both ends and different for each connection; it ties datagrams to it.
	ConnUID uint64
	// Key is the connection's session key, nil if frames travel in the clear.
	Key *[32]byte
	// Features are the keys of the remote's handshake; never nil, never written to.
	Features map[string]string

	// SendControl sends a control message to the link at the other end, over the mesh connection. It queues and does not
	// wait for the network. Messages arrive in order, or the connection ends.
	SendControl func(tag byte, payload []byte) error
	// Report tells what became of the link, once it is confirmed. It may be called from any goroutine, but not from within
	// a call of one of the Link's methods, and not with locks held that those methods take.
	Report func(Event)
	// Receive takes frames that arrived, or that the link made itself to answer the sender of one. They are borrowed:
	// whoever receives copies what it keeps. It may be called from several goroutines, and from within Send; like Report
	// not with locks held, since it may lead to Send.
	Receive func([]Frame)
}

// Event is a change in a link's life.
type Event struct {
	Kind EventKind
	Err  error // why, for Failed and OnHold
}

// EventKind is what happened to a link.
type EventKind uint8

const (
	// Established: the remote has confirmed that our frames reach it. Reported once.
	Established EventKind = iota + 1
	// OnHold: the link seems not to work now. It is kept, and may come back.
	OnHold
	// Healthy: a link on hold works again.
	Healthy
	// Failed: the link is of no more use and waits to be closed. Nothing is reported after it.
	Failed
)

// Link is one end of an overlay between two peers, for the life of one mesh connection. It is safe for concurrent use.
type Link interface {
	// Confirm lets the link begin to send. It is called at most once and does not block. After Close it does nothing.
	Confirm()

	// Send sends frames to the remote, or drops and counts them: a link is a wire, not a promise. Frames are borrowed for
	// the time of the call. It may wait for a socket, but not for the remote. Before Confirm and after Close it drops.
	Send(frames []Frame)

	// Control takes a control message from the link at the other end. The payload comes from the network; it is borrowed.
	// It does not block.
	Control(tag byte, payload []byte)

	// Status describes the link as it is now.
	Status() LinkStatus

	// Close ends the link and returns when nothing of it runs any more; no Report and no Receive is called after it. So it
	// may not be called from within these. It is idempotent.
	Close()
}

// SegmentedLink is a Link that carries super-frames. Others get them cut.
type SegmentedLink interface {
	Link
	// TakesSegments reports whether Send takes super-frames now.
	TakesSegments() bool
}

// DatapathLink is a Link of a datapath in the kernel that makes the same decisions as the switch: what stations of this host
// send reaches the link's peer without the switch, and the Port has it only if it goes to other links as well. So the switch
// hands such a link no frames of this host's stations that are flooded; but it does those for a single peer, which the Port has
// only because another link carried them a moment ago.
type DatapathLink interface {
	Link
	// Carries reports whether the link can carry frames that entered the overlay at src and are to leave it at dst. If not
	// they go over the next link in order of preference. It is asked for each decision, not for each frame.
	Carries(src, dst peer.Name) bool
}

// LinkStatus describes a link for people and for metrics.
type LinkStatus struct {
	Overlay     string         `json:"overlay"`
	Encrypted   bool           `json:"encrypted"`
	Established bool           `json:"established"`
	MTU         int            `json:"mtu"` // largest inner IP packet in bytes, 0 while unknown
	MTUFrom     MTUSource      `json:"mtu_from,omitempty"`
	Remote      netip.AddrPort `json:"remote,omitzero"`  // where datagrams go; zero while unknown
	Reason      string         `json:"reason,omitempty"` // why it is on hold or failed, or why not better
	Next        time.Time      `json:"next,omitzero"`    // on hold: when it is tried again, if that is known
	Cipher      string         `json:"cipher,omitempty"` // if the overlay knows more than one
	RTT         time.Duration  `json:"rtt,omitzero"`     // of the last probe, in nanoseconds; zero if not known
	Sent        Counter        `json:"sent"`
	Received    Counter        `json:"received"`
	// Offloads has, for each offload of the system that the overlay may use, "in use" or why not.
	Offloads map[string]string `json:"offloads,omitempty"`
	// Drops counts frames and datagrams that were thrown away, by reason.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// MTUSource is how an MTU was found.
type MTUSource string

const (
	// MTUProbed: a datagram of that size reached the remote, which said so.
	MTUProbed MTUSource = "probed"
	// MTUFromSystem: the system believes in it, and it is not verified, or not yet.
	MTUFromSystem MTUSource = "system"
	// MTUAssumed: nothing larger passes, and so it is what any path is taken to carry.
	MTUAssumed MTUSource = "assumed"
)

// Counter counts frames and their bytes, Ethernet header included.
type Counter struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
}

// Port is where frames enter and leave this host: a TAP device, a packet socket, or memory.
//
// One goroutine may read while any number of others write. A read returns as soon as there is a frame, with as many as are there.
type Port interface {
	// Name is the name of the device, for people.
	Name() string

	// Read waits for frames and fills bufs with them, one each, and sizes with their lengths in bytes; it returns how many
	// it filled, at least one if err is nil. bufs and sizes are equally long; a frame longer than its buffer is dropped and
	// counted, not cut. After Close it returns an error that wraps [net.ErrClosed].
	Read(bufs [][]byte, sizes []int) (int, error)

	// Write puts frames on the host's side. They are borrowed for the time of the call. It drops rather than waits for a
	// host that does not take them; an error says that the port is of no more use.
	Write(frames [][]byte) error

	// MTU is the largest IP packet in bytes that the device takes now.
	MTU() int

	// Close unblocks Read and gives the device back. It is idempotent.
	Close() error
}

// SegmentedPort is a Port that gives and takes super-frames, and so saves their cutting.
type SegmentedPort interface {
	Port
	// ReadFrames is Read for frames of which some may be super-frames: the Data of each of frames is a buffer, whose length
	// and Segments are set for those that it fills. It may return before all that is there has been read.
	ReadFrames(frames []Frame) (int, error)
	// WriteFrames is Write for frames of which some may be super-frames. It may change the Data of those.
	WriteFrames(frames []Frame) error
}

// QueuedPort is a SegmentedPort that is read by several goroutines, so that what this host sends is handled by several cores.
type QueuedPort interface {
	SegmentedPort
	// Queues is the number of queues, at least one. It is constant. The frames of one flow come from one queue, in order.
	Queues() int
	// ReadQueue is ReadFrames for one of the queues, which are numbered from 0. One goroutine may read each, and has to.
	ReadQueue(queue int, frames []Frame) (int, error)
}

// Routes answers where frames go between peers. Implementations are immutable: a change of topology, or of the short ids,
// makes a new one.
type Routes interface {
	// NextHop returns the neighbour to which frames for dst go; ok is false if dst is ourselves or out of reach.
	NextHop(dst peer.Name) (hop peer.Name, ok bool)

	// Flood returns the neighbours to which frames go that src spreads to everyone: our place in src's broadcast tree. The
	// caller does not change the result.
	Flood(src peer.Name) []peer.Name

	// FloodHop returns the neighbour of Flood(src) through which frames that src spreads come to dst; ok is false if they
	// come to dst by a way that does not lead through us.
	FloodHop(src, dst peer.Name) (hop peer.Name, ok bool)

	// Peers returns the peers that are in reach, ourselves included, in no particular order. The caller does not change the
	// result.
	Peers() []peer.Name

	// ShortID returns the short id that stands for a peer; ok is false if none does.
	ShortID(name peer.Name) (id peer.ShortID, ok bool)

	// Named returns the peer that a short id stands for; ok is false if there is none.
	Named(id peer.ShortID) (name peer.Name, ok bool)
}

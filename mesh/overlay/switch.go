package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	expireInterval = time.Minute
	portBatch      = 64
	portBuffer     = 1<<16 + HeaderLen // the largest IP packet and its header
)

// SwitchConfig configures a Switch.
type SwitchConfig struct {
	// Self is the name of this peer. Required.
	Self peer.Name
	// Overlays are the ways to carry frames, preferred first. At least one. "fastdp" has to come before "sleeve" if both
	// are there: peers of Weave Net 2.8 count them in that order.
	Overlays []Overlay
	// Port is where frames of this host's stations come from and go to. Nil means none: the peer only relays. [Switch.Run]
	// closes it.
	Port Port
	// Announce, if set, tells the other peers what stations of this host are members of, at most five times a second; it does
	// not block. They hand what has come to the SetMemberships of their Forwarders. Nil means that this switch neither learns
	// memberships nor asks for them, and so gets the frames of all groups. See [Memberships].
	Announce func(Memberships)
	// Forwarder decides, for this switch alone. Nil means a new one. A datapath in the kernel shares it.
	Forwarder *Forwarder
	// Log gets what is worth a line. Nil means silence.
	Log *slog.Logger
}

// Switch is the Ethernet switch of one peer: a port to this host's stations on one side, links to neighbours on the other.
// It is safe for concurrent use.
type Switch struct {
	// constant
	self      peer.Name
	names     []string
	overlays  map[string]Overlay
	port      SegmentedPort // nil: none
	forwarder *Forwarder
	announce  func(Memberships) // nil: no snooping
	log       *slog.Logger

	// atomic
	drops   [numDropReasons]atomic.Uint64
	portErr atomic.Uint64

	scratch sync.Pool // of *batch
}

// NewSwitch makes a switch; it starts nothing.
func NewSwitch(c SwitchConfig) (*Switch, error) {
	if !c.Self.IsValid() {
		return nil, fmt.Errorf("overlay: switch: %w", peer.ErrInvalidName)
	}
	if len(c.Overlays) == 0 {
		return nil, errors.New("overlay: switch without overlays")
	}
	s := &Switch{
		self: c.Self, port: asSegmented(c.Port), forwarder: c.Forwarder, announce: c.Announce, log: c.Log,
		overlays: map[string]Overlay{},
	}
	for _, o := range c.Overlays {
		name := o.Name()
		if _, twice := s.overlays[name]; twice || name == "" || strings.ContainsAny(name, " \t\n") {
			return nil, fmt.Errorf("overlay: switch: bad or repeated overlay name %q", name)
		}
		s.names, s.overlays[name] = append(s.names, name), o
	}
	if fast := slices.Index(s.names, "fastdp"); fast >= 0 && slices.Contains(s.names[:fast], legacyOverlay) {
		return nil, errors.New("overlay: switch: fastdp has to come before sleeve")
	}
	if s.forwarder == nil {
		s.forwarder = NewForwarder(c.Self)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.scratch.New = func() any { return new(batch) }
	return s, nil
}

// Offer returns the names of the overlays, for the handshake's FeatureKey.
func (s *Switch) Offer() string { return strings.Join(s.names, " ") }

// Forwarder returns what decides for the switch.
func (s *Switch) Forwarder() *Forwarder { return s.forwarder }

// Prepare makes the links for a connection of the mesh, silent until [Bundle.Confirm]. p.SendControl, p.Report and
// p.Receive are the switch's to fill in; instead send sends a message with a mesh tag (1, 2, 3 or ControlTag) to the other
// end, without blocking, and report learns, with Established, that the first link is up and, with Failed, that none is left.
// It may not block nor close the bundle.
func (s *Switch) Prepare(p Params, send func(tag byte, payload []byte) error, report func(Event)) (*Bundle, error) {
	b := &Bundle{sw: s, remote: p.Remote, report: report}
	if err := b.prepare(p, s.overlays, s.names, send); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Run moves frames from the port until ctx ends or the port fails, forgets old stations, and asks for members of groups. Frames
// from links are moved by the overlays, whether or not the switch runs. It closes the port before it returns; the error is nil if
// ctx ended.
func (s *Switch) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queues := s.queues()
	failed := make(chan error, len(queues))
	var wg sync.WaitGroup
	for _, read := range queues {
		wg.Go(func() { failed <- s.readPort(read) })
	}
	if s.announce != nil {
		wg.Go(func() { s.runGroups(ctx) })
	}
	err := s.expireUntil(ctx, failed)
	cancel()
	if s.port != nil {
		_ = s.port.Close()
	}
	wg.Wait()
	return err
}

func (s *Switch) expireUntil(ctx context.Context, failed <-chan error) error {
	tick := time.NewTicker(expireInterval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.forwarder.Expire(now)
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// queues returns the ways to read the port, none without one.
func (s *Switch) queues() (read []func([]Frame) (int, error)) {
	switch p := s.port.(type) {
	case nil:
	case QueuedPort:
		for queue := range p.Queues() {
			read = append(read, func(frames []Frame) (int, error) { return p.ReadQueue(queue, frames) })
		}
	default:
		read = append(read, p.ReadFrames)
	}
	return read
}

// readPort moves frames from a queue of the port to the links until the port fails or is closed.
func (s *Switch) readPort(read func([]Frame) (int, error)) error {
	frames, bufs := make([]Frame, portBatch), make([][]byte, portBatch)
	for i := range bufs {
		bufs[i] = make([]byte, portBuffer)
	}
	b := new(batch)
	for {
		for i := range frames {
			frames[i] = Frame{Data: bufs[i]}
		}
		n, err := read(frames)
		if err != nil {
			return fmt.Errorf("overlay: port %s: %w", s.port.Name(), err)
		}
		now := time.Now()
		for i := range frames[:n] {
			f := &frames[i]
			s.apply(b, s.forwarder.CapturedFrame(now, f.Data), f)
		}
		s.flush(b, true)
	}
}

// receive moves frames that came over a link.
func (s *Switch) receive(frames []Frame) {
	b := s.scratch.Get().(*batch)
	now := time.Now()
	for i := range frames {
		f := &frames[i]
		s.apply(b, s.forwarder.ReceivedFrame(now, f.Src, f.Dst, f.Data), f)
	}
	s.flush(b, false)
	s.scratch.Put(b)
}

func (s *Switch) apply(b *batch, d Decision, f *Frame) {
	if d.Drop != DropNone {
		s.drop(d.Drop)
		return
	}
	if d.Local {
		b.local = append(b.local, *f)
	}
	if d.Hop != 0 {
		b.add(d.Hop, Frame{Data: f.Data, Src: d.Source, Dst: d.Dst, Hops: f.Hops, Segments: f.Segments})
	}
	for _, hop := range d.Flood {
		b.add(hop, Frame{Data: f.Data, Src: d.Source, Dst: hop, Flooded: true, Hops: f.Hops, Segments: f.Segments})
	}
}

// flush sends what the batch has gathered and empties it. Of frames captured here, datapaths have sent their part.
func (s *Switch) flush(b *batch, captured bool) {
	if len(b.local) > 0 && s.port != nil {
		if err := s.port.WriteFrames(b.local); err != nil {
			s.portErr.Add(1)
		}
	}
	links := s.forwarder.links.all()
	for i := range b.hops[:b.n] {
		out := &b.hops[i]
		if link := links[out.hop]; link == nil || !link.send(out.frames, captured) {
			s.drops[DropNoLink].Add(uint64(len(out.frames)))
		}
	}
	b.reset()
}

func (s *Switch) drop(r DropReason) { s.drops[r].Add(1) }

// SwitchStatus describes a switch for people and for metrics.
type SwitchStatus struct {
	Port       string            `json:"port,omitempty"`
	PortErrors uint64            `json:"port_errors"` // batches that the port did not take
	Overlays   []string          `json:"overlays"`
	MACs       []MACEntry        `json:"macs"`
	Groups     []GroupEntry      `json:"groups,omitempty"`     // what the stations of peers are members of
	AllGroups  []peer.Name       `json:"all_groups,omitempty"` // peers that get the frames of all groups
	Drops      map[string]uint64 `json:"drops,omitempty"`      // frames that went nowhere, by reason
}

// Status describes the switch as it is now.
func (s *Switch) Status() SwitchStatus {
	st := SwitchStatus{Overlays: s.names, MACs: s.forwarder.MACs(), PortErrors: s.portErr.Load(), Drops: map[string]uint64{}}
	if s.port != nil {
		st.Port = s.port.Name()
	}
	if s.announce != nil {
		st.Groups, st.AllGroups = s.forwarder.Groups(), s.forwarder.WantAll()
	}
	for r := range s.drops {
		if n := s.drops[r].Load(); n > 0 {
			st.Drops[DropReason(r).String()] = n
		}
	}
	return st
}

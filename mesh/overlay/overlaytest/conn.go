package overlaytest

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// End is what one peer brings to a connection.
type End struct {
	// Overlay is the carrier, running if it has to.
	Overlay overlay.Overlay
	// Self is the peer's name.
	Self peer.Name
	// Addr is the peer's end of the mesh connection.
	Addr netip.AddrPort
	// Features are what the peer says of itself in the handshake. Nil means nothing.
	Features map[string]string
	// Datagrams returns how many datagrams the peer has put on the medium so far. Nil means that this is not known.
	Datagrams func() int
}

// Conn stands for a mesh connection between two peers, which A has dialled: it carries the control messages of their
// links, in order.
type Conn struct {
	A, B *Side
}

// Side is one end of a Conn with its link. It notes what the link reports and receives.
type Side struct {
	// Params are what Prepare gives to the overlay. They may be changed before that.
	Params overlay.Params
	// Link is nil before Prepare.
	Link overlay.Link
	// Events has what the link reported; there is room for 64.
	Events chan overlay.Event
	// Frames has copies of what the link received; there is room for 4,096, and what finds none is dropped.
	Frames chan overlay.Frame

	end     End
	pause   func()       // if set, called by Receive first
	inbox   chan control // for our link, from the other side's
	closing chan struct{}
	once    sync.Once
	running sync.WaitGroup

	confirmed, closed atomic.Bool

	mu       sync.Mutex
	breaches []string
}

type control struct {
	tag     byte
	payload []byte
}

// Connect makes a connection whose links are not prepared yet. key is its session key, nil for none.
func Connect(a, b End, connUID uint64, key *[32]byte) *Conn {
	c := &Conn{A: newSide(a, b), B: newSide(b, a)}
	c.A.Params.Outbound = true
	c.A.join(c.B, connUID, key)
	c.B.join(c.A, connUID, key)
	return c
}

func newSide(self, remote End) *Side {
	s := &Side{
		end:     self,
		Events:  make(chan overlay.Event, 64),
		Frames:  make(chan overlay.Frame, 4096),
		inbox:   make(chan control, 1024),
		closing: make(chan struct{}),
	}
	s.Params = overlay.Params{Self: self.Self, Remote: remote.Self, Local: self.Addr, RemoteAddr: remote.Addr, Features: remote.Features}
	if s.Params.Features == nil {
		s.Params.Features = map[string]string{}
	}
	return s
}

func (s *Side) join(other *Side, connUID uint64, key *[32]byte) {
	s.Params.ConnUID = connUID
	if key != nil {
		k := *key
		s.Params.Key = &k
	}
	s.Params.SendControl = func(tag byte, payload []byte) error {
		s.check("SendControl", true)
		select {
		case other.inbox <- control{tag, bytes.Clone(payload)}:
			return nil
		case <-other.closing:
			return fmt.Errorf("overlaytest: connection closed")
		}
	}
	s.Params.Report = func(e overlay.Event) {
		s.check(fmt.Sprintf("Report of kind %d", e.Kind), true)
		select {
		case s.Events <- e:
		default:
			s.breach("more than 64 events")
		}
	}
	s.Params.Receive = func(frames []overlay.Frame) {
		s.check("Receive", false)
		if s.pause != nil {
			s.pause()
		}
		for _, f := range frames {
			f.Data = bytes.Clone(f.Data)
			select {
			case s.Frames <- f:
			default:
			}
		}
	}
}

// check notes a call that may not happen now.
func (s *Side) check(call string, needsConfirm bool) {
	if s.closed.Load() {
		s.breach(call + " after Close")
	}
	if needsConfirm && !s.confirmed.Load() {
		s.breach(call + " before Confirm")
	}
}

func (s *Side) breach(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaches = append(s.breaches, text)
}

// Breaches lists the link's calls that the contract forbids: before Confirm, or after Close.
func (s *Side) Breaches() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.breaches...)
}

// Prepare prepares the link. Control messages that the other side has sent reach it from now on.
func (s *Side) Prepare() error {
	link, err := s.end.Overlay.Prepare(s.Params)
	if err != nil {
		return err
	}
	s.Link = link
	s.running.Go(func() {
		for {
			select {
			case m := <-s.inbox:
				link.Control(m.tag, m.payload)
				clear(m.payload) // it was borrowed
			case <-s.closing:
				return
			}
		}
	})
	return nil
}

// Confirm confirms the link.
func (s *Side) Confirm() {
	s.confirmed.Store(true)
	s.Link.Confirm()
}

// Close closes this side's link, if it was prepared, and its half of the connection.
func (s *Side) Close() {
	s.once.Do(func() { close(s.closing) })
	s.running.Wait()
	if s.Link != nil {
		s.Link.Close()
	}
	s.closed.Store(true)
}

// Close closes both sides.
func (c *Conn) Close() {
	c.A.Close()
	c.B.Close()
}

// Up prepares and confirms both sides; they are closed if it fails.
func (c *Conn) Up() error {
	for _, s := range []*Side{c.A, c.B} {
		if err := s.Prepare(); err != nil {
			c.Close()
			return err
		}
	}
	c.A.Confirm()
	c.B.Confirm()
	return nil
}

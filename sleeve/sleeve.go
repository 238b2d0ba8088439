package sleeve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Name is the name of the overlay in the mesh's handshake.
const Name = "sleeve"

var (
	// ErrNoAddress is wrapped by errors of Prepare: the address of the remote is unknown or cannot be reached through the
	// socket.
	ErrNoAddress = errors.New("no usable address of the remote")

	errRunTwice = errors.New("sleeve: Run was called before")
)

var _ overlay.Overlay = (*Overlay)(nil)

// Config configures an Overlay.
type Config struct {
	// Self is the name of this peer. Required.
	Self peer.Name
	// Socket is where datagrams come and go. Required. [Overlay.Run] closes it.
	Socket Conn
	// Log gets what is worth a line. Nil means silence.
	Log *slog.Logger
}

// Overlay carries frames over UDP; it implements [overlay.Overlay]. It is safe for concurrent use.
type Overlay struct {
	// constant
	self   peer.Name
	conn   Conn
	log    *slog.Logger
	second *Overlay2

	// atomic
	short      atomic.Uint64
	strangers  atomic.Uint64
	readErrors atomic.Uint64
	ran        atomic.Bool

	links   table[peer.Name, *link] // by remote; confirmed ones
	senders sync.Pool               // of *sender
}

// New makes an overlay; it starts nothing.
func New(c Config) (*Overlay, error) {
	if !c.Self.IsValid() {
		return nil, fmt.Errorf("sleeve: Config.Self is required: %w", peer.ErrInvalidName)
	}
	if c.Socket == nil {
		return nil, errors.New("sleeve: Config.Socket is required")
	}
	o := &Overlay{self: c.Self, conn: c.Socket, log: c.Log}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	o.senders.New = func() any { return newSender() }
	o.second = newOverlay2(o)
	return o, nil
}

// Name implements [overlay.Overlay]; it returns the constant Name.
func (o *Overlay) Name() string { return Name }

// Prepare implements [overlay.Overlay]. The error wraps ErrNoAddress if the remote cannot be reached through the socket.
// Datagrams of an outbound connection go to the UDP port with the number of the dialled TCP port; those of an inbound one to
// where the remote's come from.
func (o *Overlay) Prepare(p overlay.Params) (overlay.Link, error) {
	if err := o.check(p); err != nil {
		return nil, err
	}
	return newLink(o, p), nil
}

// check checks what a link is to be made of.
func (o *Overlay) check(p overlay.Params) error {
	switch {
	case p.Self != o.self || !p.Remote.IsValid() || p.Remote == p.Self:
		return fmt.Errorf("sleeve: link from %s to %s: %w", p.Self, p.Remote, peer.ErrInvalidName)
	case p.SendControl == nil || p.Report == nil || p.Receive == nil:
		return errors.New("sleeve: link without functions")
	}
	if p.Outbound {
		remote, local := p.RemoteAddr.Addr().Unmap(), o.conn.LocalAddr().Addr()
		if !p.RemoteAddr.IsValid() || p.RemoteAddr.Port() == 0 {
			return fmt.Errorf("sleeve: %w: %s", ErrNoAddress, p.RemoteAddr)
		}
		if remote.Is6() && local.Is4() {
			return fmt.Errorf("sleeve: %w: %s is IPv6, the socket is IPv4", ErrNoAddress, remote)
		}
	}
	return nil
}

// Run receives datagrams until ctx ends or the socket fails. It closes the socket and returns when nothing is read any
// more; the error is nil if ctx ended. The links remain and are to be closed by whoever prepared them. It may be called once.
func (o *Overlay) Run(ctx context.Context) error {
	if o.ran.Swap(true) {
		return errRunTwice
	}
	defer context.AfterFunc(ctx, func() { _ = o.conn.Close() })()
	errs := make([]error, o.conn.Queues())
	var wg sync.WaitGroup
	for queue := range errs {
		wg.Go(func() {
			errs[queue] = newReader(o).run(ctx, queue)
			_ = o.conn.Close() // so that the others end as well
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(errs...)
}

// register makes l the link that datagrams from its remote are for, in place of an older one.
func (o *Overlay) register(l *link) {
	o.links.change(func(links map[peer.Name]*link) { links[l.params.Remote] = l })
}

// unregister forgets l, unless a newer link has taken its place.
func (o *Overlay) unregister(l *link) {
	o.links.change(func(links map[peer.Name]*link) {
		if links[l.params.Remote] == l {
			delete(links, l.params.Remote)
		}
	})
}

// Status describes an overlay for people and for metrics. What its links do is in their own status.
type Status struct {
	Local      string `json:"local"`       // address and port it listens on
	Links      int    `json:"links"`       // confirmed ones
	Short      uint64 `json:"short"`       // datagrams too short to say who sent them
	Strangers  uint64 `json:"strangers"`   // datagrams that belong to no link here
	ReadErrors uint64 `json:"read_errors"` // of the socket
	// Offloads has, for each offload of the system, "in use" or why not; nil if the socket has none.
	Offloads map[string]string `json:"offloads,omitempty"`
}

// Status describes the overlay as it is now.
func (o *Overlay) Status() Status {
	return Status{
		Offloads: offloadsOf(o.conn),
		Local:    o.conn.LocalAddr().String(), Links: len(o.links.all()),
		Short: o.short.Load(), Strangers: o.strangers.Load(), ReadErrors: o.readErrors.Load(),
	}
}

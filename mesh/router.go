package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	topologyChannel = "topology"
	maxAddresses    = 16 // of a host name, that are tried
	resolveLimit    = 10 * time.Second
	dialLimit       = 10 * time.Second // for each address
	// receiverPatience is how long Run waits, at its end, for receivers that are in a call.
	receiverPatience = 10 * time.Second
)

// Router is one peer of a mesh. It is safe for concurrent use.
type Router struct {
	cfg        Config
	pace       pace
	dial       *dialer // owned by the engine once it runs
	surrogates *surrogates
	sources    *sources
	buffers    sync.Pool // of *[]byte, for writers

	view    atomic.Pointer[view]
	addr    atomic.Pointer[netip.AddrPort]
	setUps  atomic.Int32
	counter counters

	topoMu sync.RWMutex
	topo   *topology // written by the engine only

	events  chan func(*engine)
	stopped chan struct{} // closed when the engine takes no more events
	links   sync.WaitGroup

	mu       sync.Mutex
	channels []*channel // settled once it runs
	ending   bool       // no more links
	running  atomic.Bool
}

// counters count what happened since the start.
type counters struct {
	terminations, refused, unknownTags, unrouted atomic.Uint64

	topology channelCounters
}

// view is what senders and readers look at: an immutable picture of routes and links.
type view struct {
	graph *graph
	links map[peer.Name]*link
}

// linkTo returns the link over which unicasts for a peer go, nil if there is none.
func (v *view) linkTo(to peer.Name) *link {
	hop, ok := v.graph.next(v.graph.unicastAll(), to)
	if !ok {
		return nil
	}
	return v.links[hop]
}

// New makes a router; it starts nothing.
func New(c Config) (*Router, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	r := &Router{
		cfg: c, pace: pace{heartbeatInterval, silenceLimit, writeLimit}, dial: newDialer(c.DefaultPort, rand.Int64N),
		surrogates: newSurrogates(c.GossipInterval), sources: newSources(),
		events: make(chan func(*engine), 64), stopped: make(chan struct{}),
	}
	r.buffers.New = func() any { return new([]byte) }
	self := &entry{name: c.Name, uid: c.UID, nickname: c.Nickname, shortID: c.ShortID, hasShortID: true}
	r.topo = newTopology(self, randomInt)
	r.view.Store(&view{graph: newGraph(r.topo, nil)})
	if err := r.dial.connect(true, c.Targets, time.Now()); err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	return r, nil
}

func randomInt(n int) int { return rand.IntN(n) }

// Join implements [gossip.Bus]. The channel "topology" is the router's own.
func (r *Router) Join(name string, recv gossip.Receiver) (gossip.Sender, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := name == topologyChannel || slices.ContainsFunc(r.channels, func(c *channel) bool { return c.name == name })
	switch {
	case r.running.Load():
		return nil, fmt.Errorf("mesh: join %q: %w", name, gossip.ErrRunning)
	case taken:
		return nil, fmt.Errorf("mesh: join %q: %w", name, gossip.ErrChannelTaken)
	case name == "" || len(name) > maxChannelName:
		return nil, fmt.Errorf("mesh: join: channel name of %d bytes, want 1 to %d", len(name), maxChannelName)
	case recv == nil:
		return nil, fmt.Errorf("mesh: join %q: no receiver", name)
	}
	c := newChannel(r, name, recv)
	r.channels = append(r.channels, c)
	return c, nil
}

// Run takes part in the mesh until ctx ends. It listens first: if the port is taken, the error wraps
// [syscall.EADDRINUSE]. When it returns, no connection is open, and no goroutine of the router runs any more; so it waits
// for receivers that are in a call. One that does not return for ten seconds cannot be ended: then Run returns an error
// that wraps [ErrReceiver] and names the channel, and the goroutine ends when the receiver returns. A router runs once.
func (r *Router) Run(ctx context.Context) error {
	r.mu.Lock()
	again := r.running.Swap(true)
	r.mu.Unlock()
	if again {
		return errors.New("mesh: router has run already")
	}

	var listener net.Listener
	if r.cfg.Listen.IsValid() {
		var err error
		if listener, err = r.cfg.Network.Listen(ctx, r.cfg.Listen); err != nil {
			close(r.stopped)
			return fmt.Errorf("mesh: listen: %w", err)
		}
		addr := addrPortOf(listener.Addr())
		r.addr.Store(&addr)
	}
	return r.runEngine(ctx, listener)
}

func (r *Router) runEngine(ctx context.Context, listener net.Listener) error {
	e := newEngine(r, ctx)
	engineCtx, stopEngine := context.WithCancel(context.Background())
	defer stopEngine()
	var inner, outer sync.WaitGroup
	for _, c := range r.channels {
		go c.run(ctx)
	}
	outer.Go(func() { e.run(engineCtx) })
	if listener != nil {
		inner.Go(func() { r.accept(ctx, listener) })
		inner.Go(func() { // waited for: somebody may want to listen there next
			<-ctx.Done()
			_ = listener.Close()
		})
	}
	<-ctx.Done()
	inner.Wait()
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	r.links.Wait() // links need the engine to say good-bye to
	stopEngine()
	outer.Wait()
	return r.awaitReceivers()
}

// awaitReceivers waits for the goroutines of channels, which may be in a call into the application.
func (r *Router) awaitReceivers() error {
	patience, cancel := context.WithTimeout(context.Background(), receiverPatience)
	defer cancel()
	var errs []error
	for _, c := range r.channels {
		select {
		case <-c.ended:
			continue
		default:
		}
		select {
		case <-c.ended:
		case <-patience.Done():
			errs = append(errs, fmt.Errorf("mesh: channel %s: %w", c.name, ErrReceiver))
		}
	}
	return joined(errs)
}

// spawn starts a goroutine for a link, unless the router ends.
func (r *Router) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ending {
		r.links.Go(f)
	}
	return !r.ending
}

// sleep waits, and reports whether ctx has not ended by then.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve runs an inbound link.
func (r *Router) serve(ctx context.Context, c net.Conn) {
	l := newLink(ctx, r, c, nil)
	err := l.run()
	r.do(func(e *engine) { e.inboundEnded(l, err) })
}

// attempt dials a target and runs the link that comes of it.
func (r *Router) attempt(ctx context.Context, t target) {
	l, err := r.reach(ctx, &t)
	if err == nil {
		err = l.run()
	}
	r.do(func(e *engine) { e.outboundEnded(t.key, l, err) })
}

// reach resolves and dials a target.
func (r *Router) reach(ctx context.Context, t *target) (*link, error) {
	addrs := []netip.Addr{t.endpoint.addr}
	if !t.endpoint.addr.IsValid() {
		var err error
		if addrs, err = r.resolve(ctx, t.endpoint.host); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", t.endpoint.host, err)
		}
		r.do(func(e *engine) { e.r.dial.resolved[t.key] = addrs })
	}
	port := t.endpoint.port
	if port == 0 {
		port = r.cfg.DefaultPort
	}
	var errs []error
	for _, a := range addrs {
		c, err := r.dialAddr(ctx, netip.AddrPortFrom(a.Unmap(), port))
		if err == nil {
			return newLink(ctx, r, c, t), nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("no addresses for %s", t.endpoint.host)
	}
	return nil, joined(errs)
}

func (r *Router) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	addrs, err := r.cfg.Network.Resolve(ctx, host)
	return addrs[:min(len(addrs), maxAddresses)], err
}

func (r *Router) dialAddr(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	return r.cfg.Network.Dial(ctx, r.cfg.Listen.Addr(), to)
}

// post has the engine do something, soon. It must not be called by the engine.
func (r *Router) post(f func(*engine)) {
	select {
	case r.events <- f:
	case <-r.stopped:
	}
}

// do has the engine do something, and waits until it is done; nothing is done if the router does not run.
func (r *Router) do(f func(*engine)) {
	if !r.running.Load() {
		return
	}
	done := make(chan struct{})
	r.post(func(e *engine) {
		f(e)
		close(done)
	})
	select {
	case <-done:
	case <-r.stopped:
	}
}

// look looks at what the engine owns, whether it runs or not yet: then e is nil. Nothing is looked at after it has run.
func (r *Router) look(f func(d *dialer, e *engine)) {
	r.mu.Lock()
	if !r.running.Load() {
		defer r.mu.Unlock()
		f(r.dial, nil)
		return
	}
	r.mu.Unlock()
	r.do(func(e *engine) { f(r.dial, e) })
}

// change does something to the targets, whether the engine runs or not yet.
func (r *Router) change(f func(*dialer) error) error {
	err := ErrClosed
	r.look(func(d *dialer, e *engine) {
		if err = f(d); e != nil {
			e.dialSoon(time.Now())
		}
	})
	return err
}

// Connect adds peers to connect to, as "host" or "host:port"; a host without a port means our DefaultPort. With replace
// all earlier ones are dropped. Names are resolved at every attempt. Entries that do not parse are reported, the others
// are taken. No connection is closed.
func (r *Router) Connect(replace bool, targets ...string) error {
	return r.change(func(d *dialer) error { return d.connect(replace, targets, time.Now()) })
}

// Forget drops peers that [Router.Connect] was given, by the same text. Connections to them stay.
func (r *Router) Forget(targets ...string) {
	_ = r.change(func(d *dialer) error { d.forget(targets); return nil })
}

// Targets returns how many peers to connect to were given, and how many of them may be other peers: not ourselves, and not
// one with our name.
func (r *Router) Targets() (given, live int) {
	r.look(func(d *dialer, _ *engine) { given, live = d.counts() })
	return given, live
}

// Addr returns the address we listen on; it is invalid before Run has it, and if we do not listen.
func (r *Router) Addr() netip.AddrPort {
	if a := r.addr.Load(); a != nil {
		return *a
	}
	return netip.AddrPort{}
}

// Self implements [gossip.Bus].
func (r *Router) Self() gossip.Member {
	return gossip.Member{Name: r.cfg.Name, UID: r.cfg.UID, Nickname: r.cfg.Nickname}
}

// Member implements [gossip.Bus].
func (r *Router) Member(name peer.Name) (gossip.Member, bool) {
	g := r.view.Load().graph
	i, ok := g.number(name)
	if !ok {
		return gossip.Member{}, false
	}
	return member(g.entries[i]), true
}

// Members implements [gossip.Bus].
func (r *Router) Members() []gossip.Member {
	g := r.view.Load().graph
	out := make([]gossip.Member, len(g.entries))
	for i, e := range g.entries {
		out[i] = member(e)
	}
	return out
}

func member(e *entry) gossip.Member {
	return gossip.Member{Name: e.name, UID: e.uid, Nickname: e.nickname}
}

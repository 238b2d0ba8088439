package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// Allocator gives out the addresses of one peer. It is safe for concurrent use.
//
// Calls that need a stored ring, or change anything in a store, wait for Run. What [New] loaded can be looked up at once.
type Allocator struct {
	bus    gossip.Bus
	sender gossip.Sender
	store  Store // nil: nothing is stored
	now    func() time.Time
	codec  codec

	published atomic.Pointer[view] // what others are to hear; all of it is stored
	kick      chan struct{}        // holds one token while there is something to store or to send
	toSend    chan struct{}        // holds one token while the post is not empty

	mu       sync.Mutex // guards all below
	core     *core
	next     *batch // gathers what is dirty
	flight   *batch // being committed; nil if none
	running  bool
	ended    bool
	commits  uint64
	storeErr error // of the last commit

	postMu sync.Mutex // guards post; may be taken with mu held
	post   outbox     // stored, and to be sent
}

// batch is one commit, for those who wait for it.
type batch struct {
	done chan struct{} // closed when err is valid
	err  error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// New checks c, joins the bus, and loads what is stored. It starts nothing; Run does the work.
//
// Contents of the store that belong to another peer name or to another universe are of no use: they are reported to the
// log, and replaced.
func New(c Config) (*Allocator, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Allocator{
		bus:    c.Bus,
		store:  c.Store,
		now:    c.Now,
		kick:   make(chan struct{}, 1),
		toSend: make(chan struct{}, 1),
		next:   newBatch(),
	}
	if a.core, err = newCore(c, membership{c.Bus}); err != nil {
		return nil, err
	}
	channel := Channel
	a.codec = gobCodec{}
	if !a.core.is4() {
		channel, a.codec = Channel6, compactCodec{}
	}
	a.published.Store(a.core.view(nil))
	a.core.birthBySeed(a.now())
	a.core.adopt(c.Adopt)
	if a.sender, err = c.Bus.Join(channel, receiver{a}); err != nil {
		return nil, fmt.Errorf("ipam: %w", err)
	}
	return a, nil
}

// membership answers core's questions about peers.
type membership struct{ bus gossip.Bus }

func (m membership) reachable(n peer.Name) bool {
	_, ok := m.bus.Member(n)
	return ok
}

func (m membership) count() int { return len(m.bus.Members()) }

func (m membership) names() []peer.Name {
	members := m.bus.Members()
	out := make([]peer.Name, len(members))
	for i, x := range members {
		out[i] = x.Name
	}
	return out
}

// Allocate gives owner an address of subnet, which is the default subnet if it is zero, and returns it with the subnet's
// prefix length. An owner has one address in a subnet: the call may be repeated. It waits for the ring to be made and for
// peers to give us space, as long as ctx allows; see [ErrNoRing] and [ErrExhausted].
//
// The subnet's first and last address are not given out: of IPv4 those of network and broadcast; of IPv6 the first is the
// anycast address of routers (RFC 4291, 2.6.1), and the last is left out to have one rule. If the call fails although an address was
// found, since ctx ends at that moment or the store fails, the address stays with the owner, who may ask again or be freed; one of
// [Anonymous] is taken back.
func (a *Allocator) Allocate(ctx context.Context, owner string, subnet netip.Prefix) (netip.Prefix, error) {
	if !subnet.IsValid() {
		subnet = a.core.subnet
	}
	if err := errors.Join(checkOwner(owner), checkSubnet(subnet)); err != nil {
		return netip.Prefix{}, fmt.Errorf("ipam: %w", err)
	}
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return netip.Prefix{}, fmt.Errorf("ipam: allocate for %s: %w", owner, ErrClosed)
	}
	p, w, err := a.core.allocate(owner, subnet, a.now())
	b := a.unlock()
	if err != nil {
		return netip.Prefix{}, err
	}
	if w != nil {
		if err := a.wait(ctx, w); err != nil {
			a.disown(owner, w.result)
			return netip.Prefix{}, fmt.Errorf("ipam: allocate in %v for %s: %w", subnet, owner, err)
		}
		a.mu.Lock()
		b, p = a.unlock(), w.result
	}
	if err := b.wait(ctx); err != nil {
		a.disown(owner, p)
		return netip.Prefix{}, fmt.Errorf("ipam: allocate for %s: %w", owner, err)
	}
	return p, nil
}

// disown takes back an address that nobody will ever hear of: its owner is [Anonymous], and the call has failed.
func (a *Allocator) disown(owner string, p netip.Prefix) {
	if owner != Anonymous || !p.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.unlock()
	a.core.letGo(p.Addr().String(), func(x netip.Prefix) bool { return x.Addr() == p.Addr() })
	a.core.retryAllocs(a.now())
}

// Claim records that owner has an address, which it got elsewhere or in an earlier life. If the address lies in another
// peer's piece, that peer is asked for it, and Claim waits for the answer. It fails with [ErrConflict] if another owner
// or peer has the address; for an address that owner has already it succeeds. Addresses outside the universe are
// recorded as they are.
func (a *Allocator) Claim(ctx context.Context, owner string, p netip.Prefix) error {
	if err := errors.Join(checkOwner(owner), a.core.checkAddr(p)); err != nil {
		return fmt.Errorf("ipam: %w", err)
	}
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return fmt.Errorf("ipam: claim %v: %w", p, ErrClosed)
	}
	w, err := a.core.claim(owner, p, a.now())
	b := a.unlock()
	if err != nil {
		return err
	}
	if w != nil {
		if err := a.wait(ctx, w); err != nil {
			return fmt.Errorf("ipam: claim %v for %s: %w", p, owner, err)
		}
		a.mu.Lock()
		b = a.unlock()
	}
	if err := b.wait(ctx); err != nil {
		return fmt.Errorf("ipam: claim %v for %s: %w", p, owner, err)
	}
	return nil
}

// Prime waits until there is a ring, and gets one made if need be.
func (a *Allocator) Prime(ctx context.Context) error {
	a.mu.Lock()
	if a.ended || a.core.standing.has(released) {
		defer a.mu.Unlock()
		if a.ended {
			return fmt.Errorf("ipam: prime: %w", ErrClosed)
		}
		return fmt.Errorf("ipam: prime: %w", ErrReleased)
	}
	a.core.startVote(a.now())
	if a.core.hasRing() {
		b := a.unlock()
		return b.wait(ctx)
	}
	if a.core.waiting.len() >= maxWaiting {
		a.mu.Unlock()
		return fmt.Errorf("ipam: prime: %w", ErrBusy)
	}
	w := newWaiter("")
	a.core.waiting.primes = append(a.core.waiting.primes, w)
	a.unlock()
	if err := a.wait(ctx, w); err != nil {
		return fmt.Errorf("ipam: prime: %w", err)
	}
	return nil
}

// Lookup returns the addresses that owner has in subnet (the default subnet if it is zero), in the order in which it got
// them. The subnet's first and last address are not listed.
func (a *Allocator) Lookup(owner string, subnet netip.Prefix) []netip.Prefix {
	if !subnet.IsValid() {
		subnet = a.core.subnet
	}
	hosts := addr.FromPrefix(subnet).Hosts()
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []netip.Prefix
	for _, p := range a.core.book.of(owner) {
		if p.Addr().Is4() == subnet.Addr().Is4() && hosts.Contains(addr.FromNetip(p.Addr())) {
			out = append(out, p)
		}
	}
	return out
}

// Owned is an owner with its addresses, in the order in which it got them.
type Owned struct {
	Owner string         `json:"owner"`
	Addrs []netip.Prefix `json:"addrs"`
}

// Owners lists everyone who has an address, by name.
func (a *Allocator) Owners() []Owned {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Owned, 0, len(a.core.book.addrs))
	for owner, list := range a.core.book.addrs {
		out = append(out, Owned{owner, slices.Clone(list)})
	}
	slices.SortFunc(out, func(x, y Owned) int {
		if x.Owner < y.Owner {
			return -1
		}
		return 1
	})
	return out
}

// Free takes an address from owner. It fails with [ErrNotOwned] if owner does not have it, and that is stored.
func (a *Allocator) Free(ctx context.Context, owner string, ip netip.Addr) error {
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return fmt.Errorf("ipam: free %v: %w", ip, ErrClosed)
	}
	found := a.core.letGo(owner, func(p netip.Prefix) bool { return p.Addr() == ip })
	a.core.retryAllocs(a.now())
	if err := a.unlock().wait(ctx); err != nil {
		return fmt.Errorf("ipam: free %v: %w", ip, err)
	}
	if !found {
		return fmt.Errorf("ipam: free: %w: address %v not found for %s", ErrNotOwned, ip, owner)
	}
	return nil
}

// FreeAll takes all addresses from owner. It fails with [ErrNotOwned] if there are none, and that is stored. Calls that wait
// for an address for this owner are not touched.
func (a *Allocator) FreeAll(ctx context.Context, owner string) error {
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return fmt.Errorf("ipam: free all of %s: %w", owner, ErrClosed)
	}
	found := a.core.letGo(owner, func(netip.Prefix) bool { return true })
	a.core.retryAllocs(a.now())
	if err := a.unlock().wait(ctx); err != nil {
		return fmt.Errorf("ipam: free all of %s: %w", owner, err)
	}
	if !found {
		return fmt.Errorf("ipam: free all: %w: no addresses for %s", ErrNotOwned, owner)
	}
	return nil
}

// Release leaves the cluster: all our pieces go to another peer, our addresses are forgotten, what waits fails with
// [ErrReleased], and so does every later allocation and claim. It returns when this is stored and was handed to the
// carrier; nobody confirms that it was heard. Keep Run and the carrier running for a second or so, until it has reached a
// neighbour. If there is only a peer of Weave Net 2.8 to give them to, pieces that were taken over from the dead remain ours,
// and the log says so.
func (a *Allocator) Release(ctx context.Context) error {
	var known []peer.Name
	for _, m := range a.bus.Members() {
		known = append(known, m.Name)
	}
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return fmt.Errorf("ipam: release: %w", ErrClosed)
	}
	a.core.release(known)
	b := a.pending()
	a.unlock()
	if err := b.wait(ctx); err != nil {
		return fmt.Errorf("ipam: release: %w", err)
	}
	return nil
}

// TakeOver makes us the owner of everything that belongs to a peer which is gone for good, and returns how many
// addresses became free here. First the peers in reach are asked for their rings, for a few seconds at most, so that
// what the peer had given away is not taken; who does not answer is told of in the log. It fails with [ErrReachable] for a
// peer that takes part in the mesh. For ourselves, and for a peer without space, it returns 0. A dispute with the peer ends in
// our favour.
//
// Only one peer of a cluster may take over another; who that is must be settled outside.
func (a *Allocator) TakeOver(ctx context.Context, gone peer.Name) (uint64, error) {
	var others []peer.Name
	for _, m := range a.bus.Members() {
		if m.Name != a.core.me && m.Name != gone {
			others = append(others, m.Name)
		}
	}
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return 0, fmt.Errorf("ipam: take over %v: %w", gone, ErrClosed)
	}
	done := a.core.beginSurvey(others, a.now())
	a.unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return 0, fmt.Errorf("ipam: take over %v: %w", gone, ctx.Err())
	}
	a.mu.Lock()
	if a.ended {
		a.mu.Unlock()
		return 0, fmt.Errorf("ipam: take over %v: %w", gone, ErrClosed)
	}
	n, err := a.core.takeOver(gone, a.now())
	b := a.pending()
	a.unlock()
	if err != nil {
		return 0, err
	}
	if err := b.wait(ctx); err != nil {
		return 0, fmt.Errorf("ipam: take over %v: %w", gone, err)
	}
	return n, nil
}

// Find returns the peer that text names, as an operator would write it: by nickname, or by its name. ok is false if no
// such peer is known. It fails with [ErrAmbiguous] if several carry the nickname.
func (a *Allocator) Find(text string) (name peer.Name, ok bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.core.find(text)
}

// DefaultSubnet returns what is allocated from when a call names no subnet.
func (a *Allocator) DefaultSubnet() netip.Prefix { return a.core.subnet }

func checkOwner(owner string) error {
	if owner == "" || len(owner) > maxOwner {
		return fmt.Errorf("%w: want 1 to %d bytes, not %d", ErrInvalidOwner, maxOwner, len(owner))
	}
	return nil
}

func (c *core) checkAddr(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().BitLen() != c.prefix.Addr().BitLen() || p.Addr().Is4In6() {
		return fmt.Errorf("%w - not an address of the family of %v with a prefix length: %v", ErrInvalidSubnet, c.prefix, p)
	}
	return nil
}

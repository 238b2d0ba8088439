package ipsec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/overweave/overweave/fastdp"
)

// Defaults of [Config].
const (
	DefaultHold         = time.Minute // as long as flows are, in package fastdp
	DefaultGrace        = 10 * time.Second
	DefaultRekeyAfter   = time.Hour
	DefaultRekeyPackets = 1 << 32
	DefaultSweep        = 10 * time.Second
)

const (
	oldWireRekey = time.Hour              // 2.8 leaks an association each time
	sweepGap     = 100 * time.Millisecond // between sweeps that changes by others cause
	watchPause   = time.Second            // after a failure to watch
)

// ErrLost is wrapped by errors about a tunnel to Weave Net 2.8 whose key somebody else deleted from the kernel. It wraps
// [fastdp.ErrNewConnection]: 2.8 announces its key once in a connection.
var ErrLost = fmt.Errorf("the association was deleted by others: %w", fastdp.ErrNewConnection)

// Config configures a [Protector].
type Config struct {
	// Kernel keeps policies and associations. Required. It is used until Run has returned and all protections are closed, and
	// not closed.
	Kernel Kernel
	// Hold is how long what belongs to a closed tunnel, or to a former run, is kept; 0 means DefaultHold. Negative: not at all.
	Hold time.Duration
	// Grace is how long an old key does beside a new one that has carried packets already; 0 means DefaultGrace.
	Grace time.Duration
	// RekeyAfter is the age at which a key is replaced; 0 means DefaultRekeyAfter. With 2.8 it is an hour at least.
	RekeyAfter time.Duration
	// RekeyPackets is the number of packets after which a key is replaced, checked at each sweep; 0 means
	// DefaultRekeyPackets. With 2.8 not before an hour either.
	RekeyPackets uint64
	// Sweep is how often the kernel is compared with what ought to be there, also without news from it; 0 means DefaultSweep.
	Sweep time.Duration
	// Log hears of repairs and of failures that no caller hears of; nil means silence.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	or := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	or(&c.Hold, DefaultHold)
	or(&c.Grace, DefaultGrace)
	or(&c.RekeyAfter, DefaultRekeyAfter)
	or(&c.Sweep, DefaultSweep)
	if c.RekeyPackets == 0 {
		c.RekeyPackets = DefaultRekeyPackets
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Protector guards tunnel ports and encrypts tunnels; it implements [fastdp.Protector]. Its methods work without Run, which
// makes the calls to report, ends holds, changes keys and repairs. It is safe for concurrent use.
type Protector struct {
	cfg  Config
	wake chan struct{} // capacity 1: there is something for Run to do

	mu           sync.Mutex // never held while send or report runs
	ports        map[uint16]bool
	policies     map[policyID]Policy // as they are in the kernel
	associations map[associationID]*association
	pairs        map[tuple]*pair
	due          []*Protection // that have calls to be made
	lastReqID    uint32
	swept        time.Time // when the last sweep was
	sweepAt      time.Time // when the next one is due
	counters     counters
}

var _ fastdp.Protector = (*Protector)(nil)

// New makes a protector that has not touched the kernel yet.
func New(cfg Config) (*Protector, error) {
	if cfg.Kernel == nil {
		return nil, errors.New("ipsec: Config.Kernel is required")
	}
	if cfg.Grace < 0 || cfg.RekeyAfter < 0 || cfg.Sweep < 0 {
		return nil, errors.New("ipsec: negative duration")
	}
	return &Protector{
		cfg: cfg.withDefaults(), wake: make(chan struct{}, 1),
		ports: map[uint16]bool{}, policies: map[policyID]Policy{}, associations: map[associationID]*association{}, pairs: map[tuple]*pair{},
		lastReqID: rand.Uint32N(reqIDs), // so that two daemons in one namespace seldom use the same
	}, nil
}

// Guard blocks a tunnel port for all but tunnels in force, and adopts what a former run left for it. Call it before the
// tunnel device is made. Repeated calls do nothing. On error the port may be only partly blocked.
func (g *Protector) Guard(port uint16) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.kick()
	return g.guard(port)
}

func (g *Protector) guard(port uint16) error {
	if port == 0 {
		return errors.New("ipsec: guard: no port")
	}
	if g.ports[port] {
		return nil
	}
	for _, p := range blocks(port) {
		err := g.put(p)
		if errors.Is(err, errors.ErrUnsupported) && p.Src.Addr().Is6() {
			continue // nothing to block
		}
		if err != nil {
			return fmt.Errorf("ipsec: guard port %d: %w", port, err)
		}
	}
	if err := g.adopt(port, time.Now()); err != nil {
		return fmt.Errorf("ipsec: guard port %d: %w", port, err)
	}
	g.ports[port] = true
	return nil
}

// blocks are the policies that drop everything to a port.
func blocks(port uint16) (policies []Policy) {
	for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		for _, d := range []Direction{Out, In} {
			policies = append(policies, Policy{Selector: Selector{Src: all, Dst: all, Port: port}, Direction: d, Action: Block})
		}
	}
	return policies
}

// Run serves until ctx ends and then returns nil, when all its goroutines have ended. What is in the kernel stays: closed
// tunnels are on hold until the next run, the port stays blocked. It may be called once.
func (g *Protector) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { g.watch(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		case <-timer.C:
		}
		next := g.step(time.Now())
		g.deliver()
		timer.Reset(next)
	}
}

// watch listens for changes in the kernel.
func (g *Protector) watch(ctx context.Context) {
	for {
		err := g.cfg.Kernel.Watch(ctx, g.changed)
		if ctx.Err() != nil {
			return
		}
		g.cfg.Log.Warn("changes in the kernel may have been missed", "err", err)
		g.changed(Event{All: true})
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchPause):
		}
	}
}

// changed looks at the kernel soon if a change is about what is ours.
func (g *Protector) changed(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.All && !g.ports[e.Port] && !g.uses(e.SPI) {
		return
	}
	if at := g.swept.Add(sweepGap); at.Before(g.sweepAt) {
		g.sweepAt = at
		g.kick()
	}
}

func (g *Protector) uses(spi uint32) bool {
	for id := range g.associations {
		if id.spi == spi {
			return true
		}
	}
	return false
}

// kick has Run look after what is to be done.
func (g *Protector) kick() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// deliver makes the calls that are due, without the lock.
func (g *Protector) deliver() {
	g.mu.Lock()
	due := g.due
	g.due = nil
	g.mu.Unlock()
	for _, t := range due {
		t.deliver()
	}
}

// put puts a policy if it is not there as it is to be.
func (g *Protector) put(p Policy) error {
	if have, ok := g.policies[p.id()]; ok && have == p {
		return nil
	}
	if err := g.cfg.Kernel.PutPolicy(p); err != nil {
		return fmt.Errorf("%s %s %s: %w", p.Action, p.Direction, p.Dst, err)
	}
	g.policies[p.id()] = p
	return nil
}

// drop deletes a policy. One that cannot be deleted is found by a later sweep.
func (g *Protector) drop(p Policy) error {
	delete(g.policies, p.id())
	return gone(g.cfg.Kernel.DeletePolicy(p))
}

// add adds an association of a pair.
func (g *Protector) add(a *association) error {
	if err := g.cfg.Kernel.AddAssociation(a.Association); err != nil {
		return err
	}
	a.Key = Key{} // the kernel has it
	g.associations[a.id()] = a
	return nil
}

// remove deletes an association. One that cannot be deleted is found by a later sweep.
func (g *Protector) remove(a *association) error {
	delete(g.associations, a.id())
	return gone(g.cfg.Kernel.DeleteAssociation(a.Association))
}

// gone is nil for what is not there any more.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// sortedPairs are the pairs in the order of their names, for reports.
func (g *Protector) sortedPairs() []tuple {
	return slices.SortedFunc(maps.Keys(g.pairs), tuple.compare)
}

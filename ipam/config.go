package ipam

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// Channel is the gossip channel of the allocator, as in Weave Net 2.8.
const Channel = "IPallocation"

// Channel6 is the gossip channel of an allocator of IPv6, which Weave Net 2.8 does not have.
const Channel6 = "IPallocation6"

const (
	// tick is the time between two attempts to get what is waited for.
	tick = 5 * time.Second
	// suspicion is how long a ring that was loaded from the store is not trusted, unless a peer confirms it before:
	// while we were away, others may have taken our pieces over.
	suspicion = 5 * time.Second
	// sendTimeout bounds the wait for room in the carrier's queue, for all that is to be sent at one time; leastWait is what
	// each peer has even so. With both, all that an outbox holds for peers is tried within surveyFor.
	sendTimeout = time.Second
	leastWait   = time.Millisecond
	// maxWaiting is how many calls may wait; further ones fail with ErrBusy.
	maxWaiting = 1 << 16
	// maxOwner is the length of an owner, in bytes.
	maxOwner = 1024
	// minBits is the least length of a prefix: not everything. The longest leaves minHostBits: four addresses.
	minBits, minHostBits = 1, 2
)

// Config is what an allocator is made from.
type Config struct {
	// Bus carries the gossip, and knows the peers. Required. New joins it as [Channel], for IPv6 as [Channel6].
	Bus gossip.Bus
	// Universe is the range that is divided among the peers, the same at each of them. Required. At least 4 addresses,
	// without host bits, and without the last address of its family. For both families take two allocators, each with a
	// Store of its own; they share nothing but the Bus.
	Universe netip.Prefix
	// DefaultSubnet is what is allocated from when a call names no subnet. It overlaps the universe. Zero means the
	// universe.
	DefaultSubnet netip.Prefix
	// Birth says how the first ring comes about, if there is none. Zero means Consensus(0).
	Birth Birth
	// Targets returns the number of peers that this one has been told to connect to, for Consensus(0). It is called with
	// locks held, must be quick, and must not call the allocator. Nil means 0.
	Targets func() int
	// Store keeps what must survive. Nil means that nothing does: after a restart addresses may be handed out that are
	// in use. The caller closes it, after Run has returned.
	Store Store
	// Adopt lists addresses found in use on this machine at start. They are claimed before anything is allocated. Those of
	// the other family are left out.
	Adopt []Holding
	// ReclaimAfter is the time out of reach after which a peer's space is taken over, at least a minute. Give all peers the
	// same, longer than any partition in which both sides run on: see the package comment. Of different values the longest counts,
	// of all owners and all peers in reach; nothing is taken over while one of these does not support it. Zero means
	// DefaultReclaimAfter. Less than zero turns it off, for all who know this peer.
	ReclaimAfter time.Duration
	// Now is the clock, for timers and reports. Nil means time.Now.
	Now func() time.Time
	// Rand draws the peers to ask for space. It is used under the allocator's lock. Nil means a random seed.
	Rand *rand.Rand
	// Log takes what an operator should know. Nil is silent.
	Log *slog.Logger
}

// Birth says how a cluster gets its first ring. The zero Birth is Consensus(0).
type Birth struct {
	mode  birthMode
	size  int
	seeds []peer.Name
}

type birthMode uint8

const (
	byConsensus birthMode = iota
	bySeed
	byOthers
)

// Consensus lets the peers agree on the first ring by vote, when somebody first needs an address. n is the number of
// peers the cluster starts with, of which more than half must take part; with n below 1 it is the number of targets,
// plus one.
func Consensus(n int) Birth { return Birth{mode: byConsensus, size: max(n, 0)} }

// Seed divides the range among the named peers without asking. Every peer of the cluster must be given the same names,
// for ever. Without names it is Consensus(0).
func Seed(names ...peer.Name) Birth {
	if len(names) == 0 {
		return Consensus(0)
	}
	return Birth{mode: bySeed, seeds: slices.Clone(names)}
}

// Observer neither votes nor creates a ring, but waits for others to.
func Observer() Birth { return Birth{mode: byOthers} }

// String describes the birth: "consensus", "consensus=3", "seed=...", "observer".
func (b Birth) String() string {
	switch {
	case b.mode == bySeed:
		return fmt.Sprintf("seed=%v", b.seeds)
	case b.mode == byOthers:
		return "observer"
	case b.size > 0:
		return fmt.Sprintf("consensus=%d", b.size)
	}
	return "consensus"
}

// withDefaults checks c and fills in what is zero.
func (c Config) withDefaults() (Config, error) {
	if c.Bus == nil {
		return c, fmt.Errorf("ipam: Config.Bus is required")
	}
	if err := checkSubnet(c.Universe); err != nil {
		return c, fmt.Errorf("ipam: universe: %w", err)
	}
	if r := addr.FromPrefix(c.Universe); r.Empty() || r.End == addr.From64(1<<32) {
		return c, fmt.Errorf("ipam: universe: %w %v: must not contain the last address there is", ErrInvalidSubnet, c.Universe)
	}
	if !c.DefaultSubnet.IsValid() {
		c.DefaultSubnet = c.Universe
	}
	if err := checkSubnet(c.DefaultSubnet); err != nil {
		return c, fmt.Errorf("ipam: default subnet: %w", err)
	}
	if !c.DefaultSubnet.Overlaps(c.Universe) {
		return c, fmt.Errorf("ipam: default subnet %v is %w: %v", c.DefaultSubnet, ErrOutOfRange, c.Universe)
	}
	for _, n := range c.Birth.seeds {
		if !n.IsValid() {
			return c, fmt.Errorf("ipam: seed: %w", peer.ErrInvalidName)
		}
	}
	switch {
	case c.ReclaimAfter == 0:
		c.ReclaimAfter = DefaultReclaimAfter
	case c.ReclaimAfter < 0:
		c.ReclaimAfter = 0
	case c.ReclaimAfter < minReclaim:
		return c, fmt.Errorf("ipam: reclaim after %v: less than %v", c.ReclaimAfter, minReclaim)
	}
	if c.Targets == nil {
		c.Targets = func() int { return 0 }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return c, nil
}

// lowest6 returns the addresses of IPv6 whose numbers are those of IPv4. They have not been in use since RFC 4291.
func lowest6() netip.Prefix { return netip.PrefixFrom(netip.IPv6Unspecified(), 96) }

// checkSubnet tests a prefix for what a subnet must be, in the order and the words of Weave Net 2.8.
func checkSubnet(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%w: %v", ErrInvalidSubnet, p)
	case p.Addr().Is4In6() || p.Addr().Is6() && lowest6().Overlaps(p):
		return fmt.Errorf("%w - an IPv4 address in the form of IPv6: %v", ErrInvalidSubnet, p)
	case p.Bits() < minBits || p.Bits() > p.Addr().BitLen()-minHostBits:
		return fmt.Errorf("%w - smaller than minimum size 4: %v", ErrInvalidSubnet, p)
	case p.Masked() != p:
		return fmt.Errorf("%w - bits after network prefix are not all zero: %v", ErrInvalidSubnet, p)
	}
	return nil
}

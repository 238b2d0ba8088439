package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	// Channel is the gossip channel of the names.
	Channel = "nameserver"
	// DefaultDomain is the domain of a table that is given none.
	DefaultDomain = "weave.local."
	// MaxSkew is how far a peer's clock may be from ours before its messages count as skewed. Peers of Weave Net 2.8
	// refuse messages beyond it, so our own clock has to be within it of theirs.
	MaxSkew = 900 * time.Second

	defaultMaxEntries = 1 << 18
	expireInterval    = 30 * time.Minute
	tombstoneAge      = 1800  // seconds that a tombstone is kept at least
	tombstoneAhead    = 86400 // seconds; one that far in the future was made by a broken clock
	// ownTombstoneAge is how many seconds we remember what we removed: longer than anybody else, so that a name which
	// returns has a version above that of any tombstone still held.
	ownTombstoneAge = 3 * tombstoneAge
)

// Config configures a Table.
type Config struct {
	// Bus carries the gossip and knows the peers. Required.
	Bus gossip.Bus
	// Domain is where names may be registered, with or without the final dot. Empty means DefaultDomain.
	Domain string
	// MaxEntries limits the table, tombstones included: entries of others are not taken up beyond it. 0 means 262144.
	MaxEntries int
	// Now tells the time. Nil means time.Now.
	Now func() time.Time
	// Log gets what is worth a line. Nil means silence.
	Log *slog.Logger
}

// Table is one peer's copy of the names. It is safe for concurrent use.
type Table struct {
	// constant
	self       peer.Name
	bus        gossip.Bus
	sender     gossip.Sender
	domain     string // lower case
	maxEntries int
	now        func() time.Time
	log        *slog.Logger
	state      *state

	counts  counts
	changes atomic.Uint64 // grows with every change of recs, under mu
	parked  parked

	leaving sync.Mutex // held from asking who is a member to adopting or forgetting its entries; taken before mu

	mu    sync.RWMutex // guards all below
	recs  *records
	heard bool // a neighbour has sent its state, or a part
}

// New makes an empty table and joins the channel of the bus. It starts nothing.
func New(c Config) (*Table, error) {
	if c.Bus == nil {
		return nil, errors.New("dns: no gossip bus")
	}
	if c.MaxEntries < 0 {
		return nil, errors.New("dns: negative MaxEntries")
	}
	domain := lower(fqdn(c.Domain))
	if c.Domain == "" {
		domain = DefaultDomain
	}
	if err := checkName(domain); err != nil {
		return nil, fmt.Errorf("dns: domain: %w", err)
	}
	t := &Table{
		self:       c.Bus.Self().Name,
		bus:        c.Bus,
		domain:     domain,
		maxEntries: cmp.Or(c.MaxEntries, defaultMaxEntries),
		now:        c.Now,
		log:        c.Log,
		recs:       newRecords(domain),
	}
	t.state = &state{t: t}
	if t.now == nil {
		t.now = time.Now
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	sender, err := c.Bus.Join(Channel, receiver{t})
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	t.sender = sender
	return t, nil
}

// Run takes up the names of peers that were heard of before they were in the membership, and forgets expired tombstones
// every 30 minutes. It returns nil when ctx ends. The table answers and gossips also while it does not run.
func (t *Table) Run(ctx context.Context) error {
	adopt, expire := time.NewTicker(adoptInterval), time.NewTicker(expireInterval)
	defer adopt.Stop()
	defer expire.Stop()
	for {
		select {
		case <-adopt.C:
			t.adopt(t.now())
		case <-expire.C:
			t.expire(t.now().Unix())
		case <-ctx.Done():
			return nil
		}
	}
}

func (t *Table) expire(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ours := now - (ownTombstoneAge - tombstoneAge)
	gone := func(e Entry) bool { return expired(e, now) && (e.Origin != t.self || expired(e, ours)) }
	if t.recs.dropFunc(gone) {
		t.changes.Add(1)
	}
}

// expired reports whether an entry is a tombstone that need not be known any more.
func expired(e Entry, now int64) bool {
	return !e.Live() && (now-e.Tombstone > tombstoneAge || e.Tombstone-now > tombstoneAhead)
}

// Domain returns the domain of the table, in lower case and with final dot.
func (t *Table) Domain() string { return t.domain }

// Register says that name has addr, on behalf of owner, and tells everybody. The final dot of name may be missing; a
// name without domain is outside of it. To say the same again is no error, and tells everybody again.
//
// Errors wrap ErrOutsideDomain, ErrInvalidName or ErrNotIPv4.
func (t *Table) Register(name, owner string, addr netip.Addr) error {
	name, addr = fqdn(name), addr.Unmap()
	if !within(lower(name), t.domain) {
		return fmt.Errorf("dns: register %q: %w %s", name, ErrOutsideDomain, t.domain)
	}
	if err := checkName(name); err != nil {
		return fmt.Errorf("dns: register: %w", err)
	}
	if len(owner) > maxOwner {
		return fmt.Errorf("dns: register %s: %w: owner of %d bytes, at most %d", name, ErrInvalidName, len(owner), maxOwner)
	}
	if !addr.Is4() {
		return fmt.Errorf("dns: register %s: %w: %v", name, ErrNotIPv4, addr)
	}
	e := t.revive(Entry{Hostname: name, Origin: t.self, Owner: owner, Addr: addr})
	t.broadcast([]Entry{e})
	return nil
}

// revive makes an own entry live and returns it as stored.
func (t *Table) revive(e Entry) Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.recs.get(e); ok {
		if old.Live() {
			return old
		}
		e.Version = old.Version + 1
	}
	t.changes.Add(1)
	return t.recs.put(e)
}

// Match selects entries of this peer: those that have all the fields that are not zero. The zero Match selects nothing, so
// that a field which is empty by mistake takes nothing back; see [Table.UnregisterAll].
type Match struct {
	Name  string     // full name, case ignored; the final dot may be missing
	Owner string     // exactly
	Addr  netip.Addr // exactly
}

// normal brings the fields into the form that matches compares.
func (m Match) normal() Match {
	if m.Name != "" {
		m.Name = lower(fqdn(m.Name))
	}
	m.Addr = m.Addr.Unmap()
	return m
}

func (m Match) matches(k key) bool {
	return (m.Name == "" || m.Name == k.name) && (m.Owner == "" || m.Owner == k.owner) &&
		(!m.Addr.IsValid() || m.Addr == k.addr)
}

// Unregister takes back what this peer registered, tells everybody, and returns how many entries that were. Entries of
// other peers are out of its reach.
func (t *Table) Unregister(m Match) int {
	if m == (Match{}) {
		return 0
	}
	return t.remove(m.normal().matches)
}

// UnregisterAll takes back everything that this peer registered, like [Table.Unregister].
func (t *Table) UnregisterAll() int { return t.remove(func(key) bool { return true }) }

func (t *Table) remove(which func(key) bool) int {
	removed := t.bury(which, t.now().Unix())
	t.broadcast(removed)
	return len(removed)
}

// bury makes tombstones of own entries and returns them.
func (t *Table) bury(which func(key) bool, now int64) (removed []Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rec := range t.recs.origins[t.self] {
		if e := rec.Entry; e.Live() && which(rec.key) {
			e.Tombstone, e.Version = now, e.Version+1
			removed = append(removed, t.recs.put(e))
		}
	}
	if len(removed) > 0 {
		t.changes.Add(1)
	}
	return removed
}

// broadcast tells everybody about entries, which it takes over.
func (t *Table) broadcast(entries []Entry) {
	if d := newDelta(t.now().Unix(), entries); d != nil {
		t.sender.Broadcast(d)
	}
}

// Lookup returns the addresses of a name, in ascending order and each once. Case is ignored, the final dot may be
// missing. ok is false if there is no such name; it is true, without addresses, for a name in the domain that only has
// others below it. The slice is the caller's.
func (t *Table) Lookup(name string) (addrs []netip.Addr, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.recs.lookup(name)
}

// Reverse returns a name that has the address: of several, the first in the order of Entries.
func (t *Table) Reverse(addr netip.Addr) (name string, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.recs.reverse(addr.Unmap())
}

// Entries returns a copy of the whole table, tombstones included, ordered by lower-case name, origin, owner, address.
func (t *Table) Entries() []Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.recs.sorted()
}

package ipam

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// Status is a snapshot of an allocator. Numbers of addresses that are larger than a uint64 are the largest one. The first
// fields are those of the report of Weave Net 2.8.
type Status struct {
	Paxos            *Vote          // nil unless a vote is under way
	Range            string         // the universe
	RangeNumIPs      uint64         // its size
	ActiveIPs        int            // addresses in use here, inside the universe
	DefaultSubnet    string         // what is allocated from when a call names no subnet
	Entries          []Entry        // the ring, ascending
	PendingClaims    []PendingClaim // claims that wait
	PendingAllocates []string       // allocations that wait: "owner subnet"

	State      string      // one line for people, as in Weave Net 2.8
	Birth      string      // how the ring came, or is to come, about
	Seeds      []peer.Name // among whom the ring was first divided
	FreeIPs    uint64      // addresses here that can be given out
	ForeignIPs int         // addresses recorded here that lie outside the universe
	Peers      []PeerSpace // who owns how much
	Disputes   []Dispute   // ranges of ours that others claim, out of which nothing is given
	Faults     []Fault     // rings of others that cannot be merged with ours
	Strays     []Stray     // addresses in use here that lie in others' pieces
	NotGiving  string      // why nothing new is given out here; empty if it is
	Suspect    bool        // the stored ring waits to be confirmed by a peer; nothing new is given out
	Fenced     bool        // we were away for so long that a majority must confirm the ring; nothing new is given out
	Twin       bool        // another peer uses our name, or our store is an old copy; nothing new is given out
	CutOff     bool        // from most of the address space, for so long that others may take over what is ours
	ReclaimOff string      // why the space of dead peers is not taken over, and by whose doing; empty if it is
	Reclaiming []Reclaim   // what is taken over from dead peers, and waits for a majority to agree
	InDoubt    []Holding   // addresses that we had before a long absence, and do not know yet whether they are ours
	Lost       []Holding   // addresses that turned out to be given to others while we were away, until their owners are freed; at most 256
	Released   bool        // the space was given away
	Commits    uint64      // to the store, successful or not
	StoreError string      // of the last commit; empty if it went well
}

// Vote is the state of the vote about the first ring.
type Vote struct {
	Elector    bool
	KnownNodes int
	Quorum     int // 0 while we have not asked for a vote ourselves
}

// Entry is a piece of the ring. The piece that runs over the end of the range is two entries.
type Entry struct {
	Token       string // first address
	Size        uint64
	Peer        peer.Name
	Nickname    string
	IsKnownPeer bool // in the mesh, or ourselves
	Version     uint32
	Free        uint64 // as last told by the owner
}

// PendingClaim is a claim that waits.
type PendingClaim struct {
	Ident string
	CIDR  struct {
		Addr      string
		PrefixLen int
	}
}

// PeerSpace is what one peer owns.
type PeerSpace struct {
	Peer      peer.Name
	Nickname  string
	Reachable bool
	IPs       uint64
	Free      uint64 // as last told
}

// Dispute is a piece of ours that another peer claims.
type Dispute struct {
	Token  string // where our piece begins
	Peer   peer.Name
	Ranges []string // what the other side claims of it
	InUse  uint64   // addresses of that which are in use here
	Reason string
	Since  time.Time
}

// Fault is a ring of another peer that cannot be merged with ours.
type Fault struct {
	Peer   peer.Name // 0 if not known
	Reason string
	Since  time.Time
	Times  uint64
}

// Reclaim is a range of a dead peer that we take over.
type Reclaim struct {
	Range string
	Peer  peer.Name
}

// Status returns a snapshot.
func (a *Allocator) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.core
	s := Status{
		Range:         c.prefix.String(),
		RangeNumIPs:   c.universe.Size().Uint64(),
		ActiveIPs:     int(min(c.taken.Len().Uint64(), math.MaxInt)),
		DefaultSubnet: c.subnet.String(),
		Entries:       c.entries(),
		Birth:         c.birth.String(),
		Seeds:         slices.Clone(c.ring.Seeds),
		FreeIPs:       c.free.Len().Uint64(),
		Peers:         c.peerSpace(),
		Disputes:      c.listDisputes(),
		Faults:        c.listFaults(),
		Strays:        c.listStrays(),
		NotGiving:     c.hindered(againstGiving).String(),
		Suspect:       c.standing.has(suspect),
		Fenced:        c.standing.has(fenced),
		CutOff:        c.standing.has(lapsed),
		Twin:          c.standing.has(twin),
		Lost:          slices.Clone(c.watch.lost),
		InDoubt:       c.doubts.all(),
		ReclaimOff:    c.reclaimOff(a.now().Round(0)),
		Released:      c.standing.has(released),
		Commits:       a.commits,
	}
	for _, p := range c.reclaim.dying {
		for _, r := range c.ring.Owned(p) {
			s.Reclaiming = append(s.Reclaiming, Reclaim{prefixString(r), p})
		}
	}
	s.ForeignIPs = len(c.book.owners) - s.ActiveIPs
	if c.voting {
		s.Paxos = &Vote{}
		if c.elector != nil {
			s.Paxos = &Vote{Elector: true, KnownNodes: c.elector.Known(), Quorum: c.elector.Quorum()}
		}
	}
	for _, w := range c.waiting.claims {
		p := PendingClaim{Ident: w.owner}
		p.CIDR.Addr, p.CIDR.PrefixLen = w.addr.Addr().String(), w.addr.Bits()
		s.PendingClaims = append(s.PendingClaims, p)
	}
	for _, w := range c.waiting.allocs {
		s.PendingAllocates = append(s.PendingAllocates, w.owner+" "+w.subnet.String())
	}
	if a.storeErr != nil {
		s.StoreError = a.storeErr.Error()
	}
	slices.SortFunc(s.InDoubt, byAddr)
	s.State = c.stateLine(s)
	return s
}

func (c *core) entries() []Entry {
	var out []Entry
	for _, p := range c.ring.Pieces() {
		out = append(out, Entry{
			Token:       p.Start.String(),
			Size:        p.Size().Uint64(),
			Peer:        p.Peer,
			Nickname:    c.nicknames[p.Peer],
			IsKnownPeer: c.known(p.Peer),
			Version:     p.Version,
			Free:        p.Free,
		})
	}
	return out
}

func (c *core) known(p peer.Name) bool { return p == c.me || c.members.reachable(p) }

func (c *core) peerSpace() []PeerSpace {
	var out []PeerSpace
	index := make(map[peer.Name]int)
	for _, p := range c.ring.Pieces() {
		i, seen := index[p.Peer]
		if !seen {
			i = len(out)
			index[p.Peer] = i
			out = append(out, PeerSpace{Peer: p.Peer, Nickname: c.nicknames[p.Peer], Reachable: c.known(p.Peer)})
		}
		out[i].IPs = sumUp(out[i].IPs, p.Size().Uint64())
	}
	for _, t := range c.ring.Tokens {
		x := &out[index[t.Peer]]
		x.Free = sumUp(x.Free, t.Free)
	}
	slices.SortFunc(out, func(a, b PeerSpace) int { return cmp.Compare(a.Peer, b.Peer) })
	return out
}

// sumUp adds, up to the largest number.
func sumUp(a, b uint64) uint64 {
	if sum := a + b; sum >= a {
		return sum
	}
	return math.MaxUint64
}

func (c *core) listDisputes() []Dispute {
	var out []Dispute
	for at, d := range c.disputes {
		x := Dispute{Token: at.String(), Peer: d.conflict.Rival.Peer, Reason: d.conflict.Error(), Since: d.since}
		for _, l := range d.conflict.Lost {
			x.Ranges = append(x.Ranges, prefixString(l.Range))
			x.InUse += c.taken.Count(l.Range).Uint64()
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Dispute) int { return cmp.Compare(a.Token, b.Token) })
	return out
}

func (c *core) listFaults() []Fault {
	var out []Fault
	for p, f := range c.faults {
		out = append(out, Fault{Peer: p, Reason: f.err.Error(), Since: f.since, Times: f.times})
	}
	slices.SortFunc(out, func(a, b Fault) int { return cmp.Compare(a.Peer, b.Peer) })
	return out
}

// stateLine words the state as section 6 does.
func (c *core) stateLine(s Status) string {
	switch {
	case s.Twin:
		return twin.String()
	case s.Fenced:
		return fenced.String()
	case len(s.Peers) > 0 && !slices.ContainsFunc(s.Peers, func(p PeerSpace) bool { return p.Reachable }):
		return "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
	case s.CutOff:
		return lapsed.String()
	case len(s.Peers) > 0 && len(s.PendingAllocates) > 0:
		return "waiting for IP(s) to become available"
	case len(s.Peers) > 0:
		return "ready"
	case s.Paxos != nil && s.Paxos.Elector:
		return fmt.Sprintf("awaiting consensus (quorum: %d, known: %d)", s.Paxos.Quorum, s.Paxos.KnownNodes)
	case s.Paxos != nil:
		return "priming"
	}
	return "idle"
}

// prefixString writes a range as a prefix if it is one.
func prefixString(r addr.Range) string {
	if p, ok := prefixOf(r); ok {
		return p.String()
	}
	return r.String()
}

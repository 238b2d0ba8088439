package ipam

import (
	"cmp"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// An address that is in use here, or was before a long absence, may not be ours by the ring: it lies in another peer's piece (a
// stray), in a piece that a rival claims (a dispute), or nobody has told us yet (a doubt). Whoever has the piece is asked for it, as
// for a claim, until it is granted or let go. All of them go through one list, in which none starves and which floods nobody: a
// peer is asked for a window of them at once and for the next ones when it has answered, and for what it denies less and less often.

// window is how many addresses a peer is asked for at once.
const window = 64

// maxPatience is how often the time until an address is asked for again doubles.
const maxPatience = 3

// wanted is an address with the peer to ask for it.
type wanted struct {
	addr addr.Addr
	from peer.Name
	last time.Time // since when it may be asked for again; the zero time if it never was
}

// asking is what became of the requests for an address.
type asking struct {
	from    peer.Name
	open    bool      // there is no answer yet
	next    time.Time // when it is asked for again: an answer was lost, or a denial is old
	denials int       // how many there were
}

// asks are all of these. The zero asks have none.
type asks struct {
	of   map[addr.Addr]asking
	open map[peer.Name]int // how many are, by peer
}

// wants lists what is to be asked for, in ascending order.
func (c *core) wants() (list []wanted) {
	if c.mayRely() {
		for ip := range c.doubts.owners {
			if a := addr.FromNetip(ip); c.keeper(a) != c.me {
				list = append(list, wanted{addr: a, from: c.keeper(a)})
			}
		}
	}
	for _, d := range c.disputes {
		for _, l := range d.conflict.Lost {
			c.taken.Each(l.Range, func(r addr.Range) bool {
				for a := r.Start; a.Less(r.End); a = a.Next() {
					if !c.yielded.Contains(a) {
						list = append(list, wanted{addr: a, from: l.To})
					}
				}
				return true
			})
		}
	}
	for s := range c.strays() {
		list = append(list, wanted{addr: s.addr, from: s.owner})
	}
	slices.SortFunc(list, func(x, y wanted) int { return cmp.Or(x.addr.Compare(y.addr), cmp.Compare(x.from, y.from)) })
	return slices.CompactFunc(list, func(x, y wanted) bool { return x.addr == y.addr })
}

// pursueWants asks for what is wanted and was not asked for of late.
func (c *core) pursueWants(now time.Time) {
	before := c.asks
	c.asks = asks{}
	if c.standing.has(released) || !c.hasRing() {
		return
	}
	list := c.wants()
	if len(list) == 0 {
		return
	}
	c.asks = asks{make(map[addr.Addr]asking, len(list)), make(map[peer.Name]int)}
	due := list[:0]
	for _, w := range list {
		a := before.of[w.addr]
		if a.from != w.from {
			a = asking{from: w.from}
		}
		if a.open = a.open && now.Before(a.next); a.open {
			c.asks.open[w.from]++
		}
		if w.last = a.next; !now.Before(a.next) {
			due = append(due, w)
		}
		c.asks.of[w.addr] = a
	}
	slices.SortStableFunc(due, func(x, y wanted) int { return x.last.Compare(y.last) })
	for _, w := range due { // what was never asked for comes first, then what was not for longest
		if c.asks.open[w.from] < window && c.members.reachable(w.from) {
			c.askFor(w, now)
		}
	}
}

// askFor asks for an address.
func (c *core) askFor(w wanted, now time.Time) {
	c.out.request(request{want: addr.Single(w.addr), to: []peer.Name{w.from}})
	a := c.asks.of[w.addr]
	a.open, a.next = true, now.Add(tick)
	c.asks.of[w.addr] = a
	c.asks.open[w.from]++
}

// denyWanted follows a denial, and asks for more when all of a window is answered.
func (c *core) denyWanted(from peer.Name, a addr.Addr, now time.Time) {
	x, asked := c.asks.of[a]
	if !asked || x.from != from {
		return
	}
	if x.open {
		x.open = false
		c.asks.open[from]--
	}
	x.next = now.Add(deniedFor << min(x.denials, maxPatience))
	x.denials++
	c.asks.of[a] = x
	if c.asks.open[from] == 0 {
		c.pursueWants(now)
	}
}

// isDenied reports whether from has denied us an address that it is still asked for.
func (c *core) isDenied(from peer.Name, a addr.Addr) bool {
	x := c.asks.of[a]
	return x.from == from && x.denials > 0
}

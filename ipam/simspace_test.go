package ipam_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

// Some simulations have as few addresses as a peer can use up, and some as many as a network of IPv6.

// span is a range of addresses, without its end.
type span struct{ from, to netip.Addr }

// hostBits returns of how many bits the universe is a power of two.
func (s *sim) hostBits() int { return s.universe.Addr().BitLen() - s.universe.Bits() }

// wide reports whether there are more addresses than can be used up.
func (s *sim) wide() bool { return s.hostBits() > 8 }

// anywhere draws an address of the universe; of a wide one, one that is likely to be in use.
func (s *sim) anywhere(r *rand.Rand) netip.Prefix {
	raw, last := s.universe.Addr().AsSlice(), s.universe.Addr().BitLen()/8-1
	if !s.wide() {
		raw[last] = byte(r.IntN(1 << s.hostBits()))
	} else {
		raw[last] = byte(r.IntN(16))
		raw[s.universe.Bits()/8] |= byte(r.IntN(16)) << 4 // where pieces begin
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(a, s.universe.Bits())
}

// spaceOf lists what p has by the ring of n, and tells which share of the whole that is.
func (s *sim) spaceOf(n *node, p peer.Name) (space []span, share float64) {
	entries := n.Status().Entries
	for i, e := range entries {
		x := span{netip.MustParseAddr(e.Token), s.end()}
		if i+1 < len(entries) {
			x.to = netip.MustParseAddr(entries[i+1].Token)
		}
		if e.Peer == p {
			space = append(space, x)
			share += float64(e.Size)
		}
	}
	return space, share / math.Exp2(float64(s.hostBits()))
}

// end returns the first address behind the universe.
func (s *sim) end() netip.Addr {
	raw := s.universe.Addr().AsSlice()
	for i := s.universe.Bits(); i < 8*len(raw); i++ {
		raw[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(raw)
	return a.Next()
}

// missing tells how many addresses are neither free nor in use anywhere. Of a whole /64 that is one more than a number can
// hold, a peer may tell one less.
func (s *sim) missing() string {
	sum, most := uint64(0), false
	for _, n := range s.sorted() {
		st := n.Status()
		sum += st.FreeIPs + uint64(st.ActiveIPs)
		most = most || st.FreeIPs == math.MaxUint64
	}
	if want := uint64(1) << s.hostBits(); sum != want && !most { // 0 and 0 for a /64
		return fmt.Sprintf("%d of %d addresses", sum, want)
	}
	return ""
}

// takeSome has a peer claim addresses all over a wide universe, within a bounded time. Nobody else may refuse what is not in use.
func (s *sim) takeSome() {
	inUse := make(map[netip.Addr]bool)
	for _, n := range s.sorted() {
		for _, o := range n.Owners() {
			for _, p := range o.Addrs {
				inUse[p.Addr()] = true
			}
		}
	}
	n := s.sorted()[s.r.IntN(len(s.nodes))]
	ctx := s.within(20 * time.Minute)
	for i := range 50 {
		p := s.anywhere(s.r)
		if inUse[p.Addr()] {
			continue
		}
		inUse[p.Addr()] = true
		if err := n.Claim(ctx, fmt.Sprintf("last%d", i), p); err != nil {
			s.blame("%v cannot get %v: %v%s", n.name, p, err, s.brief())
			return
		}
	}
	s.pass(time.Minute)
	s.requireNoDouble()
}

// wreck takes a peer's disk away for good, without anybody taking over its space: it comes back with what the others know to be its
// own, and has forgotten what it gave out. That can only go well if the others do know: so all are up and in reach of each other, and
// what it gave away last has the time to spread.
func (s *sim) wreck(i int, n *node) bool {
	whole := func(down int) bool { return !s.split && s.birth != apart && len(s.nodes) == s.size-down }
	if !whole(0) || len(n.Status().Entries) == 0 {
		return false
	}
	s.fall(i, n)
	s.trace("%v is killed, and its disk", n.name)
	s.kill(n.name)
	for range 8 {
		s.wait(15 * time.Second)
		if !whole(1) {
			return true // as any other that was killed
		}
	}
	s.events.count("a disk is lost")
	s.wiped[i], s.bare[n.name] = true, true
	s.revive(i)
	return true
}

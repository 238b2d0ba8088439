package ipam_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/peer"
)

// promise is an answer that owner has an address, at a peer.
type promise struct {
	owner string
	at    peer.Name
	doubt bool // at has come back after its death, and does not know yet what it has kept
}

// answer is a promise that was just made.
type answer struct {
	promise
	addr netip.Addr
}

// answered notes the result of a call.
func (s *sim) answered(n *node, owner string, p netip.Prefix, err error) {
	if s.accept(err); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answer{promise{owner: owner, at: n.name}, p.Addr()})
}

// forget drops the promises for which drop says so.
func (s *sim) forget(drop func(promise) bool) {
	s.collect()
	maps.DeleteFunc(s.promised, func(_ netip.Addr, made promise) bool { return drop(made) })
}

// dead reports whether a peer is down for so long that its promises end.
func (s *sim) dead(p peer.Name) bool {
	at, down := s.downAt[int(p-name(0))]
	return s.delay > 0 && down && time.Since(at) >= s.delay
}

// unsure reports whether a peer says itself that others may have what it has.
func (s *sim) unsure(p peer.Name) bool {
	n := s.nodes[p]
	if n == nil {
		return false
	}
	st := n.Status()
	return st.CutOff || st.Fenced || len(st.InDoubt) > 0
}

// gaveUp reports whether a peer says itself that it has not kept what it promised.
func (s *sim) gaveUp(made promise, a netip.Addr) bool {
	n := s.nodes[made.at]
	return n != nil && slices.ContainsFunc(n.Status().Lost, func(h ipam.Holding) bool { return h.Owner == made.owner && h.Addr.Addr() == a })
}

// blame notes what is wrong, unless something is already.
func (s *sim) blame(format string, args ...any) {
	if s.wrong == "" {
		s.trace("wrong%s", s.brief())
		s.wrong = fmt.Sprintf(format, args...)
	}
}

// trace tells what happens, to who replays a simulation.
func (s *sim) trace(format string, args ...any) {
	if *simTrace {
		s.t.Logf("%v %s", time.Since(s.begun), fmt.Sprintf(format, args...))
	}
}

// collect looks at new promises: nobody else may have been promised the same.
func (s *sim) collect() {
	s.noteRings()
	s.mu.Lock()
	list := s.answers
	s.answers = nil
	s.mu.Unlock()
	for _, x := range list {
		s.trace("%v has answered: %v for %s", x.at, x.addr, x.owner)
		old, twice := s.promised[x.addr]
		other := old.owner != x.owner || old.at != x.at
		if twice && other && !s.excused(x.addr, x.at, old.at) && !old.doubt && !s.dead(old.at) && !s.unsure(old.at) && !s.unsure(x.at) && !s.gaveUp(old, x.addr) {
			s.blame("%v was promised to %v and to %v", x.addr, old, x.promise)
		}
		s.promised[x.addr] = x.promise
	}
}

// check looks whether an address is held twice, by peers that are sure of what they have, and whether all peers that are
// up know what they promised.
func (s *sim) check() {
	s.collect()
	sure := make(map[peer.Name]*node)
	lost := make(map[promise]netip.Addr)
	held := make(map[promise]netip.Addr)
	for _, n := range s.sorted() {
		st := n.Status()
		if st.Twin && s.store == nil && !s.bare[n.name] { // it has lost what it had, and is told of it by and by
			s.blame("%v believes it has a twin", n.name)
		}
		if st.CutOff || st.Fenced || len(st.InDoubt) > 0 {
			continue
		}
		sure[n.name] = n
		for _, h := range st.Lost {
			lost[promise{owner: h.Owner, at: n.name}] = h.Addr.Addr()
		}
		for _, o := range n.Owners() {
			held[promise{owner: o.Owner, at: n.name}] = o.Addrs[0].Addr()
		}
	}
	if double := s.double(func(n *node) bool { return sure[n.name] != nil }, s.excused); double != "" {
		s.blame("%s", double)
	}
	for a, made := range s.promised {
		if sure[made.at] == nil {
			continue
		}
		made.doubt = false
		if a == lost[made] {
			delete(s.promised, a)
			continue
		}
		if a != held[made] {
			s.blame("%v was promised to %v, who has %v", a, made, held[made])
		}
		s.promised[a] = made
	}
}

// settleDoubles does what an operator would about addresses that were given out twice before rings met.
func (s *sim) settleDoubles() {
	for _, n := range s.sorted() {
		for _, x := range n.Status().Strays {
			if x.Denied && s.excused(x.Addr, n.name, x.Peer) {
				s.forget(func(made promise) bool { return made.owner == x.Owner })
				s.accept(n.FreeAll(s.within(time.Second), x.Owner))
			}
		}
	}
}

// heal ends all trouble and looks at what is left.
func (s *sim) heal() {
	s.mu.Lock()
	s.healing = true
	s.mu.Unlock()
	s.wait(time.Millisecond)
	s.trace("the end: all is healed")
	s.bus.Heal()
	s.split = false
	for _, wiped := range []bool{false, true} { // those with a disk first
		for i := range s.size {
			if s.nodes[name(i+1)] == nil && s.wiped[i+1] == wiped {
				s.revive(i + 1)
			}
		}
		s.wait(time.Second)
	}
	s.try(func(ctx context.Context) { s.accept(s.sorted()[0].Prime(ctx)) })
	deadline := time.Now().Add(10*time.Minute + 3*max(s.delay, 0))
	for s.unsettled() != "" && time.Now().Before(deadline) {
		s.pass(5 * time.Second)
		s.check()
		s.settleDoubles()
	}
	if what := s.unsettled(); what != "" {
		s.blame("not healed: %s", what)
		return
	}
	s.pass(3 * time.Minute)
	s.check()
	s.requireOneRing()
	if s.wide() {
		s.takeSome()
		return
	}
	s.takeAll()
}

// unsettled tells what keeps the cluster from being as it should: every address in use or free, and no trouble.
func (s *sim) unsettled() string {
	for _, n := range s.sorted() {
		st := n.Status()
		if len(st.Disputes) > 0 || len(st.Faults) > 0 || st.Fenced || st.CutOff || len(st.Reclaiming) > 0 || len(st.Strays) > 0 {
			return s.brief()
		}
	}
	if what := s.missing(); what != "" {
		return what + ": " + s.brief()
	}
	return ""
}

// brief tells the state of all peers, or of the first of them.
func (s *sim) brief() (text string) {
	for i, n := range s.sorted() {
		if i == 7 {
			return text + "\n..."
		}
		st := n.Status()
		text += fmt.Sprintf("\n%v: %s, %d in use, %d free, fenced %v, reclaiming %v, strays %v, in doubt %d, lost %v", n.name, st.State,
			st.ActiveIPs, st.FreeIPs, st.Fenced, st.Reclaiming, st.Strays, len(st.InDoubt), st.Lost)
		for _, p := range st.Peers {
			text += fmt.Sprintf("; %v %v has %d", p.Peer, p.Reachable, p.IPs)
		}
		for _, d := range st.Disputes {
			text += fmt.Sprintf("; %s about %v", d.Reason, d.Ranges)
		}
	}
	return text
}

// takeAll has one peer ask for every address that is left, within a bounded time; the first and the last of the range are
// not given out.
func (s *sim) takeAll() {
	inUse := 0
	for _, n := range s.sorted() {
		hosts := 0
		for _, o := range n.Owners() {
			for _, p := range o.Addrs {
				if p.Addr() != s.universe.Addr() && s.universe.Contains(p.Addr().Next()) {
					hosts++
				}
			}
		}
		inUse += hosts
	}
	n := s.sorted()[s.r.IntN(len(s.nodes))]
	ctx := s.within(20 * time.Minute)
	left := 1<<s.hostBits() - 2 - inUse
	for i := range left {
		if _, err := n.Allocate(ctx, fmt.Sprintf("last%d", i), netip.Prefix{}); err != nil {
			s.blame("%v cannot get the last %d addresses: %v%s", n.name, left-i, err, s.brief())
			return
		}
	}
	s.pass(time.Minute)
	s.requireNoDouble()
}

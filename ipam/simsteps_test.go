package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/peer"
)

// sim is one simulation.
type sim struct {
	plan
	*world
	r      *rand.Rand
	owners int
	tries  int
	events *tally
	wrong  string // the first thing that is
	begun  time.Time

	split  bool
	cutAt  time.Time         // since when there is a partition
	cutFor time.Duration     // where dead peers are reclaimed: for how long
	wiped  map[int]bool      // taken over by the operator: may come back only without its disk
	fallen map[int]bool      // taken over by the operator, who did not know that it comes back with its disk
	downAt map[int]time.Time // since when it is, or was cut off before
	until  map[int]time.Time // dead at least until then
	buried map[int]bool      // dead for ever
	losses *rand.Rand
	bare   map[peer.Name]bool // have lost their disk, and kept their space

	promised map[netip.Addr]promise // what was answered, and not given back
	excuses

	mu       sync.Mutex
	ambushes *rand.Rand
	ambushed bool // a peer was just cut off, in the middle of a takeover
	healing  bool // no more of that
	answers  []answer
}

func (s *sim) step() {
	i := 1 + s.r.IntN(s.size)
	n := s.nodes[name(i)]
	switch x := s.r.IntN(100); {
	case n == nil:
		if x < 50 && time.Now().After(s.until[i]) {
			s.revive(i)
		}
	case x < 55:
		s.allocateSome(n)
	case x < 70:
		s.freeSome(n)
	case x < 80:
		s.claimOne(n)
	case x < 88:
		if s.r.IntN(3) == 0 {
			s.restart(i, n)
			return
		}
		if s.losses.IntN(4) == 0 && s.wreck(i, n) {
			return
		}
		s.bury(i, n)
		s.fall(i, n)
		s.trace("%v is killed, for ever: %v", n.name, s.buried[i])
		s.kill(n.name)
	case x < 93:
		s.partition()
	case x < 96:
		s.trace("healed")
		s.bus.Heal()
		s.split = false
	default:
		s.takeOverOne(n)
	}
}

// fall notes that a peer is about to end.
func (s *sim) fall(i int, n *node) {
	s.downAt[i] = time.Now()
	if s.split {
		s.downAt[i] = s.cutAt
	}
	if s.check(); s.unsure(n.name) {
		s.inDoubt(n.name)
	}
}

// restart ends a peer in good order, in the middle of what it does, and starts it again soon.
func (s *sim) restart(i int, n *node) {
	s.allocateSome(n)
	s.freeSome(n)
	s.pass(time.Duration(s.r.IntN(1000)) * time.Microsecond)
	s.fall(i, n)
	s.trace("%v is stopped", n.name)
	s.stop(n.name)
	s.wait(time.Duration(s.r.IntN(3000)) * time.Millisecond)
	s.revive(i)
}

// hear is told what peer i logs. In the middle of a takeover it may be cut off, and the dead come back.
func (s *sim) hear(i int, r slog.Record) {
	s.events.count(r.Message)
	if r.Message == "giving up our ring for another that was born apart" {
		s.mu.Lock()
		s.joined[name(i)] = true
		s.mu.Unlock()
	}
	if *simTrace {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		s.trace("%v: %s", name(i), text)
	}
	if r.Message != "taking over the address space of dead peers, if the others agree" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ambushes.IntN(2) == 0 && !s.healing {
		time.AfterFunc(time.Microsecond, func() { // not in the middle of what others do at this instant
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ambushed = true
			s.trace("%v is cut off", name(i))
			s.bus.Partition([]peer.Name{name(i)})
		})
	}
}

// wait lets time pass, and looks at what has happened.
func (s *sim) wait(d time.Duration) {
	s.pass(d)
	s.check()
	s.mu.Lock()
	ambushed := s.ambushed
	s.ambushed = false
	s.mu.Unlock()
	if !ambushed {
		return
	}
	s.split, s.cutAt, s.cutFor = true, time.Now(), time.Duration(s.r.Int64N(int64(s.delay/3)))
	for i := range s.size {
		if s.nodes[name(i+1)] == nil {
			s.revive(i + 1)
		}
	}
	for range 10 {
		s.pass(5 * time.Second)
		for _, n := range s.sorted() {
			s.allocateSome(n)
		}
		s.check()
	}
}

// bury decides about a peer that is about to be killed whether it stays dead for longer, or for ever: then it must not
// take away the majority.
func (s *sim) bury(i int, n *node) {
	if s.delay <= 0 {
		return
	}
	switch x := s.r.IntN(100); {
	case x < 40:
		s.until[i] = time.Now().Add(s.delay + time.Duration(s.r.IntN(180)-30)*time.Second)
	case x < 60 && len(s.buried) == 0 && !s.split && len(n.Status().Entries) > 0:
		if _, share := s.spaceOf(n, n.name); share < 0.4 {
			s.buried[i] = true
		}
	}
}

// age lets more time pass now and then where dead peers are reclaimed, and ends partitions.
func (s *sim) age() {
	if s.delay <= 0 {
		return
	}
	if s.split && time.Since(s.cutAt) > s.cutFor {
		s.trace("healed, after %v", s.cutFor)
		s.bus.Heal()
		s.split = false
		s.wait(15 * time.Second)
	}
	if s.r.IntN(10) == 0 {
		for range s.r.IntN(10) {
			s.wait(20 * time.Second)
		}
	}
}

// revive starts a peer that is down, unless it is to stay so. While others waited it may have come back by itself.
func (s *sim) revive(i int) {
	if s.nodes[name(i)] != nil || s.buried[i] || s.wiped[i] && s.birth == grown && (s.split || s.alone()) { // it would make a ring of its own
		return
	}
	if s.wiped[i] {
		delete(s.stores, name(i))
		delete(s.wiped, i)
		s.forget(func(made promise) bool { return made.at == name(i) })
	}
	if s.dead(name(i)) {
		s.inDoubt(name(i))
	}
	s.up(i)
}

// alone reports whether nobody who is up has a ring, but somebody may come who has.
func (s *sim) alone() bool {
	for _, n := range s.nodes {
		if len(n.Status().Entries) > 0 {
			return false
		}
	}
	for i := range s.size {
		if s.stores[name(i+1)] != nil && !s.wiped[i+1] && !s.buried[i+1] {
			return true
		}
	}
	return false
}

// inDoubt notes that a peer does not know what it has kept of what it promised.
func (s *sim) inDoubt(p peer.Name) {
	for a, made := range s.promised {
		made.doubt = made.doubt || made.at == p
		s.promised[a] = made
	}
}

// try calls f beside the simulation, for a while. No two calls begin at the same instant, so that their order is not left
// to the scheduler.
func (s *sim) try(f func(ctx context.Context)) {
	ctx := s.within(time.Duration(1+s.r.IntN(20)) * time.Second)
	s.tries++
	time.AfterFunc(time.Duration(s.tries%1000)*time.Microsecond, func() { f(ctx) })
}

func (s *sim) allocateSome(n *node) {
	for range 1 + s.r.IntN(8) {
		s.owners++
		owner := fmt.Sprintf("o%d", s.owners)
		s.try(func(ctx context.Context) {
			p, err := n.Allocate(ctx, owner, netip.Prefix{})
			s.answered(n, owner, p, err)
		})
	}
}

func (s *sim) freeSome(n *node) {
	for _, o := range n.Owners() {
		if s.r.IntN(3) == 0 {
			s.forget(func(made promise) bool { return made.owner == o.Owner })
			s.try(func(ctx context.Context) { s.accept(n.FreeAll(ctx, o.Owner)) })
		}
	}
}

func (s *sim) claimOne(n *node) {
	s.owners++
	owner := fmt.Sprintf("c%d", s.owners)
	p := s.anywhere(s.r)
	s.try(func(ctx context.Context) { s.answered(n, owner, p, n.Claim(ctx, owner, p)) })
}

// partition splits the peers in two. Where dead peers are reclaimed it mostly ends before that could happen.
func (s *sim) partition() {
	var groups [2][]peer.Name
	for i := range s.size {
		g := s.r.IntN(2)
		groups[g] = append(groups[g], name(i+1))
	}
	s.trace("partition: %v", groups)
	s.bus.Partition(groups[:]...)
	if s.split {
		return
	}
	s.split, s.cutAt = true, time.Now()
	if s.delay > 0 {
		if s.cutFor = time.Duration(s.r.Int64N(int64(s.delay / 3))); s.r.IntN(5) == 0 {
			s.cutFor *= 6
		}
	}
}

// takeOverOne has the operator take over a peer that is down for long. A careful one does so after everybody else who
// will ever come back has met; and only one at a time.
func (s *sim) takeOverOne(n *node) {
	gone := 0
	for i := range s.size {
		switch {
		case s.nodes[name(i+1)] != nil || s.wiped[i+1]:
		case gone == 0 && !s.fallen[i+1]:
			gone = i + 1
		case !s.careless:
			return
		}
	}
	if gone == 0 || s.split {
		return
	}
	s.wait(2 * time.Minute) // forgotten by the mesh, and what it told has spread
	if s.nodes[n.name] != n || s.split {
		return
	}
	space, share := s.spaceOf(n, name(gone))
	if _, err := n.TakeOver(s.within(time.Minute), name(gone)); err == nil {
		s.tookOver(gone, space, share)
	} else {
		s.accept(err)
	}
	s.wait(2 * time.Minute)
}

// tookOver follows a takeover by the operator. Some of those who are taken over were not gone.
func (s *sim) tookOver(gone int, space []span, share float64) {
	back := s.r.IntN(3) == 0 && (s.delay <= 0 || share < 0.4) // or else it could take over others in its turn
	if s.careless || back {
		s.taint(space)
	}
	if back {
		s.fallen[gone] = true
		s.inDoubt(name(gone))
		return
	}
	s.wiped[gone] = true
	s.forget(func(made promise) bool { return made.at == name(gone) })
}

// accept takes the errors that may come of a call in such times.
func (s *sim) accept(err error) {
	list := []error{
		context.DeadlineExceeded, context.Canceled, ipam.ErrConflict, ipam.ErrClosed, ipam.ErrStore, ipam.ErrNotOwned, ipam.ErrReachable,
	}
	if err != nil && !slices.ContainsFunc(list, func(ok error) bool { return errors.Is(err, ok) }) {
		s.t.Errorf("unexpected: %v", err)
	}
}

package fastdp

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

const indexShards = 64

// index holds every flow that is in the kernel, or about to be. It is safe for concurrent use; there is no lock that all
// readers of misses need.
type index struct {
	shards [indexShards]indexShard
	names  [indexShards]nameShard
	count  atomic.Int64
	of     [numOrigins]atomic.Int64
}

// indexShard holds the flows of some addresses.
type indexShard struct {
	mu    sync.Mutex
	byMAC map[overlay.MAC]map[flowKey]*entry
	n     int
}

type nameShard struct {
	mu   sync.Mutex
	keys map[odp.UFID]flowKey
}

// entry is what is known of a flow. It is guarded by the shard's mu.
type entry struct {
	id      odp.UFID
	steps   []step
	expires time.Time // of a flow that is not to last; zero: it lasts
	// lostSince is when what carries its frames stopped working; zero: it works.
	lostSince time.Time
	// adopted: it is of a former run, and what it stands for is not all known yet.
	adopted bool

	packets, bytes uint64    // as last seen
	used           time.Time // when it was last seen to have been used, or made
	seen           uint64    // number of the last sweep that saw it, or in which it was made
}

func (x *index) shard(m overlay.MAC) *indexShard { return &x.shards[shardOf(m)] }

// add counts a flow that comes, or one that goes.
func (x *index) add(k flowKey, n int64) {
	x.count.Add(n)
	if o, has := k.origin(); has {
		x.of[o].Add(n)
	}
}

func (x *index) name(id odp.UFID) *nameShard {
	if id == "" {
		return &x.names[0]
	}
	return &x.names[id[0]%indexShards]
}

// placed is what the index says of a flow that is about to be put into the kernel.
type placed struct {
	id     odp.UFID
	known  bool       // it was there already
	rivals []odp.UFID // the flows that have to leave the kernel first
}

// put notes a flow that is about to be put into the kernel. The statistics of one that is there already are kept.
func (x *index) put(k flowKey, v verdict, now time.Time, sweep uint64) (p placed) {
	s := x.shard(k.mac)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byMAC == nil {
		s.byMAC = map[overlay.MAC]map[flowKey]*entry{}
	}
	same := s.byMAC[k.mac]
	if same == nil {
		same = map[flowKey]*entry{}
		s.byMAC[k.mac] = same
	}
	for _, rival := range k.rivals(same) {
		p.rivals = append(p.rivals, same[rival].id)
		x.forgetLocked(s, rival)
	}
	e := same[k]
	if p.known = e != nil; !p.known {
		if s.byMAC[k.mac] == nil { // the last rival took it along
			s.byMAC[k.mac] = same
		}
		e = &entry{id: k.ufid(), seen: sweep}
		same[k] = e
		s.n++
		x.add(k, 1)
		x.setName(e.id, k)
	}
	e.steps, e.lostSince, e.adopted, e.used, e.expires = v.steps, time.Time{}, false, now, v.end(now)
	p.id = e.id
	return p
}

// end returns when a flow that is made now ends by itself; zero: it lasts.
func (v verdict) end(now time.Time) time.Time {
	if !v.brief {
		return time.Time{}
	}
	return now.Add(briefLife)
}

func (x *index) setName(id odp.UFID, k flowKey) {
	n := x.name(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.keys == nil {
		n.keys = map[odp.UFID]flowKey{}
	}
	n.keys[id] = k
}

// lookup returns the key of a flow by its name.
func (x *index) lookup(id odp.UFID) (k flowKey, ok bool) {
	n := x.name(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	k, ok = n.keys[id]
	return k, ok
}

// forget forgets a flow and returns its name; "" if it is not known.
func (x *index) forget(k flowKey) odp.UFID {
	s := x.shard(k.mac)
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.forgetLocked(s, k)
}

func (x *index) forgetLocked(s *indexShard, k flowKey) odp.UFID {
	same := s.byMAC[k.mac]
	e := same[k]
	if e == nil {
		return ""
	}
	if delete(same, k); len(same) == 0 {
		delete(s.byMAC, k.mac)
	}
	s.n--
	x.add(k, -1)
	n := x.name(e.id)
	n.mu.Lock() // taken after a shard's
	delete(n.keys, e.id)
	n.mu.Unlock()
	return e.id
}

// update calls f for a flow, if it is known, with the entry locked.
func (x *index) update(k flowKey, f func(*entry)) (ok bool) {
	s := x.shard(k.mac)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byMAC[k.mac][k]
	if e != nil {
		f(e)
	}
	return e != nil
}

// forwards reports whether a flow is known and does not only drop.
func (x *index) forwards(k flowKey) (yes bool) {
	x.update(k, func(e *entry) { yes = len(e.steps) > 0 })
	return yes
}

// keys returns the keys of the flows with an address, or all.
func (x *index) keys(m overlay.MAC, all bool) (out []flowKey) {
	collect := func(s *indexShard, byMAC map[flowKey]*entry) {
		for k := range byMAC {
			out = append(out, k)
		}
	}
	if !all {
		s := x.shard(m)
		s.mu.Lock()
		defer s.mu.Unlock()
		collect(s, s.byMAC[m])
		return out
	}
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		out = slices.Grow(out, s.n)
		for _, same := range s.byMAC {
			collect(s, same)
		}
		s.mu.Unlock()
	}
	return out
}

// each calls f for all flows, with the entries of a shard locked.
func (x *index) each(f func(flowKey, *entry)) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		for _, same := range s.byMAC {
			for k, e := range same {
				f(k, e)
			}
		}
		s.mu.Unlock()
	}
}

// len returns the number of flows.
func (x *index) len() int { return int(x.count.Load()) }

// clear forgets all flows.
func (x *index) clear() {
	for _, k := range x.keys(overlay.MAC{}, true) {
		x.forget(k)
	}
}

package dns

import (
	"sync"
	"time"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	adoptInterval = 500 * time.Millisecond
	parkedFor     = 30 * time.Second // by then the carrier has sent complete states again
	maxParked     = 1 << 14
)

// parked keeps entries whose origin is not in the membership yet: gossip can be faster than the news of who has joined, and
// nobody would repeat it before the next exchange of complete states. Its zero value is empty. It is safe for concurrent
// use.
type parked struct {
	mu      sync.Mutex
	entries map[key]parkedEntry
}

type parkedEntry struct {
	Entry
	until time.Time
}

// add parks entries, of one identity the newest, and returns how many there was no room for.
func (p *parked) add(entries []Entry, now time.Time) (refused int) {
	if len(entries) == 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries == nil {
		p.entries = map[key]parkedEntry{}
	}
	for _, e := range entries {
		k := e.key()
		old, ok := p.entries[k]
		switch {
		case !ok && len(p.entries) >= maxParked:
			refused++
		case !ok:
			p.entries[k] = parkedEntry{e, now.Add(parkedFor)}
		case e.newerThan(old.Entry):
			e.Hostname = old.Hostname
			p.entries[k] = parkedEntry{e, old.until}
		}
	}
	return refused
}

// take removes the entries whose origin is a member now, and returns them. It removes those whose time is over too, and
// says how many that were.
func (p *parked) take(member func(peer.Name) bool, now time.Time) (found []Entry, late int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, e := range p.entries {
		switch {
		case member(e.Origin):
			found = append(found, e.Entry)
		case now.After(e.until):
			late++
		default:
			continue
		}
		delete(p.entries, k)
	}
	return found, late
}

func (p *parked) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries)
}

// adopt merges what was parked of those who are members by now. Whoever got it from us by broadcast, had we known its
// origin, gets it as gossip.
func (t *Table) adopt(now time.Time) {
	t.leaving.Lock()
	found, late := t.parked.take(t.members(), now)
	got := t.mergeAll(found, now.Unix())
	t.leaving.Unlock()
	t.counts.unknown.Add(uint64(late))
	if d := newDelta(now.Unix(), got.fresh); d != nil {
		t.sender.Gossip(d)
	}
}

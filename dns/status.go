package dns

import "sync/atomic"

// Status is what there is to say about a table. Counters grow from New on.
type Status struct {
	Domain     string // lower case, with final dot
	Live       int    // entries that hold
	Own        int    // of those, what this peer registered
	Tombstones int    // entries that were removed
	Parked     int    // entries, not among these, that wait for their origin to appear in the membership

	Malformed      uint64 // messages that could not be read
	Skewed         uint64 // messages of peers whose clock is more than MaxSkew from ours; they were merged
	BadEntries     uint64 // entries dropped because a field is out of bounds
	UnknownOrigin  uint64 // entries dropped because their origin did not appear in the membership
	Refused        uint64 // entries not taken up because the table is full
	SelfCorrection uint64 // entries of ours that others remembered wrongly and were told so
}

type counts struct {
	malformed, skewed, bad, unknown, refused, corrected atomic.Uint64
}

// Status returns the state of the table. It walks the table once.
func (t *Table) Status() Status {
	t.mu.RLock()
	live, own, all := t.recs.live, t.recs.liveOf(t.self), len(t.recs.all)
	t.mu.RUnlock()
	return Status{
		Domain:         t.domain,
		Live:           live,
		Own:            own,
		Tombstones:     all - live,
		Parked:         t.parked.size(),
		Malformed:      t.counts.malformed.Load(),
		Skewed:         t.counts.skewed.Load(),
		BadEntries:     t.counts.bad.Load(),
		UnknownOrigin:  t.counts.unknown.Load(),
		Refused:        t.counts.refused.Load(),
		SelfCorrection: t.counts.corrected.Load(),
	}
}

package dns

import (
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// receiver is the table as the carrier sees it. It keeps those methods out of the table's own.
type receiver struct{ t *Table }

// OnUnicast ignores the message: nobody sends any on this channel.
func (r receiver) OnUnicast(peer.Name, []byte) error { return nil }

// OnBroadcast passes on all that came and was fit to be merged.
func (r receiver) OnBroadcast(_ peer.Name, msg []byte) (gossip.Data, error) {
	got, err := r.t.receive(msg)
	if err != nil {
		return nil, err
	}
	return newDelta(got.at, got.kept), nil
}

// OnGossip passes on what was new.
func (r receiver) OnGossip(msg []byte) (gossip.Data, error) {
	got, err := r.t.receive(msg)
	if err != nil {
		return nil, err
	}
	r.t.mu.Lock()
	r.t.heard = true
	r.t.mu.Unlock()
	return newDelta(r.t.now().Unix(), got.fresh), nil
}

// OnPeerGone forgets what the peer said. If it comes back, it says so again; if it is back already, it has, and takes back
// itself what does not hold any more.
func (r receiver) OnPeerGone(name peer.Name) {
	r.t.leaving.Lock()
	defer r.t.leaving.Unlock()
	for {
		if _, back := r.t.bus.Member(name); back || !r.t.forget(name) {
			return
		}
	}
}

// forget drops some of the entries of an origin, and reports whether there were any.
func (t *Table) forget(origin peer.Name) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.recs.dropOrigin(origin, batchSize) == 0 {
		return false
	}
	t.changes.Add(1)
	return true
}

// State returns the whole table, even if it is empty: old peers expect a message.
func (r receiver) State() gossip.Data { return r.t.state }

// batchSize is how many entries are changed at a stretch: lookups get in between.
const batchSize = 256

// received is what a message came to.
type received struct {
	at        int64   // its time, or ours if its clock is off
	kept      []Entry // what was fit to be merged, corrected
	fresh     []Entry // of those, what changed the table
	corrected []Entry // of those, our own that we had to put right
}

func (t *Table) receive(msg []byte) (received, error) {
	now := t.now()
	at, entries, bad, err := decode(msg, now.Unix())
	if err != nil {
		t.counts.malformed.Add(1)
		return received{}, err
	}
	t.counts.bad.Add(uint64(bad))
	known, unknown := t.byOrigin(entries)
	t.counts.unknown.Add(uint64(t.parked.add(unknown, now)))
	got := t.mergeAll(known, now.Unix())
	got.at = t.checkClock(at, now)
	t.counts.corrected.Add(uint64(len(got.corrected)))
	t.broadcast(got.corrected)
	return got, nil
}

// checkClock returns the time under which a message may be passed on.
func (t *Table) checkClock(at int64, now time.Time) int64 {
	limit, ours := int64(MaxSkew/time.Second), now.Unix()
	if at >= ours-limit && at <= ours+limit {
		return at
	}
	if t.counts.skewed.Add(1) == 1 { // one line, not one a message; the count is in Status
		t.log.Warn("names from a peer whose clock is off", "theirs", at, "ours", ours, "limit", MaxSkew)
	}
	return ours
}

// byOrigin splits entries, whose order it keeps, by whether their origin is in the membership. It uses their memory.
func (t *Table) byOrigin(entries []Entry) (known, unknown []Entry) {
	member := t.members()
	known = entries[:0]
	for _, e := range entries {
		if member(e.Origin) {
			known = append(known, e)
		} else {
			unknown = append(unknown, e)
		}
	}
	return known, unknown
}

// members returns a function that tells who is in the membership, and asks the bus once for each peer.
func (t *Table) members() func(peer.Name) bool {
	known := map[peer.Name]bool{t.self: true}
	return func(name peer.Name) bool {
		ok, asked := known[name]
		if !asked {
			_, ok = t.bus.Member(name)
			known[name] = ok
		}
		return ok
	}
}

func (t *Table) mergeAll(entries []Entry, now int64) (got received) {
	for batch := range slices.Chunk(entries, batchSize) {
		t.mergeBatch(&got, batch, now)
	}
	return got
}

func (t *Table) mergeBatch(got *received, batch []Entry, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(got.fresh)
	for _, e := range batch {
		t.mergeOne(got, e, now)
	}
	if len(got.fresh) > before {
		t.changes.Add(1)
	}
}

// mergeOne merges an entry. The caller holds mu.
func (t *Table) mergeOne(got *received, e Entry, now int64) {
	if e.Origin == t.self && !t.heard && t.recs.respell(e) { // we are new here: what others remember of us was first
		t.changes.Add(1)
	}
	old, have := t.recs.get(e)
	if have {
		e.Hostname = old.Hostname
	}
	corrected := false
	if e.Origin == t.self {
		if e, corrected = correct(e, old, have, now); corrected {
			got.corrected = append(got.corrected, e)
		}
	}
	if !have && !t.mayAdd(e, now) {
		if corrected { // others have to know, with or without room here
			got.kept = append(got.kept, e)
		}
		return
	}
	got.kept = append(got.kept, e)
	if e, changed := t.recs.merge(e); changed {
		got.fresh = append(got.fresh, e)
	}
}

// mayAdd decides about an entry that is not in the table.
func (t *Table) mayAdd(e Entry, now int64) bool {
	if expired(e, now) {
		return false
	}
	if len(t.recs.all) >= t.maxEntries {
		t.counts.refused.Add(1)
		return false
	}
	return true
}

// correct decides what an entry of our own origin should say: what we say of it, or, if we do not know it, that it is
// gone. It reports whether the sender has to be told.
func correct(e, ours Entry, have bool, now int64) (Entry, bool) {
	switch {
	case have && (e.Version > ours.Version || e.Version == ours.Version && e.Tombstone != ours.Tombstone):
		ours.Version = e.Version + 1
		return ours, true
	case !have && e.Live():
		e.Tombstone, e.Version = now, e.Version+1
		return e, true
	}
	return e, false
}

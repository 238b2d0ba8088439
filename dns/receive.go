package dns

import (
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
	return newDelta(got.at, got.all), nil
}

// OnGossip passes on what was new.
func (r receiver) OnGossip(msg []byte) (gossip.Data, error) {
	got, err := r.t.receive(msg)
	if err != nil {
		return nil, err
	}
	return newDelta(r.t.now().Unix(), got.fresh), nil
}

// OnPeerGone forgets what the peer said. If it comes back, it says so again.
func (r receiver) OnPeerGone(name peer.Name) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	if name != r.t.self && r.t.recs.dropOrigin(name) {
		r.t.changes.Add(1)
	}
}

// State returns the whole table, even if it is empty: old peers expect a message.
func (r receiver) State() gossip.Data { return r.t.state }

// received is what a message came to.
type received struct {
	at        int64   // its time, or ours if its clock is off
	all       []Entry // of known origins, corrected
	fresh     []Entry // of those, what changed the table
	corrected []Entry // of those, our own that we had to put right
}

func (t *Table) receive(msg []byte) (received, error) {
	at, entries, bad, err := decode(msg)
	if err != nil {
		t.counts.malformed.Add(1)
		return received{}, err
	}
	t.counts.bad.Add(uint64(bad))
	now := t.now()
	got := received{at: t.checkClock(at, now), all: t.ofMembers(entries)}
	t.mergeAll(&got, now.Unix())
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

// ofMembers drops entries whose origin is not in the membership, in place.
func (t *Table) ofMembers(entries []Entry) []Entry {
	known := map[peer.Name]bool{t.self: true}
	kept := entries[:0]
	for _, e := range entries {
		ok, asked := known[e.Origin]
		if !asked {
			_, ok = t.bus.Member(e.Origin)
			known[e.Origin] = ok
		}
		if ok {
			kept = append(kept, e)
		}
	}
	t.counts.unknown.Add(uint64(len(entries) - len(kept)))
	return kept
}

func (t *Table) mergeAll(got *received, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, e := range got.all {
		old, have := t.recs.get(e)
		if have {
			e.Hostname = old.Hostname
		}
		corrected := false
		if e.Origin == t.self {
			e, corrected = correct(e, old, have, now)
		}
		got.all[i] = e
		if !have && !t.mayAdd(e, now) {
			continue
		}
		if e, changed := t.recs.merge(e); changed {
			got.fresh = append(got.fresh, e)
		}
		if corrected {
			got.corrected = append(got.corrected, e)
		}
	}
	if len(got.fresh) > 0 {
		t.changes.Add(1)
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

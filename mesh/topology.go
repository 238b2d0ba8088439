package mesh

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// maxPeers bounds the topology. An update that would bring more is refused as a whole.
	maxPeers = 1 << 14
	// maxNickname bounds nicknames, in bytes; longer ones are cut.
	maxNickname = 255
)

// entry is what is known of a peer. It is immutable: news makes a new one.
type entry struct {
	name       peer.Name
	uid        peer.UID // 0: a placeholder, somebody has a connection to it, and that is all we know
	version    uint64
	nickname   string
	shortID    peer.ShortID
	hasShortID bool
	port       uint16 // on which the peer listens, 0 if not known; not part of the old wire
	conns      connList

	gob atomic.Pointer[[]byte] // the entry in the encoding of Weave Net, once it was needed
}

// hash is the entry's part in the digest of a topology.
func (e *entry) hash() uint64 {
	h := mix(uint64(e.name)) ^ mix(e.version+0x9e3779b97f4a7c15)*3 ^ mix(uint64(e.uid)+0x7f4a7c159e3779b9)*5
	return mix(h)
}

func mix(v uint64) uint64 {
	v ^= v >> 32
	v *= 0xd6e8feb86659fd93
	v ^= v >> 32
	v *= 0xd6e8feb86659fd93
	return v ^ v>>32
}

// supersedes reports whether e is news to somebody who has old (section 4.2).
func (e *entry) supersedes(old *entry) bool {
	switch {
	case e.version != old.version:
		return e.version > old.version
	case e.uid != old.uid:
		return e.uid > old.uid
	default:
		return e.hasShortID && !old.hasShortID
	}
}

// topology is the set of known peers with their connections: plain data that merges. It is not safe for concurrent use.
type topology struct {
	self    peer.Name
	names   []peer.Name       // ascending
	entries []*entry          // in the same order
	shared  bool              // a graph has names: they are copied before they change
	refs    map[peer.Name]int // links of ours, in set-up or live, that hold a peer
	short   *shortTable
	digest  uint64
	changed bool // since it was last looked at: a graph made before is old
}

func newTopology(self *entry, pick func(n int) int) *topology {
	t := &topology{self: self.name, refs: map[peer.Name]int{}}
	t.short = newShortTable(pick)
	t.put(self)
	return t
}

// entry returns the entry of a peer, nil if it is not known.
func (t *topology) entry(name peer.Name) *entry {
	if i, known := slices.BinarySearch(t.names, name); known {
		return t.entries[i]
	}
	return nil
}

func (t *topology) own() *entry { return t.entry(t.self) }

func (t *topology) size() int { return len(t.entries) }

// put makes e the entry of its peer.
func (t *topology) put(e *entry) {
	i, known := slices.BinarySearch(t.names, e.name)
	if known {
		t.digest ^= t.entries[i].hash()
		t.short.remove(t.entries[i])
		t.entries[i] = e
	} else {
		t.unshareNames()
		t.names, t.entries = slices.Insert(t.names, i, e.name), slices.Insert(t.entries, i, e)
	}
	t.digest ^= e.hash()
	t.short.add(e)
	t.changed = true
}

// shareNames returns the names; they do not change any more.
func (t *topology) shareNames() []peer.Name {
	t.shared = true
	return t.names
}

func (t *topology) unshareNames() {
	if t.shared {
		t.names, t.shared = slices.Clone(t.names), false
	}
}

func (t *topology) drop(e *entry) {
	i, known := slices.BinarySearch(t.names, e.name)
	if !known {
		return
	}
	t.unshareNames()
	t.names, t.entries = slices.Delete(t.names, i, i+1), slices.Delete(t.entries, i, i+1)
	t.digest ^= e.hash()
	t.short.remove(e)
	t.changed = true
}

// setOwn changes what we say of ourselves, and raises our version.
func (t *topology) setOwn(change func(e *entry)) {
	old := t.own()
	e := &entry{
		name: old.name, uid: old.uid, version: old.version + 1, nickname: old.nickname,
		shortID: old.shortID, hasShortID: old.hasShortID, port: old.port, conns: old.conns,
	}
	change(e)
	t.put(e)
}

// merged is what an update has brought.
type merged struct {
	news    []*entry // entries that were taken
	stale   []*entry // entries that told nothing new
	behind  []*entry // our own entries for those of stale that are older than ours
	foreign *entry   // a report about ourselves under another UID, with a version that we had to pass
}

// merge takes an update, of which every entry belongs to the topology afterwards.
func (t *topology) merge(update []*entry) (m merged, err error) {
	if err := t.checkRoom(update); err != nil {
		return m, err
	}
	created := t.addUnknown(update)
	for _, e := range update {
		old := t.entry(e.name)
		switch {
		case e.name == t.self:
			if e.uid != old.uid && e.version >= old.version && e.version < math.MaxUint64-1<<32 {
				m.foreign = e
				t.setOwn(func(own *entry) { own.version = e.version + 1 })
			}
		case created[e.name] == e:
			m.news = append(m.news, e)
		case e.supersedes(old):
			t.put(e)
			m.news = append(m.news, e)
		default:
			m.stale = append(m.stale, e)
			if old.supersedes(e) {
				m.behind = append(m.behind, old)
			}
		}
	}
	return m, nil
}

// checkRoom refuses an update that names more peers than fit.
func (t *topology) checkRoom(update []*entry) error {
	if t.size()+len(update) <= maxPeers/2 {
		links := 0
		for _, e := range update {
			links += len(e.conns) / (peer.NameSize + 2)
		}
		if t.size()+len(update)+links <= maxPeers {
			return nil
		}
	}
	unknown := map[peer.Name]struct{}{}
	note := func(n peer.Name) {
		if t.entry(n) == nil {
			unknown[n] = struct{}{}
		}
	}
	for _, e := range update {
		note(e.name)
		for c := range e.conns.all() {
			note(c.remote)
		}
		if t.size()+len(unknown) > maxPeers {
			return fmt.Errorf("%w: more than %d", errTooMany, maxPeers)
		}
	}
	return nil
}

// addUnknown makes entries for all names the update holds, and returns those that come from a summary.
func (t *topology) addUnknown(update []*entry) map[peer.Name]*entry {
	var created map[peer.Name]*entry
	for _, e := range update {
		if t.entry(e.name) == nil {
			if created == nil {
				created = map[peer.Name]*entry{}
			}
			created[e.name] = e
			t.put(e)
		}
	}
	for _, e := range update {
		for rest := e.conns; len(rest) > 0; {
			c, next, ok := nextConn(rest)
			if !ok {
				break
			}
			if t.entry(c.remote) == nil {
				t.put(&entry{name: c.remote})
			}
			rest = next
		}
	}
	return created
}

// hold takes a local reference to a peer; release gives it back. A peer that is held is not collected.
func (t *topology) hold(name peer.Name) { t.refs[name]++ }

func (t *topology) release(name peer.Name) {
	if t.refs[name]--; t.refs[name] <= 0 {
		delete(t.refs, name)
	}
}

// collect removes the peers that cannot be reached from us over any listed connection, and are not held. g is a graph of
// the current entries.
func (t *topology) collect(g *graph) (gone []*entry) {
	reached := g.reachable()
	for i, e := range g.entries {
		if !reached[i] && t.refs[e.name] == 0 && t.entry(e.name) == e {
			t.drop(e)
			gone = append(gone, e)
		}
	}
	return gone
}

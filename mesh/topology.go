package mesh

import (
	"slices"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// maxNickname bounds nicknames, in bytes; longer ones are cut.
	maxNickname = 255
	// maxVersion is one that no peer gets to by itself. What claims to be as recent, of whomever, is not believed: the peer
	// could not say anything newer. A lie below is outrun by the peer it is about; only one just below keeps that peer unheard
	// until it has left the mesh and come back.
	maxVersion = 1 << 62
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
	refs    map[peer.Name]int // links of ours that hold a peer
	short   *shortTable
	digest  uint64
	changed bool // since it was last looked at: a graph made before is old

	room      room
	listBytes int // of all lists of connections that are not short
}

func newTopology(self *entry, pick func(n int) int) *topology {
	t := &topology{self: self.name, refs: map[peer.Name]int{}}
	t.room = room{only: map[peer.Name]peer.Name{}, told: map[peer.Name]int{}}
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
		t.withdraw(t.entries[i])
		t.entries[i] = e
	} else {
		t.unshareNames()
		t.names, t.entries = slices.Insert(t.names, i, e.name), slices.Insert(t.entries, i, e)
	}
	t.digest ^= e.hash()
	t.short.add(e)
	t.listBytes += e.longBytes()
	t.changed = true
}

// withdraw takes back what an entry adds up to.
func (t *topology) withdraw(e *entry) {
	t.digest ^= e.hash()
	t.short.remove(e)
	t.listBytes -= e.longBytes()
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
	t.withdraw(e)
	t.room.gone(e.name)
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
	left    int      // how many found no room
	foreign *entry   // a report about ourselves under another UID, with a version that we had to pass
	forged  *entry   // one about ourselves that is ahead of us, which nobody can know
}

// merge takes an update in, as far as there is room, that came from a neighbour.
func (t *topology) merge(update []*entry, from peer.Name) (m merged) {
	created := t.addUnknown(update, from)
	for _, e := range update {
		old := t.entry(e.name)
		t.room.heard(e.name, from)
		switch {
		case e.version >= maxVersion:
		case old == nil:
			m.left++
		case e.name == t.self:
			t.judgeOwn(e, &m)
		case created[e.name] == e:
			m.news = append(m.news, e)
		case !e.supersedes(old):
			m.stale = append(m.stale, e)
		case t.hasRoomFor(e, old):
			t.put(e)
			m.news = append(m.news, e)
		default:
			m.left++
		}
	}
	return m
}

// judgeOwn looks at a report about ourselves. One that is about a former run of ours and not older than our entry has our
// version raised above it.
func (t *topology) judgeOwn(e *entry, m *merged) {
	switch own := t.own(); {
	case e.uid != own.uid && e.version >= own.version:
		m.foreign = e
		t.outrun(e)
	case e.uid == own.uid && e.version > own.version:
		m.forged = e
	}
}

// outrun raises our version above that of a report.
func (t *topology) outrun(e *entry) {
	t.setOwn(func(own *entry) { own.version = e.version + 1 })
}

// addUnknown makes entries for all names the update holds, as far as there is room, and returns those that come from a summary.
func (t *topology) addUnknown(update []*entry, from peer.Name) map[peer.Name]*entry {
	var created map[peer.Name]*entry
	for _, e := range update {
		if e.version < maxVersion && t.entry(e.name) == nil && t.admit(e, from) {
			if created == nil {
				created = map[peer.Name]*entry{}
			}
			created[e.name] = e
		}
	}
	for _, e := range update {
		for rest := e.conns; len(rest) > 0 && t.size() < openRoom; {
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
	t.refs[name]--
	if t.refs[name] <= 0 {
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

package mesh

import "github.com/overweave/overweave/mesh/peer"

// What others tell of the mesh is bounded, and a peer that invents others must not keep out those that exist. What finds no room
// is left out; no connection is closed for it, since whoever tells us may have been told. When there is room again, digests
// differ, and it comes.
const (
	// maxPeers bounds the topology.
	maxPeers = 1 << 14
	// openRoom: up to as many peers, every one is taken in that another tells of, if only by listing a connection to it.
	openRoom = maxPeers / 2
	// linkRoom is of how many more each connection may tell of which no other one tells.
	linkRoom = maxPeers / 16
	// keptRoom is for peers that connect to us.
	keptRoom = maxPeers / 16
	// maxListBytes bounds the lists of connections of all peers together, but for those of up to shortList bytes, which are
	// always taken: they hold 300 connections.
	maxListBytes = 64 << 20
	shortList    = 4 << 10
)

// room knows who has told of the peers beyond openRoom.
type room struct {
	only map[peer.Name]peer.Name // by peer: the neighbour that alone has told of it
	told map[peer.Name]int       // by neighbour: of how many
}

// admit makes e the entry of a peer that was not known, if there is room. A neighbour tells of it.
func (t *topology) admit(e *entry, from peer.Name) bool {
	if t.size() >= maxPeers-keptRoom || !t.hasRoomFor(e, nil) {
		return false
	}
	if t.size() >= openRoom {
		if t.room.told[from] >= linkRoom && len(t.refs) > 1 { // with one connection there is nobody to leave room for
			return false
		}
		t.room.only[e.name] = from
		t.room.told[from]++
	}
	t.put(e)
	return true
}

// hasRoomFor reports whether there is room for an entry's list in place of that of old, which may be nil.
func (t *topology) hasRoomFor(e, old *entry) bool {
	bytes := t.listBytes + e.longBytes()
	if old != nil {
		bytes -= old.longBytes()
	}
	return bytes <= maxListBytes || e.longBytes() == 0
}

// longBytes returns how many bytes of maxListBytes an entry takes.
func (e *entry) longBytes() int {
	if len(e.conns) <= shortList {
		return 0
	}
	return len(e.conns)
}

// heard notes that a neighbour tells of a peer too.
func (r *room) heard(name, from peer.Name) {
	if first, alone := r.only[name]; alone && first != from {
		r.gone(name)
	}
}

// gone notes that a peer does not count any more.
func (r *room) gone(name peer.Name) {
	first, alone := r.only[name]
	if !alone {
		return
	}
	delete(r.only, name)
	r.told[first]--
	if r.told[first] == 0 {
		delete(r.told, first)
	}
}

package mesh

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

// Peers of this package tell each other of changes in the topology in a form of their own, once both have said so in the
// introduction (keyDelta). Towards peers of Weave Net 2.8 the old form is kept.
//
//   - News goes along a few links of each peer, the eager ones: those by which parts of the mesh came together, and some
//     more so that the way is short. It is sent as entries. A link over which most comes too late to be news is eager no
//     more, if there are others.
//   - On the other links, and now and then on all, peers compare a digest of what they know. If it differs one tells the
//     versions it has, and the other sends what is newer and asks for what it lacks.
//
// A message is tagDelta, a kind, and a body. Names are raw, numbers are varints, fixed ones big-endian.
const (
	deltaEntries  = 1 // entries
	deltaDigest   = 2 // digest (8), number of peers
	deltaVersions = 3 // name (6), UID (8), version; for each peer
	deltaWant     = 4 // name (6); for each peer whose entry is asked for
	deltaEager    = 5 // no body: send me your news, I send you mine
	deltaGoodbye  = 6 // reason (1): the sender closes this connection now
	deltaLazy     = 7 // no body: send me no news any more, I send you none; others tell me the same earlier
	deltaPing     = 8 // anything of up to 16 bytes, to be sent back
	deltaPong     = 9 // what a deltaPing brought
)

// Reasons of deltaGoodbye.
const goodbyeLimit = 1

const (
	entryHasShortID = 1 << 0
	entryHasPort    = 1 << 1
)

// maxEntryHead is the most that appendEntry appends besides nickname and connections, in bytes.
const maxEntryHead = peer.NameSize + 8 + 2*binary.MaxVarintLen64 + 1 + 2 + 2 + 1

// appendEntry appends the entry as it goes in deltaEntries.
func appendEntry(b []byte, e *entry) []byte {
	b = e.name.AppendBytes(b)
	b = binary.BigEndian.AppendUint64(b, uint64(e.uid))
	b = binary.AppendUvarint(b, e.version)
	flags := byte(0)
	if e.hasShortID {
		flags |= entryHasShortID
	}
	if e.port != 0 {
		flags |= entryHasPort
	}
	b = append(b, flags)
	if e.hasShortID {
		b = binary.BigEndian.AppendUint16(b, uint16(e.shortID))
	}
	if e.port != 0 {
		b = binary.BigEndian.AppendUint16(b, e.port)
	}
	b = append(b, byte(len(e.nickname)))
	b = append(b, e.nickname...)
	b = binary.AppendUvarint(b, uint64(len(e.conns)))
	return append(b, e.conns...)
}

// cursor takes fields from the front of a message. After the first defect it is bad and returns zeros.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) next(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.b, c.bad = nil, true
		return make([]byte, min(n, 8)) // large enough for every fixed field
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.b, c.bad = nil, true
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) name() peer.Name {
	n, err := peer.FromBytes(c.next(peer.NameSize))
	if err != nil {
		c.b, c.bad = nil, true
	}
	return n
}

func (c *cursor) uid() peer.UID { return peer.UID(binary.BigEndian.Uint64(c.next(8))) }

// parseEntries reads the body of deltaEntries. known returns the entry we have of a peer, or nil; only entries that
// supersede it are decoded, the others are returned as old. The result shares no memory with b.
func parseEntries(b []byte, known func(peer.Name) *entry) (fresh []*entry, old []stamp, err error) {
	c := cursor{b: b}
	for len(c.b) > 0 {
		if len(fresh)+len(old) == maxPeers {
			return nil, nil, errTooMany
		}
		head := entry{name: c.name(), uid: c.uid(), version: c.uvarint()}
		flags := c.next(1)[0]
		head.hasShortID = flags&entryHasShortID != 0
		if head.hasShortID {
			head.shortID = peer.ShortID(binary.BigEndian.Uint16(c.next(2)))
		}
		if flags&entryHasPort != 0 {
			head.port = binary.BigEndian.Uint16(c.next(2))
		}
		rest := c.b
		nickname := len(c.next(uint64(c.next(1)[0])))
		conns := len(c.next(c.uvarint()))
		if c.bad || head.shortID > peer.MaxShortID {
			return nil, nil, fmt.Errorf("%w: topology delta", errMalformed)
		}
		if have := known(head.name); have != nil && !head.supersedes(have) {
			old = append(old, stamp{head.name, head.uid, head.version})
			continue
		}
		text := string(rest[1 : len(rest)-len(c.b)]) // one copy for both, as there are many entries
		list := connList(text[len(text)-conns:])
		if err := list.check(); err != nil {
			return nil, nil, err
		}
		fresh = append(fresh, &entry{
			name: head.name, uid: head.uid, version: head.version, nickname: text[:nickname], port: head.port,
			shortID: head.shortID, hasShortID: head.hasShortID, conns: list,
		})
	}
	return fresh, old, nil
}

// stamp is a version of a peer's entry.
type stamp struct {
	name    peer.Name
	uid     peer.UID
	version uint64
}

// covers reports whether a peer that has s learns nothing from e.
func (s stamp) covers(e *entry) bool {
	return s.version > e.version || s.version == e.version && s.uid >= e.uid
}

func appendStamp(b []byte, e *entry) []byte {
	b = e.name.AppendBytes(b)
	b = binary.BigEndian.AppendUint64(b, uint64(e.uid))
	return binary.AppendUvarint(b, e.version)
}

// parseStamps reads the body of deltaVersions; the result is in the order of names, each once.
func parseStamps(b []byte) ([]stamp, error) {
	c := cursor{b: b}
	stamps := make([]stamp, 0, min(len(b)/15, maxPeers))
	for len(c.b) > 0 {
		if len(stamps) == maxPeers {
			return nil, errTooMany
		}
		stamps = append(stamps, stamp{name: c.name(), uid: c.uid(), version: c.uvarint()})
	}
	if c.bad {
		return nil, fmt.Errorf("%w: topology versions", errMalformed)
	}
	slices.SortFunc(stamps, func(a, b stamp) int { return cmp.Compare(a.name, b.name) })
	return slices.CompactFunc(stamps, func(a, b stamp) bool { return a.name == b.name }), nil
}

// parseNames reads the body of deltaWant.
func parseNames(b []byte) ([]peer.Name, error) {
	c := cursor{b: b}
	var names []peer.Name
	for len(c.b) > 0 {
		if len(names) == maxPeers {
			return nil, errTooMany
		}
		names = append(names, c.name())
	}
	if c.bad {
		return nil, fmt.Errorf("%w: topology names", errMalformed)
	}
	return names, nil
}

// covered returns the peers of which somebody with these versions knows all that we know.
func (t *topology) covered(stamps []stamp) (names []peer.Name) {
	for _, s := range stamps {
		if have := t.entry(s.name); have != nil && s.covers(have) {
			names = append(names, s.name)
		}
	}
	return names
}

// compare says what of ours a peer with these versions lacks, and of which peers it has newer ones. theirs is as parseStamps
// returns it.
func (t *topology) compare(theirs []stamp) (lacking, newer []peer.Name) {
	for _, e := range t.entries {
		for len(theirs) > 0 && theirs[0].name < e.name {
			newer, theirs = append(newer, theirs[0].name), theirs[1:]
		}
		if len(theirs) == 0 || theirs[0].name != e.name {
			lacking = append(lacking, e.name)
			continue
		}
		s := theirs[0]
		theirs = theirs[1:]
		if !s.covers(e) {
			lacking = append(lacking, e.name)
		} else if s != (stamp{e.name, e.uid, e.version}) {
			newer = append(newer, e.name)
		}
	}
	for _, s := range theirs {
		newer = append(newer, s.name)
	}
	return lacking, newer
}

// digestMessage returns the deltaDigest of a topology.
func (t *topology) digestMessage() []byte {
	b := binary.BigEndian.AppendUint64([]byte{tagDelta, deltaDigest}, t.digest)
	return binary.AppendUvarint(b, uint64(t.size()))
}

// sameDigest reports whether a deltaDigest tells of the topology we have.
func (t *topology) sameDigest(body []byte) (same bool, err error) {
	c := cursor{b: body}
	digest, n := binary.BigEndian.Uint64(c.next(8)), c.uvarint()
	if c.bad || n > math.MaxInt32 {
		return false, fmt.Errorf("%w: topology digest", errMalformed)
	}
	return digest == t.digest && n == uint64(t.size()), nil
}

// versionsMessage returns the deltaVersions of a topology.
func (t *topology) versionsMessage() []byte {
	b := make([]byte, 2, 2+t.size()*(peer.NameSize+8+3))
	b[0], b[1] = tagDelta, deltaVersions
	for _, e := range t.entries {
		b = appendStamp(b, e)
	}
	return b
}

// goodbyeMessage returns the deltaGoodbye of a peer that has too many links.
func goodbyeMessage() []byte { return []byte{tagDelta, deltaGoodbye, goodbyeLimit} }

// wantMessage returns the deltaWant for some peers.
func wantMessage(names []peer.Name) []byte {
	b := []byte{tagDelta, deltaWant}
	for _, n := range names {
		b = n.AppendBytes(b)
	}
	return b
}

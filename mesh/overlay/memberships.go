package overlay

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// MulticastChannel is the gossip channel for Memberships.
	MulticastChannel = "multicast"
	// MaxAnnouncers bounds the peers of a Memberships; of more the latest are kept, and the others get all groups.
	MaxAnnouncers = 2048

	membershipsFormat  = 1
	announcementHeader = 6 + 8 + 1 + 2
	flagAll            = 1
)

// ErrMemberships is wrapped by errors of [ParseMemberships].
var ErrMemberships = errors.New("overlay: malformed memberships")

// Memberships says which groups the stations of each peer are members of, as far as peers announce it. It is a value that
// merges, for a gossip.State on the channel MulticastChannel, and is not changed once it is made. The zero value is empty.
type Memberships map[peer.Name]Announcement

// Announcement is what a peer says of its stations.
type Announcement struct {
	// Version grows with each announcement of the peer; the highest holds.
	Version uint64
	// All says that the peer wants the frames of all groups: it has a multicast router, or does not know its groups.
	All bool
	// Groups are the addresses of the groups' frames in ascending order, each once, at most MaxGroups.
	Groups []MAC
}

func compareMACs(a, b MAC) int { return bytes.Compare(a[:], b[:]) }

// same reports whether two announcements, of whatever version, say the same.
func (a Announcement) same(b Announcement) bool {
	return a.All == b.All && slices.Equal(a.Groups, b.Groups)
}

// merge returns the later of two announcements, or, of one version, all that they say.
func (a Announcement) merge(b Announcement) Announcement {
	switch {
	case a.Version > b.Version || a.Version == b.Version && a.same(b):
		return a
	case a.Version < b.Version:
		return b
	}
	groups := slices.Concat(a.Groups, b.Groups)
	slices.SortFunc(groups, compareMACs)
	groups = slices.Compact(groups)
	all := a.All || b.All || len(groups) > MaxGroups
	return Announcement{Version: a.Version, All: all, Groups: groups[:min(len(groups), MaxGroups)]}
}

// Merge returns the union of the receiver and other, in which each peer's latest announcement holds, and whether that is
// more than the receiver. It changes neither.
func (m Memberships) Merge(other Memberships) (union Memberships, more bool) {
	union = m
	for name, b := range other {
		a, known := m[name]
		if c := a.merge(b); !known || c.Version != a.Version || !c.same(a) {
			if !more {
				union, more = m.with(name, c), true
			}
			union[name] = c
		}
	}
	if len(union) > MaxAnnouncers {
		union = union.latest()
		more = !maps.EqualFunc(m, union, func(a, b Announcement) bool { return a.Version == b.Version && a.same(b) })
	}
	return union, more
}

// with returns a copy in which a peer says a.
func (m Memberships) with(name peer.Name, a Announcement) Memberships {
	out := make(Memberships, len(m)+1)
	maps.Copy(out, m)
	out[name] = a
	return out
}

// latest returns the MaxAnnouncers peers that have announced last.
func (m Memberships) latest() Memberships {
	names := slices.SortedFunc(maps.Keys(m), func(a, b peer.Name) int {
		return cmp.Or(cmp.Compare(m[b].Version, m[a].Version), cmp.Compare(a, b))
	})
	out := make(Memberships, MaxAnnouncers)
	for _, name := range names[:MaxAnnouncers] {
		out[name] = m[name]
	}
	return out
}

// MarshalBinary implements [encoding.BinaryMarshaler]. The format, integers big-endian: 1, the number of peers in 2 bytes,
// and for each in ascending order its name in 6, its version in 8, a byte whose bit 0 is set if it wants all groups, the
// number of its groups in 2, and their addresses in 6 bytes each, ascending. The error is always nil.
func (m Memberships) MarshalBinary() ([]byte, error) {
	if len(m) > MaxAnnouncers {
		m = m.latest()
	}
	out := binary.BigEndian.AppendUint16([]byte{membershipsFormat}, uint16(len(m)))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		a := m[name]
		var flags byte
		if a.All {
			flags |= flagAll
		}
		out = binary.BigEndian.AppendUint64(name.AppendBytes(out), a.Version)
		out = binary.BigEndian.AppendUint16(append(out, flags), uint16(len(a.Groups)))
		for _, g := range a.Groups {
			out = append(out, g[:]...)
		}
	}
	return out, nil
}

// ParseMemberships reads what [Memberships.MarshalBinary] has made; flags that it does not know are ignored. Errors wrap
// ErrMemberships.
func ParseMemberships(b []byte) (Memberships, error) {
	if len(b) < 3 || b[0] != membershipsFormat {
		return nil, fmt.Errorf("%w: unknown format", ErrMemberships)
	}
	count := int(binary.BigEndian.Uint16(b[1:]))
	b = b[3:]
	if count > MaxAnnouncers || count*announcementHeader > len(b) {
		return nil, fmt.Errorf("%w: %d peers in %d bytes", ErrMemberships, count, len(b))
	}
	m, last := make(Memberships, count), peer.Name(0)
	for range count {
		name, a, rest, err := parseAnnouncement(b)
		if err != nil {
			return nil, err
		}
		if name <= last {
			return nil, fmt.Errorf("%w: peers in disorder", ErrMemberships)
		}
		m[name], last, b = a, name, rest
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes at the end", ErrMemberships, len(b))
	}
	return m, nil
}

func parseAnnouncement(b []byte) (name peer.Name, a Announcement, rest []byte, err error) {
	if len(b) < announcementHeader {
		return 0, a, nil, fmt.Errorf("%w: truncated", ErrMemberships)
	}
	if name, err = peer.FromBytes(b[:6]); err != nil {
		return 0, a, nil, fmt.Errorf("%w: %w", ErrMemberships, err)
	}
	a.Version, a.All = binary.BigEndian.Uint64(b[6:]), b[14]&flagAll != 0
	count := int(binary.BigEndian.Uint16(b[15:]))
	b = b[announcementHeader:]
	if count > MaxGroups || count*len(MAC{}) > len(b) {
		return 0, a, nil, fmt.Errorf("%w: %d groups of %s in %d bytes", ErrMemberships, count, name, len(b))
	}
	for i := range count {
		g := MAC(b[i*len(MAC{}):])
		if !g.snooped() || i > 0 && compareMACs(a.Groups[i-1], g) >= 0 {
			return 0, a, nil, fmt.Errorf("%w: group %s of %s", ErrMemberships, g, name)
		}
		a.Groups = append(a.Groups, g)
	}
	return name, a, b[count*len(MAC{}):], nil
}

package dns

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	maxHostname = 255     // bytes, with the final dot
	maxLabel    = 63      // bytes, RFC 1035 section 2.3.4
	maxOwner    = 1 << 10 // bytes; container ids have 64
)

var (
	// ErrOutsideDomain is wrapped by errors of [Table.Register]: the name does not lie in the table's domain.
	ErrOutsideDomain = errors.New("name outside the domain")
	// ErrInvalidName is wrapped by errors about names that DNS cannot hold, or owners that are too long.
	ErrInvalidName = errors.New("invalid name")
	// ErrNotIPv4 is wrapped by errors of [Table.Register]: peers of Weave Net 2.8 have 32 bits for an address.
	ErrNotIPv4 = errors.New("not an IPv4 address")
)

// Entry says that a name has an address, or had it. One name may have many entries, and one address many names.
type Entry struct {
	Hostname  string     // full name with final dot, in the spelling seen first
	Origin    peer.Name  // the peer that says so
	Owner     string     // what has the name at the origin: a container id or any other text
	Addr      netip.Addr // IPv4
	Version   int64      // from 0, up by one at each removal and each return
	Tombstone int64      // 0 while the entry is live, else when it was removed, in Unix seconds
}

// Live reports whether the entry holds, rather than being the memory of one that did.
func (e Entry) Live() bool { return e.Tombstone == 0 }

// key is the identity of an entry.
type key struct {
	name   string // lower case
	origin peer.Name
	owner  string
	addr   netip.Addr
}

func (e Entry) key() key { return key{lower(e.Hostname), e.Origin, e.Owner, e.Addr} }

// compare gives the order of the table.
func (k key) compare(o key) int {
	return cmp.Or(strings.Compare(k.name, o.name), cmp.Compare(k.origin, o.origin),
		strings.Compare(k.owner, o.owner), k.addr.Compare(o.addr))
}

// newerThan decides between two entries of the same identity.
func (e Entry) newerThan(o Entry) bool {
	return e.Version > o.Version || e.Version == o.Version && e.Tombstone > o.Tombstone
}

// wireCompare gives the order inside messages, which old receivers rely on: bytewise, upper case before lower case.
func wireCompare(a, b Entry) int {
	return cmp.Or(strings.Compare(a.Hostname, b.Hostname), cmp.Compare(a.Origin, b.Origin),
		strings.Compare(a.Owner, b.Owner), a.Addr.Compare(b.Addr))
}

// maxVersion is the bound of versions that are taken from the network. Nobody counts that far: who sends such wants the last
// word about the name of another. The bound rises with the time, in Unix seconds, so that it does not get that: whatever was
// taken, a moment later the origin's correction, which is one more, is taken too.
func maxVersion(now int64) int64 { return 1<<61 + min(max(now, 0), 1<<40)<<20 }

// lower makes letters small as DNS does: those of ASCII, and no other byte (RFC 4343).
func lower(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// fqdn adds the final dot if there is none.
func fqdn(name string) string {
	if strings.HasSuffix(name, ".") {
		return name
	}
	return name + "."
}

// parent cuts the first label off a full name. The parent of the root is the root.
func parent(name string) string {
	if i := strings.IndexByte(name, '.'); i >= 0 && i < len(name)-1 {
		return name[i+1:]
	}
	return "."
}

// within reports whether name is domain or lies below it. Both are full names in lower case.
func within(name, domain string) bool {
	head, ok := strings.CutSuffix(name, domain)
	return ok && (head == "" || strings.HasSuffix(head, "."))
}

// checkName refuses full names that DNS cannot hold.
func checkName(name string) error {
	if len(name) > maxHostname-1 { // on the wire the first label has a length byte more than the text
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalidName, len(name), maxHostname-1)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > maxLabel || strings.ContainsAny(label, "\\\x00") {
			return fmt.Errorf("%w %q: labels have 1 to %d bytes, no backslash and no zero byte", ErrInvalidName, name, maxLabel)
		}
	}
	return nil
}

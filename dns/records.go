package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/overweave/overweave/mesh/peer"
)

// records is the table itself: all entries by identity and by origin, and the live ones by name and by address. It knows
// no lock and no clock.
type records struct {
	domain  string // lower case, with final dot
	all     map[key]*record
	origins map[peer.Name]map[*record]struct{}
	names   map[string]*node // by lower-case name; also those that only have others below them, as above says
	addrs   map[netip.Addr][]*record
	live    int
}

type record struct {
	Entry
	key key
}

// node is what a name stands for. It exists while it has a live record or there is one below it.
type node struct {
	live  []*record // in table order
	below int       // live records of longer names
}

func newRecords(domain string) *records {
	return &records{
		domain:  domain,
		all:     map[key]*record{},
		origins: map[peer.Name]map[*record]struct{}{},
		names:   map[string]*node{},
		addrs:   map[netip.Addr][]*record{},
	}
}

// get returns the entry with e's identity.
func (r *records) get(e Entry) (Entry, bool) {
	if old, ok := r.all[e.key()]; ok {
		return old.Entry, true
	}
	return Entry{}, false
}

// put stores e in place of what has its identity, whose spelling stays, and returns what is stored now.
func (r *records) put(e Entry) Entry {
	k := e.key()
	rec, ok := r.all[k]
	wasLive := ok && rec.Live()
	if ok {
		e.Hostname = rec.Hostname
		rec.Entry = e
	} else {
		rec = &record{Entry: e, key: k}
		r.add(rec)
	}
	switch {
	case e.Live() && !wasLive:
		r.index(rec)
	case !e.Live() && wasLive:
		r.unindex(rec)
	}
	return e
}

// merge puts e if it is new or newer than what is there. It returns what is stored now and whether that changed.
func (r *records) merge(e Entry) (Entry, bool) {
	if old, ok := r.get(e); ok && !e.newerThan(old) {
		return old, false
	}
	return r.put(e), true
}

func (r *records) add(rec *record) {
	r.all[rec.key] = rec
	if r.origins[rec.Origin] == nil {
		r.origins[rec.Origin] = map[*record]struct{}{}
	}
	r.origins[rec.Origin][rec] = struct{}{}
}

// drop forgets a record, leaving no tombstone.
func (r *records) drop(rec *record) {
	if rec.Live() {
		r.unindex(rec)
	}
	delete(r.all, rec.key)
	if recs := r.origins[rec.Origin]; len(recs) > 1 {
		delete(recs, rec)
	} else {
		delete(r.origins, rec.Origin)
	}
}

// dropFunc drops what gone selects, and reports whether that was anything.
func (r *records) dropFunc(gone func(Entry) bool) bool {
	before := len(r.all)
	for _, rec := range r.all {
		if gone(rec.Entry) {
			r.drop(rec)
		}
	}
	return len(r.all) < before
}

// dropOrigin drops at most limit entries of an origin, and returns how many that were.
func (r *records) dropOrigin(origin peer.Name, limit int) int {
	n := 0
	for rec := range r.origins[origin] {
		if n == limit {
			break
		}
		r.drop(rec)
		n++
	}
	return n
}

// respell gives the entry with e's identity the spelling of e, and reports whether it had another.
func (r *records) respell(e Entry) bool {
	rec, ok := r.all[e.key()]
	if !ok || rec.Hostname == e.Hostname {
		return false
	}
	rec.Hostname = e.Hostname
	return true
}

// index makes a record that is live now be found.
func (r *records) index(rec *record) {
	r.live++
	r.addrs[rec.Addr] = insert(r.addrs[rec.Addr], rec)
	n := r.node(rec.key.name)
	n.live = insert(n.live, rec)
	for name := range r.above(rec.key.name) {
		r.node(name).below++
	}
}

// unindex makes a record that was live not be found any more.
func (r *records) unindex(rec *record) {
	r.live--
	if rest := remove(r.addrs[rec.Addr], rec); len(rest) > 0 {
		r.addrs[rec.Addr] = rest
	} else {
		delete(r.addrs, rec.Addr)
	}
	n := r.names[rec.key.name]
	n.live = remove(n.live, rec)
	r.dropEmpty(rec.key.name, n)
	for name := range r.above(rec.key.name) {
		n := r.names[name]
		n.below--
		r.dropEmpty(name, n)
	}
}

func (r *records) node(name string) *node {
	n, ok := r.names[name]
	if !ok {
		n = &node{}
		r.names[name] = n
	}
	return n
}

func (r *records) dropEmpty(name string, n *node) {
	if len(n.live) == 0 && n.below == 0 {
		delete(r.names, name)
	}
}

// maxDepth is how many labels below the domain a name has at most for the names above it to exist through it. Else entries
// of a hundred labels could take a hundred times their memory.
const maxDepth = 8

// above yields the names between a name in the domain and the domain, which is the last of them. Names that are too deep,
// or that nobody can ask for, have none.
func (r *records) above(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if !within(name, r.domain) || strings.Count(name, ".")-strings.Count(r.domain, ".") > maxDepth || checkName(name) != nil {
			return
		}
		for name != r.domain {
			if name = parent(name); !yield(name) {
				return
			}
		}
	}
}

func insert(s []*record, rec *record) []*record {
	i, _ := slices.BinarySearchFunc(s, rec.key, compareRecord)
	return slices.Insert(s, i, rec)
}

func remove(s []*record, rec *record) []*record {
	i, ok := slices.BinarySearchFunc(s, rec.key, compareRecord)
	if !ok {
		return s
	}
	return slices.Delete(s, i, i+1)
}

func compareRecord(rec *record, k key) int { return rec.key.compare(k) }

// lookup returns the addresses of a name, each once; ok is true also for a name that only has others below it.
func (r *records) lookup(name string) (addrs []netip.Addr, ok bool) {
	n, ok := r.names[lower(fqdn(name))]
	if !ok || len(n.live) == 0 {
		return nil, ok
	}
	addrs = make([]netip.Addr, len(n.live))
	for i, rec := range n.live {
		addrs[i] = rec.Addr
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), true
}

// reverse returns the first name of an address, in table order.
func (r *records) reverse(addr netip.Addr) (string, bool) {
	if recs := r.addrs[addr]; len(recs) > 0 {
		return recs[0].Hostname, true
	}
	return "", false
}

// liveOf counts the live entries of an origin.
func (r *records) liveOf(origin peer.Name) int {
	n := 0
	for rec := range r.origins[origin] {
		if rec.Live() {
			n++
		}
	}
	return n
}

// sorted returns all entries in table order.
func (r *records) sorted() []Entry {
	recs := make([]*record, 0, len(r.all))
	for _, rec := range r.all {
		recs = append(recs, rec)
	}
	slices.SortFunc(recs, func(a, b *record) int { return a.key.compare(b.key) })
	out := make([]Entry, len(recs))
	for i, rec := range recs {
		out[i] = rec.Entry
	}
	return out
}

package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// book records which owner has which addresses, in the order of recording. The zero book is empty.
type book struct {
	owners map[netip.Addr]string
	addrs  map[string][]netip.Prefix
}

// owner returns who has a.
func (b *book) owner(a netip.Addr) (string, bool) {
	o, ok := b.owners[a]
	return o, ok
}

// of returns what owner has. It must not be changed.
func (b *book) of(owner string) []netip.Prefix { return b.addrs[owner] }

// put records p for owner; nobody has it.
func (b *book) put(owner string, p netip.Prefix) {
	if b.owners == nil {
		b.owners, b.addrs = make(map[netip.Addr]string), make(map[string][]netip.Prefix)
	}
	b.owners[p.Addr()] = owner
	b.addrs[owner] = append(b.addrs[owner], p)
}

// find returns the prefix under which a is recorded.
func (b *book) find(a netip.Addr) (Holding, bool) {
	owner, ok := b.owners[a]
	if !ok {
		return Holding{}, false
	}
	list := b.addrs[owner]
	i := slices.IndexFunc(list, func(p netip.Prefix) bool { return p.Addr() == a })
	return Holding{owner, list[i]}, true
}

// remove forgets a, which owner has.
func (b *book) remove(owner string, a netip.Addr) {
	delete(b.owners, a)
	list := b.addrs[owner]
	if len(list) == 1 {
		delete(b.addrs, owner)
		return
	}
	i := slices.IndexFunc(list, func(p netip.Prefix) bool { return p.Addr() == a })
	b.addrs[owner] = slices.Delete(list, i, i+1)
}

// all lists everything that is recorded, in no order between owners.
func (b *book) all() []Holding {
	out := make([]Holding, 0, len(b.owners))
	for owner, list := range b.addrs {
		for _, p := range list {
			out = append(out, Holding{owner, p})
		}
	}
	return out
}

// byAddr orders holdings.
func byAddr(x, y Holding) int {
	return cmp.Or(x.Addr.Addr().Compare(y.Addr.Addr()), cmp.Compare(x.Owner, y.Owner))
}

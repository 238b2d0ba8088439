package ipam

import (
	"fmt"
	"math"
	"net/netip"

	bolt "go.etcd.io/bbolt"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/mesh/peer"
)

// What Weave Net 2.8 stores (section 5.1): bucket "top", and these values.
type (
	weaveCIDR struct {
		Addr      uint64
		PrefixLen int
	}
	weaveOwned struct {
		IsContainer bool
		Cidrs       []weaveCIDR
	}
)

// loadWeave reads the bucket of Weave Net 2.8, if it is there and complete.
func loadWeave(tx *bolt.Tx) (Saved, error) {
	top := tx.Bucket([]byte("top"))
	if top == nil || top.Get([]byte("peername")) == nil || top.Get([]byte("ring")) == nil {
		return Saved{}, nil
	}
	var name uint64
	var w wireRing
	owned := map[string]weaveOwned{}
	for key, into := range map[string]any{"peername": &name, "ring": &w, "ownedAddresses": &owned} {
		v := top.Get([]byte(key))
		if v == nil {
			continue
		}
		if err := decodeStored(v, into); err != nil {
			return Saved{}, fmt.Errorf("%w: %s of Weave Net: %w", ErrCorrupt, key, err)
		}
	}
	return fromWeave(name, &w, owned)
}

func fromWeave(name uint64, w *wireRing, owned map[string]weaveOwned) (Saved, error) {
	self, err := peer.FromUint64(name)
	if err != nil {
		return Saved{}, fmt.Errorf("%w: peer name of Weave Net: %w", ErrCorrupt, err)
	}
	r, err := fromWireRing(w)
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return Saved{}, fmt.Errorf("%w: ring of Weave Net: %w", ErrCorrupt, err)
	}
	universe, ok := prefixOf(r.Range)
	if !ok || r.Empty() {
		return Saved{}, nil
	}
	saved := Saved{State: encodeSaved(savedState{peer: self, universe: universe, ring: r}), Rewrite: true}
	for owner, o := range owned {
		for _, c := range o.Cidrs {
			p := netip.PrefixFrom(addr.From64(c.Addr).Netip(true), c.PrefixLen)
			if c.Addr > math.MaxUint32 || !p.IsValid() {
				return Saved{}, fmt.Errorf("%w: address of %q of Weave Net", ErrCorrupt, owner)
			}
			saved.Holdings = append(saved.Holdings, Holding{owner, p})
		}
	}
	return saved, nil
}

// prefixOf returns the prefix that r is, if it is one.
func prefixOf(r addr.Range) (netip.Prefix, bool) {
	start := r.Start.Netip(r.End.Words()[0] == 0 && r.End.Uint64() <= 1<<32)
	for bits := 0; bits <= start.BitLen(); bits++ {
		p := netip.PrefixFrom(start, bits).Masked()
		if addr.FromPrefix(p) == r {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

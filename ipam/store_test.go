package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
)

// stores returns each kind of store, with a way to open it again.
func stores(t *testing.T) map[string]func() ipam.Store {
	mem := new(ipam.MemStore)
	path := filepath.Join(t.TempDir(), "ipam.db")
	var open *ipam.BoltStore
	t.Cleanup(func() { require.NoError(t, open.Close()) })
	return map[string]func() ipam.Store{
		"mem": func() ipam.Store { return mem },
		"bolt": func() ipam.Store {
			if open != nil {
				require.NoError(t, open.Close())
				require.NoError(t, open.Close(), "twice")
			}
			var err error
			open, err = ipam.OpenStore(path)
			require.NoError(t, err)
			return open
		},
	}
}

func holding(owner, addr string) ipam.Holding {
	return ipam.Holding{Owner: owner, Addr: netip.MustParsePrefix(addr)}
}

func TestStores(t *testing.T) {
	for kind, open := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			s := open()
			saved, err := s.Load()
			require.NoError(t, err)
			require.Nil(t, saved.State)
			require.Empty(t, saved.Holdings)

			x, y, z := holding("x", "10.0.0.9/24"), holding("y", "10.0.0.3/24"), holding("x", "10.0.0.1/24")
			require.NoError(t, s.Commit(ipam.Change{State: []byte("one"), Put: []ipam.Holding{x, y}}))
			require.NoError(t, s.Commit(ipam.Change{Put: []ipam.Holding{z}}))
			requireSaved(t, open(), "one", x, y, z)

			y.Owner = "y2"
			require.NoError(t, open().Commit(ipam.Change{
				State: []byte("two"), Put: []ipam.Holding{y}, Delete: []netip.Addr{x.Addr.Addr(), netip.MustParseAddr("10.9.9.9")},
			}))
			requireSaved(t, open(), "two", y, z)

			require.NoError(t, open().Commit(ipam.Change{Reset: true, State: []byte("new"), Put: []ipam.Holding{x}}))
			requireSaved(t, open(), "new", x)
		})
	}
}

func requireSaved(t *testing.T, s ipam.Store, state string, holdings ...ipam.Holding) {
	t.Helper()
	saved, err := s.Load()
	require.NoError(t, err)
	require.Equal(t, state, string(saved.State))
	require.Equal(t, holdings, saved.Holdings)
}

func TestOpenStoreErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ipam.db")
	s, err := ipam.OpenStore(path)
	require.NoError(t, err)
	_, err = ipam.OpenStore(path)
	require.ErrorContains(t, err, "another process has it open")
	require.NoError(t, s.Close())
	_, err = ipam.OpenStore(filepath.Join(t.TempDir(), "missing", "ipam.db"))
	require.Error(t, err)
}

func TestCorruptStore(t *testing.T) {
	for what, spoil := range map[string]func(*bolt.Tx) error{
		"layout": func(tx *bolt.Tx) error { return tx.Bucket([]byte("ipam")).Put([]byte("version"), []byte{9}) },
		"bucket": func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("ipam.holdings")) },
		"address": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("ipam.holdings")).Put([]byte("abc"), make([]byte, 20))
		},
		"prefix": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("ipam.holdings")).Put([]byte{10, 0, 0, 1}, []byte{0, 0, 0, 0, 0, 0, 0, 1, 99, 'x'})
		},
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ipam.db")
			s, err := ipam.OpenStore(path)
			require.NoError(t, err)
			require.NoError(t, s.Commit(ipam.Change{State: []byte("x")}))
			require.NoError(t, s.Close())
			db, err := bolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(spoil))
			require.NoError(t, db.Close())
			s, err = ipam.OpenStore(path)
			require.NoError(t, err)
			_, err = s.Load()
			require.ErrorIs(t, err, ipam.ErrCorrupt)
			require.NoError(t, s.Close())
		})
	}
}

// TestStoreFails: callers are told, nothing is lost, and nothing others hear of is ahead of the store.
func TestStoreFails(t *testing.T) {
	inWorld(t, "10.32.0.0/24", gossiptest.Config{}, func(t *testing.T, w *world) {
		a, b := w.start(1, seed(1, 2)), w.start(2, seed(1, 2))
		w.pass(time.Second)
		full := errors.New("disk full")
		w.stores[name(1)].Fail(full)
		_, err := a.Allocate(w.within(time.Second), "x", netip.Prefix{})
		require.ErrorIs(t, err, ipam.ErrStore)
		require.ErrorIs(t, err, full)
		require.Equal(t, "disk full", a.Status().StoreError)
		require.Error(t, b.Claim(w.within(20*time.Second), "y", netip.MustParsePrefix("10.32.0.50/24")), "a grants nothing it cannot store")
		w.stores[name(1)].Fail(nil)
		require.Equal(t, "10.32.0.1/24", w.allocate(a, "x").String())
		require.NoError(t, b.Claim(w.within(20*time.Second), "y", netip.MustParsePrefix("10.32.0.50/24")))
		require.Empty(t, a.Status().StoreError)
		w.kill(name(1))
		a = w.start(1, seed(1, 2))
		require.Equal(t, "10.32.0.1/24", a.Lookup("x", netip.Prefix{})[0].String())
		w.pass(time.Minute)
		w.requireOneRing()
	})
}

// TestAddressesKeepTheirOrder over restarts.
func TestAddressesKeepTheirOrder(t *testing.T) {
	inWorld(t, "10.32.0.0/16", gossiptest.Config{}, func(t *testing.T, w *world) {
		a := w.start(1, nil)
		var want []netip.Prefix
		for _, i := range []int{7, 3, 9, 1} {
			p, err := a.Allocate(t.Context(), "x", netip.MustParsePrefix(fmt.Sprintf("10.32.%d.0/24", i)))
			require.NoError(t, err)
			want = append(want, p)
		}
		require.Equal(t, want, a.Lookup("x", netip.Prefix{}))
		w.kill(name(1))
		a = w.start(1, nil)
		require.Equal(t, want, a.Lookup("x", netip.Prefix{}))
	})
}

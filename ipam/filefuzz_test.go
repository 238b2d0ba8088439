package ipam

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// What is in a store may be anything, as what comes from a network: it is refused with ErrCorrupt, or it can be used.

// inFile runs f in a transaction of an empty file, which is given up after.
func inFile(t *testing.T, db *bolt.DB, f func(*bolt.Tx)) {
	enough := errors.New("enough")
	require.ErrorIs(t, db.Update(func(tx *bolt.Tx) error { f(tx); return enough }), enough)
}

func openFile(f *testing.F) *bolt.DB {
	db, err := bolt.Open(filepath.Join(f.TempDir(), "x.db"), 0o600, &bolt.Options{NoSync: true})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, db.Close()) })
	return db
}

func FuzzLoadWeave(f *testing.F) {
	values := make(map[string][]byte)
	for _, x := range loadVectors(f).Gob {
		values[x.Name] = unhex(f, x.Hex)
	}
	for _, owned := range []string{"persisted-owned-one", "persisted-owned-empty", "persisted-owned-not-container"} {
		require.NotEmpty(f, values[owned])
		f.Add(values["persisted-peername"], values["persisted-ring"], values[owned])
	}
	db := openFile(f)
	f.Fuzz(func(t *testing.T, name, ring, owned []byte) {
		inFile(t, db, func(tx *bolt.Tx) {
			top, err := tx.CreateBucket([]byte("top"))
			require.NoError(t, err)
			for key, value := range map[string][]byte{"peername": name, "ring": ring, "ownedAddresses": owned} {
				require.NoError(t, top.Put([]byte(key), value))
			}
			saved, err := loadWeave(tx)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
				return
			}
			if saved.State == nil {
				return // the range is no prefix
			}
			s, err := decodeSaved(saved.State)
			require.NoError(t, err)
			require.NoError(t, s.ring.Check())
			for _, h := range saved.Holdings {
				require.True(t, h.Addr.IsValid())
			}
		})
	})
}

func FuzzLoadHoldings(f *testing.F) {
	f.Add([]byte{10, 32, 0, 1}, []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x18web"))
	f.Add(bytes.Repeat([]byte{0xfd}, 16), []byte("\x00\x00\x00\x00\x00\x00\x00\x02\x40db"))
	f.Add([]byte("abc"), []byte("x"))
	db := openFile(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 || len(key) > bolt.MaxKeySize {
			return
		}
		inFile(t, db, func(tx *bolt.Tx) {
			b, err := tx.CreateBucket([]byte(bucketHoldings))
			require.NoError(t, err)
			require.NoError(t, b.Put(key, value))
			list, err := loadHoldings(b)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
				return
			}
			require.Len(t, list, 1)
			require.Equal(t, key, list[0].Addr.Addr().AsSlice())
			require.NoError(t, putHoldings(b, Change{Put: list}))
			require.Equal(t, value, b.Get(key), "written as it was read")
		})
	})
}

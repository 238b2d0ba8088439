package ipam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Layout of the file, version 1. Numbers are big-endian.
//
//	bucket "ipam"            key "version" = 0x01
//	                         key "state"   = the allocator's state, as in wire.go
//	bucket "ipam.holdings"   key = address, 4 or 16 bytes
//	                         value = place in the order (8 bytes), prefix length (1 byte), owner (text)
const (
	bucketState    = "ipam"
	bucketHoldings = "ipam.holdings"
	keyVersion     = "version"
	keyState       = "state"
	layoutVersion  = 1
	holdingHeader  = 9
)

// BoltStore is a Store in a file of bbolt. It is safe for concurrent use.
//
// A file of Weave Net 2.8 may be opened: as long as nothing was committed, Load reads what that left, so that a host can
// change over with its addresses. What Weave Net wrote is not touched.
type BoltStore struct {
	db *bolt.DB
}

var _ Store = (*BoltStore)(nil)

// OpenStore opens the store at path, and creates it if it is missing; its folder must exist. One process at a time can
// have it open.
func OpenStore(path string) (*BoltStore, error) {
	_, statErr := os.Stat(path)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			err = errors.New("another process has it open")
		}
		return nil, fmt.Errorf("ipam: open store %s: %w", path, err)
	}
	if errors.Is(statErr, os.ErrNotExist) {
		syncDir(filepath.Dir(path))
	}
	return &BoltStore{db: db}, nil
}

// syncDir makes the entry of a new file durable, where the system can.
func syncDir(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	_ = d.Sync() // not every system can sync a folder
	_ = d.Close()
}

// Close closes the file. It may be called twice.
func (s *BoltStore) Close() error { return s.db.Close() }

// Load implements [Store].
func (s *BoltStore) Load() (Saved, error) {
	var saved Saved
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketState))
		if b == nil {
			var err error
			saved, err = loadWeave(tx)
			return err
		}
		if v := b.Get([]byte(keyVersion)); !bytes.Equal(v, []byte{layoutVersion}) {
			return fmt.Errorf("%w: layout version %x, want %x", ErrCorrupt, v, layoutVersion)
		}
		saved.State = bytes.Clone(b.Get([]byte(keyState)))
		var err error
		saved.Holdings, err = loadHoldings(tx.Bucket([]byte(bucketHoldings)))
		return err
	})
	if err != nil {
		return Saved{}, fmt.Errorf("ipam: load %s: %w", s.db.Path(), err)
	}
	return saved, nil
}

func loadHoldings(b *bolt.Bucket) ([]Holding, error) {
	if b == nil {
		return nil, fmt.Errorf("%w: no bucket %s", ErrCorrupt, bucketHoldings)
	}
	var list []numbered
	err := b.ForEach(func(k, v []byte) error {
		a, ok := netip.AddrFromSlice(k)
		if !ok || len(v) < holdingHeader {
			return fmt.Errorf("%w: holding %x = %x", ErrCorrupt, k, v)
		}
		p := netip.PrefixFrom(a, int(v[8]))
		if !p.IsValid() {
			return fmt.Errorf("%w: holding %v with prefix length %d", ErrCorrupt, a, v[8])
		}
		list = append(list, numbered{Holding{string(v[holdingHeader:]), p}, binary.BigEndian.Uint64(v)})
		return nil
	})
	return inOrder(list), err
}

// Commit implements [Store].
func (s *BoltStore) Commit(c Change) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		if c.Reset {
			for _, name := range []string{bucketState, bucketHoldings} {
				if err := tx.DeleteBucket([]byte(name)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
					return err
				}
			}
		}
		state, err := tx.CreateBucketIfNotExists([]byte(bucketState))
		if err != nil {
			return err
		}
		if err := state.Put([]byte(keyVersion), []byte{layoutVersion}); err != nil {
			return err
		}
		if c.State != nil {
			if err := state.Put([]byte(keyState), c.State); err != nil {
				return err
			}
		}
		holdings, err := tx.CreateBucketIfNotExists([]byte(bucketHoldings))
		if err != nil {
			return err
		}
		return putHoldings(holdings, c)
	})
	if err != nil {
		return fmt.Errorf("ipam: commit to %s: %w", s.db.Path(), err)
	}
	return nil
}

func putHoldings(b *bolt.Bucket, c Change) error {
	for _, a := range c.Delete {
		if err := b.Delete(a.AsSlice()); err != nil {
			return err
		}
	}
	for _, h := range c.Put {
		key := h.Addr.Addr().AsSlice()
		value := make([]byte, holdingHeader, holdingHeader+len(h.Owner))
		if old := b.Get(key); len(old) >= holdingHeader {
			copy(value, old[:8])
		} else {
			seq, err := b.NextSequence()
			if err != nil {
				return err
			}
			binary.BigEndian.PutUint64(value, seq)
		}
		value[8] = byte(h.Addr.Bits())
		if err := b.Put(key, append(value, h.Owner...)); err != nil {
			return err
		}
	}
	return nil
}

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/mesh/peer"
)

// stateFile is the daemon's own file, next to the allocator's.
const stateFile = "weaver.db"

// lockTimeout is how long to wait for a daemon that is just ending to let go of the file.
const lockTimeout = 2 * time.Second

var (
	bucketMeta        = []byte("meta")
	bucketAttachments = []byte("attachments") // ID -> api.Attachment as JSON
	keyName           = []byte("peername")    // text
	keyShortID        = []byte("shortid")     // decimal text
	keyTargets        = []byte("targets")     // JSON
	keyWiring         = []byte("wiring")      // JSON
)

// state remembers over restarts what the daemon promised: its name, and who is attached under which names. A nil *state
// remembers nothing. It is safe for concurrent use.
type state struct{ db *bolt.DB }

// openState opens the file or makes it; with an empty prefix there is none.
func openState(c Config) (*state, error) {
	if c.DBPrefix == "" {
		return nil, nil
	}
	path, err := c.file(stateFile)
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use: another daemon runs with this --db-prefix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("the daemon's state %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, errMeta := tx.CreateBucketIfNotExists(bucketMeta)
		_, errAtt := tx.CreateBucketIfNotExists(bucketAttachments)
		return errors.Join(errMeta, errAtt)
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("the daemon's state %s: %w", path, err)
	}
	return &state{db: db}, nil
}

// Close lets go of the file.
func (s *state) Close() error {
	if s == nil {
		return nil
	}
	return s.db.Close()
}

// name returns the name used last time, zero if there is none.
func (s *state) name() (n peer.Name) {
	if s == nil {
		return 0
	}
	_ = s.db.View(func(tx *bolt.Tx) error {
		return n.UnmarshalText(tx.Bucket(bucketMeta).Get(keyName)) // a name that does not parse is as good as none
	})
	return n
}

func (s *state) setName(n peer.Name) error {
	if s == nil || s.name() == n {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyName, []byte(n.String()))
	})
}

// shortID returns the short id used last, zero if there is none.
func (s *state) shortID() (id peer.ShortID) {
	if s == nil {
		return 0
	}
	_ = s.db.View(func(tx *bolt.Tx) error {
		id, _ = peer.ParseShortID(string(tx.Bucket(bucketMeta).Get(keyShortID))) // as for the name
		return nil
	})
	return id
}

func (s *state) setShortID(id peer.ShortID) error {
	if s == nil || s.shortID() == id {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyShortID, []byte(id.String()))
	})
}

// targets returns which peers the last run connected to, as far as clients have changed that.
func (s *state) targets() (t targets, known bool) {
	if s == nil {
		return t, false
	}
	_ = s.db.View(func(tx *bolt.Tx) error {
		known = json.Unmarshal(tx.Bucket(bucketMeta).Get(keyTargets), &t) == nil // as for the name
		return nil
	})
	return t, known
}

func (s *state) setTargets(t targets) error { return s.putJSON(bucketMeta, keyTargets, t) }

// wiring returns what daemons have made on this host.
func (s *state) wiring() (w wiring) {
	if s == nil {
		return w
	}
	_ = s.db.View(func(tx *bolt.Tx) error {
		return json.Unmarshal(tx.Bucket(bucketMeta).Get(keyWiring), &w) // as for the name
	})
	return w
}

func (s *state) setWiring(w wiring) error { return s.putJSON(bucketMeta, keyWiring, w) }

// attachments returns all that are remembered.
func (s *state) attachments() (out []api.Attachment, err error) {
	if s == nil {
		return nil, nil
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketAttachments).ForEach(func(id, value []byte) error {
			var a api.Attachment
			if err := json.Unmarshal(value, &a); err != nil {
				return fmt.Errorf("attachment %q: %w", id, err)
			}
			out = append(out, a)
			return nil
		})
	})
	return out, err
}

// put remembers an attachment; when it returns without error, a crash does not forget it.
func (s *state) put(a api.Attachment) error { return s.putJSON(bucketAttachments, []byte(a.ID), a) }

func (s *state) putJSON(bucket, key []byte, v any) error {
	if s == nil {
		return nil
	}
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(key, value) })
}

func (s *state) remove(id string) error {
	if s == nil {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketAttachments).Delete([]byte(id))
	})
}

package dns

import (
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// vectorClock is the time of all vectors.
const vectorClock = 1500000000

// recorder is a bus of one node that keeps what its table broadcasts, so that vectors see single messages.
type recorder struct {
	self  peer.Name
	known map[peer.Name]bool
	sent  []gossip.Data
}

func (r *recorder) Join(string, gossip.Receiver) (gossip.Sender, error) {
	return recorderSender{r: r}, nil
}
func (r *recorder) Self() gossip.Member { return gossip.Member{Name: r.self} }
func (r *recorder) Members() []gossip.Member {
	return []gossip.Member{r.Self()}
}
func (r *recorder) Member(n peer.Name) (gossip.Member, bool) {
	return gossip.Member{Name: n}, n == r.self || r.known[n]
}

// recorderSender sends nothing but broadcasts: a table that did would panic here.
type recorderSender struct {
	gossip.Sender
	r *recorder
}

func (s recorderSender) Broadcast(d gossip.Data) { s.r.sent = append(s.r.sent, d) }

// take returns what was broadcast since the last call.
func (r *recorder) take() []gossip.Data {
	sent := r.sent
	r.sent = nil
	return sent
}

var (
	peer1 = peer.MustParse("01:00:00:00:02:00")
	peer2 = peer.MustParse("02:00:00:00:02:00")
	peer3 = peer.MustParse("03:00:00:00:02:00")
)

func newTestTable(t testing.TB, known ...peer.Name) (*Table, *recorder) {
	bus := &recorder{self: peer1, known: map[peer.Name]bool{}}
	for _, n := range known {
		bus.known[n] = true
	}
	table, err := New(Config{Bus: bus, Now: func() time.Time { return time.Unix(vectorClock, 0) }})
	require.NoError(t, err)
	return table, bus
}

type (
	vectorEntry struct {
		ContainerID string     `json:"containerID"`
		Origin      peer.Name  `json:"origin"`
		Addr        netip.Addr `json:"addr"`
		Hostname    string     `json:"hostname"`
		Version     int64      `json:"version"`
		Tombstone   int64      `json:"tombstone"`
	}
	vectorMessage struct {
		Entries   []vectorEntry `json:"entries"`
		Timestamp int64         `json:"timestamp"`
	}
	vectors struct {
		Gob []struct {
			Name, Hex string
			Decoded   vectorMessage
		}
		Local []struct {
			Action    string
			Entries   []vectorEntry
			Broadcast []vectorMessage
		}
		Receive []struct {
			Name             string
			Our              peer.Name
			Known            []peer.Name
			Before           []vectorEntry
			Incoming         vectorMessage
			IncomingHex      string
			Error            string
			After            []vectorEntry
			Broadcast        []vectorMessage
			OnGossipResult   *vectorMessage
			RelayedBroadcast *vectorMessage
		}
		PeerGone struct {
			Before, After []vectorEntry
			Peer          peer.Name
		}
		TombstoneExpiry struct {
			Ages map[string]int64
			Left []string
		}
	}
)

func loadVectors(t testing.TB) vectors {
	b, err := os.ReadFile("testdata/dns.json")
	require.NoError(t, err)
	var v vectors
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

func (v vectorEntry) entry() Entry {
	return Entry{v.Hostname, v.Origin, v.ContainerID, v.Addr, v.Version, v.Tombstone}
}

func entriesOf(vs []vectorEntry) []Entry {
	out := make([]Entry, len(vs))
	for i, v := range vs {
		out[i] = v.entry()
	}
	return out
}

// message is a message as a test compares it.
type message struct {
	At      int64
	Entries []Entry
}

func (v vectorMessage) message() message { return message{v.Timestamp, entriesOf(v.Entries)} }

// read decodes the one message that data comes to.
func read(t testing.TB, d gossip.Data) message {
	msgs := d.Encode()
	require.Len(t, msgs, 1)
	at, entries, bad, err := decode(msgs[0], vectorClock)
	require.NoError(t, err)
	require.Zero(t, bad)
	return message{at, entries}
}

func (t *Table) put(entries ...Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range entries {
		t.recs.put(e)
	}
}

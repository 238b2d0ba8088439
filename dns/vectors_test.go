package dns

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
)

func TestVectorsGob(t *testing.T) {
	for _, v := range loadVectors(t).Gob {
		t.Run(v.Name, func(t *testing.T) {
			raw, err := hex.DecodeString(v.Hex)
			require.NoError(t, err)
			at, entries, bad, err := decode(raw, vectorClock)
			require.NoError(t, err)
			require.Zero(t, bad)
			require.ElementsMatch(t, v.Decoded.message().Entries, entries)
			require.Equal(t, v.Decoded.Timestamp, at)

			// The vector's bytes depend on the process that made them only in the numbers of types, and those
			// lie in the definitions before the value and in the value's own type number.
			again := encode(at, entries)
			require.Len(t, again, 1)
			require.Equal(t, lastMessage(t, raw), lastMessage(t, again[0]))
		})
	}
}

// lastMessage returns the value of a gob stream: what follows the length and the type number of its last message.
func lastMessage(t *testing.T, b []byte) []byte {
	for {
		n, rest := gobUint(t, b)
		require.LessOrEqual(t, n, len(rest))
		if n == len(rest) {
			_, value := gobUint(t, rest)
			return value
		}
		b = rest[n:]
	}
}

func gobUint(t *testing.T, b []byte) (int, []byte) {
	require.NotEmpty(t, b)
	if b[0] < 0x80 {
		return int(b[0]), b[1:]
	}
	size := -int(int8(b[0]))
	require.Less(t, size, len(b))
	v := 0
	for _, c := range b[1 : 1+size] {
		v = v<<8 | int(c)
	}
	return v, b[1+size:]
}

// localSteps does what the actions of the vectors say, in their order.
var localSteps = []func(*Table) error{
	register("foo.weave.local", "c1", "10.32.0.1"),
	register("foo.weave.local", "c1", "10.32.0.1"),
	register("foo.weave.local", "c1", "10.32.0.9"),
	register("foo.example.com", "c1", "10.32.0.1"), // an error where 2.8 reports success: see outside
	register("foo", "c1", "10.32.0.1"),             // the same
	register("", "c1", "10.32.0.1"),                // the same
	register("WEAVE.local", "c9", "10.32.0.3"),
	register("Bar.Weave.Local", "c2", "10.32.0.2"),
	nil, // removal by another spelling: see TestVectorsLocal
	unregister(Match{Name: "Bar.Weave.Local."}),
	unregister(Match{Name: "Bar.Weave.Local."}),
	register("Bar.Weave.Local", "c2", "10.32.0.2"),
	unregister(Match{Owner: "c1"}),
}

func register(name, owner, addr string) func(*Table) error {
	return func(t *Table) error { return t.Register(name, owner, netip.MustParseAddr(addr)) }
}

func unregister(m Match) func(*Table) error {
	return func(t *Table) error { t.Unregister(m); return nil }
}

// TestVectorsLocal differs from the vectors in two things. A name outside the domain is an error, and not ignored in
// silence: the caller may still ignore it. And Unregister ignores case, as the rule "identity by lower-case name" of
// section 2.5 asks: that step is skipped here and shown by TestCaseOfNames.
func TestVectorsLocal(t *testing.T) {
	steps := loadVectors(t).Local
	require.Len(t, steps, len(localSteps))
	table, bus := newTestTable(t, peer1)
	for i, v := range steps {
		if localSteps[i] == nil {
			continue
		}
		err := localSteps[i](table)
		if outside := strings.Contains(v.Action, "ignored"); outside {
			require.ErrorIs(t, err, ErrOutsideDomain, v.Action)
		} else {
			require.NoError(t, err, v.Action)
		}
		require.ElementsMatch(t, entriesOf(v.Entries), table.Entries(), v.Action)
		sent := bus.take()
		require.Len(t, sent, len(v.Broadcast), v.Action)
		for j, want := range v.Broadcast {
			require.Equal(t, want.message(), read(t, sent[j]), v.Action)
		}
	}
}

// skewed names the vectors in which 2.8 refuses a message, and so the link, for the clock of its sender. Section 2.5 asks
// to judge by the content instead: the entries are merged, and passed on under our time.
var skewed = map[string]bool{"skew-901-behind": true, "skew-901-ahead": true}

func TestVectorsReceive(t *testing.T) {
	for _, v := range loadVectors(t).Receive {
		t.Run(v.Name, func(t *testing.T) {
			raw, err := hex.DecodeString(v.IncomingHex)
			require.NoError(t, err)
			after, onGossip, relayed := v.After, v.OnGossipResult, v.RelayedBroadcast
			if skewed[v.Name] {
				require.NotEmpty(t, v.Error)
				now := vectorMessage{v.Incoming.Entries, vectorClock}
				after, onGossip, relayed = v.Incoming.Entries, &now, &now
			}
			for _, c := range []struct {
				how  string
				call func(receiver) (gossip.Data, error)
				want *vectorMessage
			}{
				{"gossip", func(r receiver) (gossip.Data, error) { return r.OnGossip(raw) }, onGossip},
				{"broadcast", func(r receiver) (gossip.Data, error) { return r.OnBroadcast(peer2, raw) }, relayed},
			} {
				table, bus := newTestTable(t, v.Known...)
				require.Equal(t, v.Our, table.self)
				table.put(entriesOf(v.Before)...)
				result, err := c.call(receiver{table})
				require.NoError(t, err, c.how)
				require.Equal(t, entriesOf(after), table.Entries(), c.how)
				if c.want == nil {
					require.Nil(t, result, c.how)
				} else {
					require.Equal(t, c.want.message(), read(t, result), c.how)
				}
				sent := bus.take()
				require.Len(t, sent, len(v.Broadcast), c.how)
				for i, want := range v.Broadcast {
					require.Equal(t, want.message(), read(t, sent[i]), c.how)
				}
				require.Equal(t, skewed[v.Name], table.Status().Skewed == 1, c.how)
			}
		})
	}
}

func TestVectorsPeerGone(t *testing.T) {
	v := loadVectors(t).PeerGone
	table, bus := newTestTable(t)
	table.put(entriesOf(v.Before)...)
	receiver{table}.OnPeerGone(v.Peer)
	require.Equal(t, entriesOf(v.After), table.Entries())
	require.Empty(t, bus.take())
}

func TestVectorsTombstoneExpiry(t *testing.T) {
	v := loadVectors(t).TombstoneExpiry
	table, _ := newTestTable(t, peer1)
	addr := netip.MustParseAddr("10.32.0.1")
	for name, age := range v.Ages { // of another peer: we keep our own for longer
		table.put(Entry{name, peer2, "c", addr, 1, vectorClock - age})
	}
	table.put(Entry{"c.weave.local.", peer1, "c", addr, 0, 0}) // the one that is left and has no age is live
	table.expire(vectorClock)
	var left []string
	for _, e := range table.Entries() {
		left = append(left, e.Hostname)
	}
	require.Equal(t, v.Left, left)
}

// TestMustNotHappen plays the two conditions that end a process of 2.8.
func TestMustNotHappen(t *testing.T) {
	table, bus := newTestTable(t, peer1, peer2)
	r := receiver{table}
	addr := netip.MustParseAddr("10.40.0.1")
	twice := encode(vectorClock, []Entry{
		{"a.weave.local.", peer2, "c", addr, 0, 0}, {"A.weave.local.", peer2, "c", addr, 2, 0},
		{"a.weave.local.", peer2, "c", addr, 1, vectorClock},
	})[0]
	want := message{vectorClock, []Entry{{"a.weave.local.", peer2, "c", addr, 2, 0}}}
	relayed, err := r.OnBroadcast(peer2, twice)
	require.NoError(t, err)
	require.Equal(t, want, read(t, relayed))
	require.Equal(t, want, read(t, r.State()))

	for _, name := range []string{"Foo.weave.local", "foo.weave.local", "Foo.weave.local"} {
		require.NoError(t, table.Register(name, "c", netip.MustParseAddr("10.32.0.1")))
	}
	merged := bus.take()
	all := merged[0].Merge(merged[1]).Merge(merged[2])
	require.Len(t, read(t, all).Entries, 1)
	require.Len(t, read(t, r.State()).Entries, 2)
}

package dns

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
)

func TestEncodeSplits(t *testing.T) {
	var entries []Entry
	for i := range 12000 {
		entries = append(entries, Entry{fmt.Sprintf("n%05d.weave.local.", i), peer1, strings.Repeat("x", maxOwner), addrOf(i), 0, 0})
	}
	msgs := encode(7, entries)
	require.Len(t, msgs, 2)
	var back []Entry
	for _, m := range msgs {
		require.LessOrEqual(t, len(m), gossip.MaxMessage)
		at, got, bad, err := decode(m, vectorClock)
		require.NoError(t, err)
		require.Zero(t, bad)
		require.EqualValues(t, 7, at)
		back = append(back, got...)
	}
	require.Equal(t, entries, back)
}

func TestDecodeRefusesLargeClaims(t *testing.T) {
	_, _, _, err := decode(make([]byte, gossip.MaxMessage+1), vectorClock)
	require.ErrorIs(t, err, errMalformed)

	var buf bytes.Buffer
	require.NoError(t, gob.NewEncoder(&buf).Encode(wireMessage{Entries: make([]wireEntry, 1<<20)}))
	require.Less(t, buf.Len(), 1<<20+1<<10, "an empty entry takes one byte")
	_, _, _, err = decode(buf.Bytes(), vectorClock)
	require.ErrorIs(t, err, errMalformed)
}

func FuzzDecode(f *testing.F) {
	v := loadVectors(f)
	for _, g := range v.Gob {
		raw, err := hex.DecodeString(g.Hex)
		require.NoError(f, err)
		f.Add(raw)
	}
	for _, r := range v.Receive {
		raw, err := hex.DecodeString(r.IncomingHex)
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		at, entries, _, err := decode(msg, vectorClock)
		if err != nil {
			return
		}
		again := encode(at, entries)
		require.Len(t, again, 1)
		at2, entries2, bad, err := decode(again[0], vectorClock)
		require.NoError(t, err)
		require.Zero(t, bad)
		require.Equal(t, at, at2)
		require.True(t, slices.Equal(entries, entries2))

		// A table takes anything, and what it passes on never holds an identity twice.
		table, bus := newTestTable(t, peer2, peer3)
		out, err := receiver{table}.OnBroadcast(peer2, msg)
		require.NoError(t, err)
		if out != nil {
			seen := map[key]bool{}
			for _, e := range read(t, out).Entries {
				require.False(t, seen[e.key()])
				seen[e.key()] = true
			}
		}
		table.expire(vectorClock)
		clear(bus.known)
		receiver{table}.OnPeerGone(peer2)
		receiver{table}.OnPeerGone(peer3)
		table.UnregisterAll()
		require.Zero(t, table.Status().Live)
		require.Empty(t, table.recs.names)
		require.Empty(t, table.recs.addrs)
	})
}

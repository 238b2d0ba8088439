package dns

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func largeTable(b *testing.B, size int) *Table {
	table, _ := newTestTable(b, peer1, peer2)
	for i := range size {
		table.put(Entry{fmt.Sprintf("n%d.weave.local.", i), peer2, "c", addrOf(i), 0, 0})
	}
	return table
}

func BenchmarkLookup(b *testing.B) {
	table := largeTable(b, 10000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := table.Lookup("n77.weave.local."); !ok {
				b.Error("not found")
			}
		}
	})
}

func BenchmarkReverse(b *testing.B) {
	table := largeTable(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := table.Reverse(addrOf(77)); !ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkEncodeState(b *testing.B) {
	table := largeTable(b, 10000)
	s := receiver{table}.State()
	b.ReportAllocs()
	for b.Loop() {
		table.changes.Add(1)
		s.Encode()
	}
}

// BenchmarkReceiveState merges a state that holds no news, which is what most gossip is.
func BenchmarkReceiveState(b *testing.B) {
	table := largeTable(b, 10000)
	msgs := receiver{table}.State().Encode()
	require.Len(b, msgs, 1)
	b.SetBytes(int64(len(msgs[0])))
	b.ReportAllocs()
	for b.Loop() {
		if out, err := (receiver{table}).OnGossip(msgs[0]); out != nil || err != nil {
			b.Fatal("news")
		}
	}
}

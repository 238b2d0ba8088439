package space_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/space"
)

func parse(s string) addr.Addr { return addr.FromNetip(netip.MustParseAddr(s)) }

func ranges(pairs [][2]string, used []string) *space.Set {
	s := new(space.Set)
	for _, p := range pairs {
		s.Add(addr.Range{Start: parse(p[0]), End: parse(p[1])})
	}
	for _, u := range used {
		s.Remove(addr.Single(parse(u)))
	}
	return s
}

func dotted(t *testing.T, s string) addr.Range {
	first, end, ok := strings.Cut(s, "..")
	require.True(t, ok)
	return addr.Range{Start: parse(first), End: parse(end)}
}

func TestVectors(t *testing.T) {
	var v struct {
		Donate []struct {
			Name                  string
			Owned                 [][2]string
			Used                  []string
			Request, Donated      string
			OK                    bool
			FreeBefore, FreeAfter uint64
		}
		LowestFree []struct {
			Owned          [][2]string
			Used           []string
			Subnet, Result string
		}
	}
	raw, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &v))
	require.NotEmpty(t, v.Donate)
	require.NotEmpty(t, v.LowestFree)
	for _, x := range v.Donate {
		t.Run(x.Name, func(t *testing.T) {
			s, want := ranges(x.Owned, x.Used), dotted(t, x.Request)
			require.Equal(t, x.FreeBefore, s.Count(want).Uint64())
			gift, ok := s.Donation(want)
			require.Equal(t, x.OK, ok)
			if ok {
				require.Equal(t, dotted(t, x.Donated), gift)
				s.Remove(gift)
			}
			require.Equal(t, x.FreeAfter, s.Count(want).Uint64())
		})
	}
	for _, x := range v.LowestFree {
		got, ok := ranges(x.Owned, x.Used).First(addr.FromPrefix(netip.MustParsePrefix(x.Subnet)).Hosts())
		require.Equal(t, x.Result != "", ok)
		if ok {
			require.Equal(t, x.Result, got.String())
		}
	}
}

// universe of the model: enough for several chunks.
const universe = 4096

// model is the slow oracle.
type model [universe]bool

func (m *model) fill(r addr.Range, in bool) {
	for a := r.Start.Uint64(); a < r.End.Uint64(); a++ {
		m[a] = in
	}
}

func (m *model) count(r addr.Range) (n uint64) {
	for a := r.Start.Uint64(); a < r.End.Uint64(); a++ {
		if m[a] {
			n++
		}
	}
	return n
}

// compare checks everything that can be asked about r.
func compare(t *testing.T, s *space.Set, m *model, r addr.Range) {
	t.Helper()
	n := m.count(r)
	require.Equal(t, n, s.Count(r).Uint64())
	require.Equal(t, n == r.Size().Uint64(), s.Covers(r))
	first, ok := s.First(r)
	require.Equal(t, n > 0, ok)
	if ok {
		require.True(t, m[first.Uint64()])
		require.Zero(t, m.count(addr.Range{Start: r.Start, End: first}))
	}
	var seen model
	s.Each(r, func(x addr.Range) bool {
		require.False(t, x.Empty())
		seen.fill(x, true)
		return true
	})
	for a := r.Start.Uint64(); a < r.End.Uint64(); a++ {
		require.Equal(t, m[a], seen[a])
		require.Equal(t, m[a], s.Contains(addr.From64(a)))
	}
}

func whole() addr.Range { return addr.Range{End: addr.From64(universe)} }

func TestAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, longest := range []int{1, 3, 200} {
		s, m := new(space.Set), new(model)
		for i := range 20000 {
			start := r.Uint64N(universe)
			x := addr.Range{Start: addr.From64(start), End: addr.From64(min(start+r.Uint64N(uint64(longest)+1), universe))}
			if in := r.IntN(2) == 0; in {
				s.Add(x)
				m.fill(x, true)
			} else {
				s.Remove(x)
				m.fill(x, false)
			}
			if i%1000 == 0 {
				compare(t, s, m, whole())
			}
			if i%50 == 0 {
				compare(t, s, m, x)
			}
		}
		require.Equal(t, m.count(whole()), s.Len().Uint64())
		require.Equal(t, s.Len().IsZero(), s.Empty())
	}
}

func FuzzAgainstModel(f *testing.F) {
	f.Add([]byte{1, 0, 10, 0, 20, 0, 0, 12, 0, 3})
	f.Add([]byte{1, 0, 0, 15, 255, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		s, m := new(space.Set), new(model)
		for len(ops) >= 5 {
			start := (uint64(ops[1])<<8 | uint64(ops[2])) % universe
			end := min(start+(uint64(ops[3])<<8|uint64(ops[4])), universe)
			x := addr.Range{Start: addr.From64(start), End: addr.From64(end)}
			if ops[0]&1 == 1 {
				s.Add(x)
			} else {
				s.Remove(x)
			}
			m.fill(x, ops[0]&1 == 1)
			ops = ops[5:]
		}
		compare(t, s, m, whole())
	})
}

// BenchmarkTakeGive takes and gives back the lowest address of a set that is full of holes.
func BenchmarkTakeGive(b *testing.B) {
	for name, step := range map[string]uint64{"solid": 0, "holes": 2} {
		b.Run(name, func(b *testing.B) {
			s := new(space.Set)
			all := addr.Range{End: addr.From64(1 << 20)}
			s.Add(all)
			for a := uint64(1); step > 0 && a < 1<<20; a += step {
				s.Remove(addr.Single(addr.From64(a)))
			}
			r := rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				from := addr.Range{Start: addr.From64(r.Uint64N(1 << 19)), End: all.End}
				a, ok := s.First(from)
				if !ok {
					b.Fatal("empty")
				}
				s.Remove(addr.Single(a))
				s.Add(addr.Single(a))
			}
		})
	}
}

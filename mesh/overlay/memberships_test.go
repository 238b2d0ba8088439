package overlay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

func groupNo(i int) MAC { return MAC{0x33, 0x33, 1, byte(i >> 16), byte(i >> 8), byte(i)} }

func randomAnnouncement(r *rand.Rand) (a Announcement) {
	a.Version, a.All = uint64(r.IntN(4)), r.IntN(4) == 0
	for i := range 5 {
		if r.IntN(2) == 0 {
			a.Groups = append(a.Groups, groupNo(i))
		}
	}
	return a
}

func randomMemberships(r *rand.Rand) Memberships {
	m := Memberships{}
	for range r.IntN(6) {
		m[peer.Name(1+r.IntN(6))] = randomAnnouncement(r)
	}
	return m
}

func requireSame(t *testing.T, want, got Memberships) {
	t.Helper()
	require.Len(t, got, len(want))
	for name, a := range want {
		require.Equal(t, a.Version, got[name].Version)
		require.True(t, a.same(got[name]), "%v %v", a, got[name])
	}
}

// TestMembershipsMerge: in whatever order, however often, the result is the same; and more means more.
func TestMembershipsMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		a, b, c := randomMemberships(r), randomMemberships(r), randomMemberships(r)
		ab, more := a.Merge(b)
		ba, _ := b.Merge(a)
		requireSame(t, ab, ba)
		_, again := ab.Merge(b)
		require.False(t, again, "what is known is nothing new")
		same, _ := ab.Merge(a)
		requireSame(t, ab, same)
		abc, _ := ab.Merge(c)
		bc, _ := b.Merge(c)
		other, _ := a.Merge(bc)
		requireSame(t, abc, other)
		if !more {
			requireSame(t, a, ab)
		} else {
			require.NotEqual(t, fmt.Sprint(a), fmt.Sprint(ab))
		}
	}
	empty, more := Memberships(nil).Merge(nil)
	require.False(t, more)
	require.Empty(t, empty)
	one, more := Memberships(nil).Merge(Memberships{here: {}})
	require.True(t, more)
	require.Len(t, one, 1)
}

// TestMembershipsAreBounded: of too many peers the latest are kept, of too many groups all.
func TestMembershipsAreBounded(t *testing.T) {
	old, young := Memberships{}, Memberships{}
	for i := range MaxAnnouncers {
		old[peer.Name(1+i)] = Announcement{Version: uint64(i)}
		young[peer.Name(1_000_000+i)] = Announcement{Version: uint64(MaxAnnouncers/2 + i)}
	}
	a, more := old.Merge(young)
	require.True(t, more)
	b, more := young.Merge(old)
	require.True(t, more)
	requireSame(t, a, b)
	require.Len(t, a, MaxAnnouncers)
	require.NotContains(t, a, peer.Name(1))
	require.Contains(t, a, peer.Name(1_000_000+MaxAnnouncers-1))
	_, more = a.Merge(Memberships{1: {}})
	require.False(t, more, "too old to count")

	var x, y Announcement
	for i := range MaxGroups {
		x.Groups, y.Groups = append(x.Groups, groupNo(2*i)), append(y.Groups, groupNo(2*i+1))
	}
	z := x.merge(y)
	require.True(t, z.All)
	require.Len(t, z.Groups, MaxGroups)
	require.True(t, z.same(y.merge(x)))
	full := Memberships{here: z}
	raw, _ := full.MarshalBinary()
	back, err := ParseMemberships(raw)
	require.NoError(t, err)
	requireSame(t, full, back)

	many := Memberships{}
	for i := range 2 * MaxAnnouncers {
		many[peer.Name(1+i)] = Announcement{Version: uint64(i), Groups: x.Groups}
	}
	raw, _ = many.MarshalBinary()
	require.Less(t, len(raw), 10<<20, "what a carrier takes in one message")
	back, err = ParseMemberships(raw)
	require.NoError(t, err)
	requireSame(t, many.latest(), back)
}

func TestMembershipsFormat(t *testing.T) {
	m := Memberships{
		peer.MustParse("02:00:00:00:00:02"): {Version: 0x0102030405060708, All: true},
		peer.MustParse("02:00:00:00:00:01"): {Version: 7, Groups: []MAC{{0x01, 0, 0x5e, 1, 2, 3}, {0x33, 0x33, 0, 0, 0, 0xfb}}},
	}
	raw, err := m.MarshalBinary()
	require.NoError(t, err)
	want := []byte{1, 0, 2,
		2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 2, 0x01, 0, 0x5e, 1, 2, 3, 0x33, 0x33, 0, 0, 0, 0xfb,
		2, 0, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0}
	require.Equal(t, want, raw)
	back, err := ParseMemberships(raw)
	require.NoError(t, err)
	requireSame(t, m, back)
	for n := range raw {
		_, err := ParseMemberships(raw[:n])
		require.ErrorIs(t, err, ErrMemberships, "%d bytes", n)
	}
	change := func(at int, b ...byte) []byte {
		out := slices.Clone(raw)
		copy(out[at:], b)
		return out
	}
	for what, bad := range map[string][]byte{
		"format":         change(0, 2),
		"bytes at end":   append(slices.Clone(raw), 0),
		"no peer":        change(3, 0, 0, 0, 0, 0, 0),
		"peers disorder": change(32, 2, 0, 0, 0, 0, 1),
		"group disorder": change(20, 0x33, 0x33, 0, 0, 1, 0),
		"group twice":    change(20, 0x33, 0x33, 0, 0, 0, 0xfb),
		"no group":       change(20, 0x02),
		"everybody":      change(26, 0x33, 0x33, 0, 0, 0, 1),
		"groups":         change(18, 0x02, 0x01),
		"peers":          change(1, 0xff, 0xff),
	} {
		_, err := ParseMemberships(bad)
		require.ErrorIs(t, err, ErrMemberships, what)
	}
	unknown, err := ParseMemberships(change(17, 0x80))
	require.NoError(t, err, "a flag of a later version")
	requireSame(t, m, unknown)
}

// FuzzParseMemberships: what is read is within bounds, and is written as it was read, but for flags that are not known.
func FuzzParseMemberships(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		raw, _ := randomMemberships(r).MarshalBinary()
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ParseMemberships(raw)
		if err != nil {
			return
		}
		back, _ := m.MarshalBinary()
		again, err := ParseMemberships(back)
		if err != nil || len(back) != len(raw) || len(m) > MaxAnnouncers {
			t.Fatal("not the same again", err)
		}
		if _, more := m.Merge(again); more {
			t.Fatal("more than itself")
		}
		fw := NewForwarder(here)
		fw.SetMemberships(m)
		_ = fw.Groups()
	})
}

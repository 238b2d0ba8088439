package ring_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

const observer = peer.Name(0xffff) // owns nothing

func nothingUsed(addr.Range) bool { return false }

func small() addr.Range { return span("10.0.0.0", "10.0.1.0") }

func merge(t testing.TB, a, b *ring.Ring, me peer.Name) *ring.Ring {
	m, err := a.Merge(b, me, nothingUsed)
	require.NoError(t, err)
	require.Empty(t, m.Conflicts)
	require.NoError(t, m.Ring.Check())
	return m.Ring
}

// history plays a cluster in which everyone keeps to the rules, and returns everyone's copy of the ring.
func history(t testing.TB, r *rand.Rand, peers int) []*ring.Ring {
	var names []peer.Name
	for i := range peers {
		names = append(names, peer.Name(i+1))
	}
	copies := make([]*ring.Ring, peers)
	for i := range copies {
		copies[i] = ring.Divide(small(), names)
	}
	evolve(t, r, copies, r.Perm(peers))
	return copies
}

// evolve goes on with a history, among the peers of a group.
func evolve(t testing.TB, r *rand.Rand, copies []*ring.Ring, group []int) {
	for range 60 {
		i, j := group[r.IntN(len(group))], group[r.IntN(len(group))]
		me := peer.Name(i + 1)
		switch r.IntN(4) {
		case 0:
			copies[i] = copies[i].Report(me, func(x addr.Range) uint64 { return r.Uint64N(x.Size().Uint64() + 1) }, nil)
		case 1:
			copies[i] = merge(t, copies[i], copies[j], me)
		default:
			owned := copies[i].Owned(me)
			if len(owned) == 0 {
				continue
			}
			x := owned[r.IntN(len(owned))]
			x.Start = x.Start.Add(addr.From64(r.Uint64N(x.Size().Uint64())))
			x.End = x.Start.Add(addr.From64(1 + r.Uint64N(x.Size().Uint64())))
			next, err := copies[i].Grant(me, peer.Name(j+1), x)
			require.NoError(t, err)
			require.NoError(t, next.Check())
			copies[i] = next
		}
	}
}

// checkLaws tests that in whatever order an observer hears of rings, and however often, it comes to the same ring.
func checkLaws(t *testing.T, a, b, d *ring.Ring, seed uint64) {
	ab := merge(t, a, b, observer)
	require.Equal(t, text(ab), text(merge(t, b, a, observer)), "commutative, seed %d", seed)
	require.Equal(t, text(merge(t, ab, d, observer)), text(merge(t, a, merge(t, b, d, observer), observer)), "associative, seed %d", seed)
	require.Same(t, ab, merge(t, ab, a, observer), "idempotent, seed %d", seed)
	require.Same(t, ab, merge(t, ab, b, observer), "idempotent, seed %d", seed)
}

func TestMergeLaws(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		c := history(t, r, 2+r.IntN(5))
		checkLaws(t, c[0], c[1], c[len(c)-1], seed)
	}
}

// TestReclaimedIsAsIfTheDeadHadDoneNothing: survivors take over the others, who go on among themselves, unheard. When all
// meet, what the others did is void, and the laws hold.
func TestReclaimedIsAsIfTheDeadHadDoneNothing(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 10))
		c := history(t, r, 3+r.IntN(5))
		order := r.Perm(len(c))
		cut := 1 + r.IntN(len(c)-1)
		survivors, dead := order[:cut], order[cut:]
		first := survivors[0]
		for _, i := range survivors {
			c[first] = merge(t, c[first], c[i], peer.Name(first+1))
		}
		for _, i := range dead {
			c[first], _ = c[first].Reclaim(peer.Name(i+1), peer.Name(first+1), 1)
		}
		for _, i := range survivors {
			c[i] = merge(t, c[i], c[first], peer.Name(i+1))
		}
		evolve(t, r, c, survivors)
		evolve(t, r, c, dead)
		known, all := c[first], c[first]
		for _, i := range survivors {
			known = merge(t, known, c[i], observer)
		}
		for _, i := range r.Perm(len(c)) {
			all = merge(t, all, c[i], observer)
		}
		require.Equal(t, owners(known), owners(all), "seed %d", seed)
		checkLaws(t, c[order[0]], c[order[1]], c[order[len(order)-1]], seed)
		checkLaws(t, known, all, c[order[len(order)-1]], seed)
	}
}

// TestConvergence: after everyone has heard everyone, everyone has the same ring, and each address one owner.
func TestConvergence(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 8))
		c := history(t, r, 2+r.IntN(5))
		for range 2 * len(c) {
			for i := range c {
				for j := range c {
					c[i] = merge(t, c[i], c[j], peer.Name(i+1))
				}
			}
		}
		for i := range c {
			require.Equal(t, text(c[0]), text(c[i]), "seed %d", seed)
		}
	}
}

// drawRing makes any valid ring, however unlikely.
func drawRing(r *rand.Rand, peers int) *ring.Ring {
	out := ring.New(small())
	for a := r.Uint64N(40); a < 256; a += 1 + r.Uint64N(60) {
		out.Tokens = append(out.Tokens, ring.Token{
			At:      small().Start.Add(addr.From64(a)),
			Peer:    peer.Name(1 + r.IntN(peers)),
			Version: uint32(r.IntN(3) + r.IntN(2)*r.IntN(3)<<26), // of some epochs
		})
	}
	for i := range out.Tokens {
		from, to := out.Tokens[i].At.Uint64(), out.Tokens[(i+1)%len(out.Tokens)].At.Uint64()
		size := (to+255-from)%256 + 1 // over the end if need be; all 256 for a single token
		out.Tokens[i].Free = r.Uint64N(size + 1)
	}
	return out
}

// owners is the slow form of a ring: who owns each address.
func owners(r *ring.Ring) (out [256]peer.Name) {
	for i := range out {
		out[i] = r.Owner(small().Start.Add(addr.From64(uint64(i))))
	}
	return out
}

// checkMerge compares one merge with what the rules say of each address.
func checkMerge(t *testing.T, ours, in *ring.Ring, used [256]bool) {
	const me = peer.Name(1)
	before := owners(ours)
	inUse := func(r addr.Range) bool {
		for a := r.Start; a.Less(r.End); a = a.Next() {
			i := a.Sub(small().Start).Uint64()
			require.Equal(t, me, before[i], "asked about what is not ours")
			if used[i] {
				return true
			}
		}
		return false
	}
	m, err := ours.Merge(in, me, inUse)
	require.NoError(t, err)
	require.NoError(t, m.Ring.Check())
	after, contested := owners(m.Ring), [256]bool{}
	for _, c := range m.Conflicts {
		lostUsed := false
		for _, l := range c.Lost {
			for a := l.Start; a.Less(l.End); a = a.Next() {
				i := a.Sub(small().Start).Uint64()
				contested[i] = true
				lostUsed = lostUsed || used[i]
				require.Equal(t, me, after[i], "contested, so kept")
				require.NotEqual(t, me, l.To)
			}
		}
		require.True(t, lostUsed, "a conflict is about something in use")
	}
	for i := range after {
		if before[i] == me && used[i] {
			require.Equal(t, me, after[i], "address %d is in use and was lost", i)
		}
	}
	again, err := m.Ring.Merge(in, me, func(r addr.Range) bool { return inUseAfter(r, used) })
	require.NoError(t, err)
	require.Equal(t, text(m.Ring), text(again.Ring), "idempotent")
	require.Len(t, again.Conflicts, len(m.Conflicts))
}

func inUseAfter(r addr.Range, used [256]bool) bool {
	for a := r.Start; a.Less(r.End); a = a.Next() {
		if used[a.Sub(small().Start).Uint64()] {
			return true
		}
	}
	return false
}

// drawUse marks some of our addresses as in use.
func drawUse(r *rand.Rand, ours *ring.Ring) (used [256]bool) {
	for i, p := range owners(ours) {
		used[i] = p == 1 && r.IntN(10) == 0
	}
	return used
}

func TestMergeOfAnything(t *testing.T) {
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 9))
		ours, in := drawRing(r, 3), drawRing(r, 3)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			checkMerge(t, ours, in, drawUse(r, ours))
			require.Equal(t, text(merge(t, ours, in, observer)), text(merge(t, in, ours, observer)))
		})
	}
}

// TestLawsOfAnything: within an epoch they hold for any rings at all, whether or not a cluster could come to them, if each
// version of a token was written once. Beyond that they rest on tokens being put only into pieces of their epoch, as histories do.
func TestLawsOfAnything(t *testing.T) {
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 11))
		var written [256][4]ring.Token
		for at := range written {
			for v := range written[at] {
				written[at][v] = ring.Token{
					At: small().Start.Add(addr.From64(uint64(at))), Peer: peer.Name(1 + r.IntN(4)), Version: uint32(v), Free: r.Uint64N(257),
				}
			}
		}
		draw := func() *ring.Ring {
			out := ring.New(small())
			for at := r.IntN(40); at < 256; at += 1 + r.IntN(60) {
				out.Tokens = append(out.Tokens, written[at][r.IntN(4)])
			}
			for i := range out.Tokens {
				from, to := out.Tokens[i].At.Uint64(), out.Tokens[(i+1)%len(out.Tokens)].At.Uint64()
				out.Tokens[i].Free = min(out.Tokens[i].Free, (to+255-from)%256+1)
			}
			return out
		}
		checkLaws(t, draw(), draw(), draw(), seed)
	}
}

func FuzzMerge(f *testing.F) {
	for _, x := range load(f).Merge {
		f.Add(ringBytes(x.Local.ring()), ringBytes(x.Incoming.ring()), []byte{1, 100, 200})
	}
	f.Fuzz(func(t *testing.T, a, b, use []byte) {
		ours, in := bytesRing(a), bytesRing(b)
		if ours.Check() != nil || in.Check() != nil {
			return
		}
		var used [256]bool
		before := owners(ours)
		for _, u := range use {
			used[u] = before[u] == 1
		}
		checkMerge(t, ours, in, used)
	})
}

// ringBytes and bytesRing write a ring of 256 addresses with four bytes for a token.
func ringBytes(r *ring.Ring) []byte {
	var out []byte
	for _, t := range r.Tokens {
		out = append(out, byte(t.At.Sub(small().Start).Uint64()), t.Peer.Bytes()[0], byte(t.Version&63|t.Version>>26<<6), byte(t.Free))
	}
	return out
}

func bytesRing(b []byte) *ring.Ring {
	r := ring.New(small())
	for ; len(b) >= 4; b = b[4:] {
		r.Tokens = append(r.Tokens, ring.Token{
			At:      small().Start.Add(addr.From64(uint64(b[0]))),
			Peer:    peer.Name(b[1]%4 + 1),
			Version: uint32(b[2]&63) | uint32(b[2]>>6)<<26, // of four epochs
			Free:    uint64(b[3]),
		})
	}
	return r
}

// TestGrantKeepsEverybodyElse: a grant moves exactly what was granted.
func TestGrantKeepsEverybodyElse(t *testing.T) {
	for seed := range uint64(800) {
		r := rand.New(rand.NewPCG(seed, 10))
		before := drawRing(r, 3)
		owned := before.Owned(1)
		if len(owned) == 0 {
			continue
		}
		x := owned[r.IntN(len(owned))]
		x.Start = x.Start.Add(addr.From64(r.Uint64N(x.Size().Uint64())))
		x.End = x.Start.Add(addr.From64(1 + r.Uint64N(x.End.Sub(x.Start).Uint64())))
		after, err := before.Grant(1, 2, x)
		require.NoError(t, err)
		require.NoError(t, after.Check(), "seed %d: %s grant %v -> %s", seed, text(before), x, text(after))
		was, is := owners(before), owners(after)
		for i := range is {
			want := was[i]
			if x.Contains(small().Start.Add(addr.From64(uint64(i)))) {
				want = 2
			}
			require.Equal(t, want, is[i], "seed %d: address %d: %s grant %v -> %s", seed, i, text(before), x, text(after))
		}
	}
}

func TestGrantRefusesWhatIsNotOurs(t *testing.T) {
	r := ring.Divide(small(), []peer.Name{1, 2})
	for _, x := range []addr.Range{
		span("10.0.0.128", "10.0.0.129"), span("10.0.0.120", "10.0.0.130"), span("10.0.0.5", "10.0.0.5"),
		span("9.0.0.0", "10.0.0.1"), span("10.0.0.0", "10.0.2.0"),
	} {
		_, err := r.Grant(1, 2, x)
		require.ErrorIs(t, err, ring.ErrNotOwned, "%v", x)
	}
	_, err := ring.New(small()).Grant(1, 2, small())
	require.ErrorIs(t, err, ring.ErrNotOwned)
}

func TestVersionsDoNotWrap(t *testing.T) {
	ours := ring.Divide(small(), []peer.Name{1})
	high := ring.Divide(small(), []peer.Name{1})
	high.Tokens[0].Version = ^uint32(0)
	m, err := ours.Merge(high, 1, nothingUsed)
	require.NoError(t, err)
	require.Equal(t, ^uint32(0), m.Ring.Tokens[0].Version)
	moved, _ := m.Ring.Transfer(1, 2)
	require.Equal(t, ^uint32(0), moved.Tokens[0].Version)
}

func TestAssert(t *testing.T) {
	r := ring.Divide(small(), []peer.Name{1, 2})
	same, err := r.Assert(1, at("10.0.0.0"), 102)
	require.NoError(t, err)
	require.Equal(t, uint32(102), same.Tokens[0].Version)
	inside, err := same.Assert(1, at("10.0.0.64"), 7)
	require.NoError(t, err)
	require.NoError(t, inside.Check())
	require.Equal(t, owners(r), owners(inside))
	require.Equal(t, ring.Token{At: at("10.0.0.64"), Peer: 1, Version: 7}, inside.Tokens[1])
	_, err = r.Assert(1, at("10.0.0.200"), 1)
	require.ErrorIs(t, err, ring.ErrNotOwned)
}

func TestOwnersAreSorted(t *testing.T) {
	got := ring.Divide(small(), []peer.Name{3, 1, 2}).Owners()
	require.True(t, slices.IsSorted(got))
	require.Equal(t, []peer.Name{1, 2, 3}, got)
}

// BenchmarkMerge merges a gossiped ring of 1,000 peers, with and without news.
func BenchmarkMerge(b *testing.B) {
	for _, peers := range []int{100, 1000, 10000} {
		var names []peer.Name
		for i := range peers {
			names = append(names, peer.Name(i+1))
		}
		ours := ring.Divide(span("10.32.0.0", "10.48.0.0"), names)
		news := ours.Report(2, func(addr.Range) uint64 { return 1 }, nil)
		for name, in := range map[string]*ring.Ring{"same": ours, "news": news} {
			b.Run(fmt.Sprintf("%s/%d", name, peers), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := ours.Merge(in, 1, nothingUsed); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

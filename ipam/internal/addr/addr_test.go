package addr_test

import (
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
)

func parse(t testing.TB, s string) addr.Addr {
	a, err := netip.ParseAddr(s)
	require.NoError(t, err)
	return addr.FromNetip(a)
}

func parseRange(t testing.TB, s string) addr.Range {
	first, end, ok := strings.Cut(s, "..")
	require.True(t, ok, s)
	return addr.Range{Start: parse(t, first), End: parse(t, end)}
}

func TestVectors(t *testing.T) {
	var v struct {
		HostRange []struct {
			CIDR, Range, HostRange, FirstUsable, LastUsable string
		}
		BiggestCIDR []struct{ In, Out string }
	}
	raw, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &v))
	require.NotEmpty(t, v.HostRange)
	require.NotEmpty(t, v.BiggestCIDR)
	for _, x := range v.HostRange {
		r := addr.FromPrefix(netip.MustParsePrefix(x.CIDR))
		require.Equal(t, parseRange(t, x.Range), r)
		require.Equal(t, parseRange(t, x.HostRange), r.Hosts())
		require.Equal(t, x.FirstUsable, r.Hosts().Start.String())
		require.Equal(t, x.LastUsable, r.Hosts().End.Sub(addr.From64(1)).String())
	}
	for _, x := range v.BiggestCIDR {
		require.Equal(t, parseRange(t, x.Out), parseRange(t, x.In).Block(), x.In)
	}
}

// big converts for the slow oracle.
func toBig(a addr.Addr) *big.Int {
	ip := a.Netip(false).As16()
	return new(big.Int).SetBytes(ip[:])
}

func draw(r *rand.Rand) addr.Addr {
	var raw [16]byte
	n := r.IntN(17)
	for i := 16 - n; i < 16; i++ {
		raw[i] = byte(r.Uint32())
		if r.IntN(3) == 0 {
			raw[i] = 0xff
		}
	}
	return addr.FromNetip(netip.AddrFrom16(raw).WithZone(""))
}

func TestArithmeticAgainstBig(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	mod := new(big.Int).Lsh(big.NewInt(1), 128)
	for range 20000 {
		a, b := draw(r), draw(r)
		x, y := toBig(a), toBig(b)
		require.Equal(t, x.Cmp(y), a.Compare(b))
		require.Zero(t, new(big.Int).Mod(new(big.Int).Add(x, y), mod).Cmp(toBig(a.Add(b))))
		require.Zero(t, new(big.Int).Mod(new(big.Int).Sub(x, y), mod).Cmp(toBig(a.Sub(b))))
		require.Zero(t, new(big.Int).Rsh(x, 1).Cmp(toBig(a.Half())))
		require.Equal(t, addr.Min(a, b) == a, !b.Less(a))
		require.Equal(t, addr.Max(a, b) == b, !b.Less(a))
	}
}

func TestRoundTrip(t *testing.T) {
	for _, s := range []string{"0.0.0.0", "10.32.0.1", "255.255.255.255"} {
		a := netip.MustParseAddr(s)
		require.Equal(t, a, addr.FromNetip(a).Netip(true))
		require.Equal(t, s, addr.FromNetip(a).String())
	}
	for _, s := range []string{"fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		a := netip.MustParseAddr(s)
		require.Equal(t, a, addr.FromNetip(a).Netip(false))
		require.Equal(t, s, addr.FromNetip(a).String())
	}
	require.Equal(t, addr.FromNetip(netip.MustParseAddr("10.0.0.1")), addr.FromNetip(netip.MustParseAddr("::ffff:10.0.0.1")))
	require.Equal(t, ^uint64(0), addr.FromNetip(netip.MustParseAddr("fd00::")).Uint64())
}

func TestRangeOfWidePrefixes(t *testing.T) {
	require.Equal(t, addr.From64(1<<32), addr.FromPrefix(netip.MustParsePrefix("0.0.0.0/0")).Size())
	r := addr.FromPrefix(netip.MustParsePrefix("fd00::/48"))
	require.Equal(t, "fd00:0:1::", r.End.String())
	require.Equal(t, r, r.Block())
	require.True(t, addr.FromPrefix(netip.MustParsePrefix("::/0")).Empty())
	require.True(t, addr.FromPrefix(netip.MustParsePrefix("ff00::/8")).Empty(), "has no end in 128 bits")
}

// TestBlockAgainstSearch compares Block with trying all blocks of small ranges.
func TestBlockAgainstSearch(t *testing.T) {
	for start := uint64(0); start < 20; start++ {
		for end := start; end < 40; end++ {
			got := addr.Range{Start: addr.From64(start), End: addr.From64(end)}.Block()
			best, at := uint64(0), uint64(0)
			for size := uint64(1); size <= end-start; size *= 2 {
				for a := (start + size - 1) / size * size; a+size <= end; a += size {
					best, at = size, a
					break
				}
			}
			require.Equal(t, addr.From64(best), got.Size(), "%d-%d", start, end)
			if best > 0 {
				require.Equal(t, addr.From64(at), got.Start, "%d-%d", start, end)
			}
		}
	}
}

func TestSubtract(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		a, inA := drawRanges(r)
		b, inB := drawRanges(r)
		got := addr.Subtract(a, b)
		var in [64]bool
		for i, x := range got {
			require.False(t, x.Empty())
			if i > 0 {
				require.False(t, x.Start.Less(got[i-1].End))
			}
			for p := x.Start; p.Less(x.End); p = p.Next() {
				in[p.Uint64()] = true
			}
		}
		for i := range in {
			require.Equal(t, inA[i] && !inB[i], in[i])
		}
	}
}

// drawRanges returns ascending disjoint ranges below 64, and the same as a set.
func drawRanges(r *rand.Rand) (list []addr.Range, in [64]bool) {
	for p := r.IntN(8); p < 60; p += 1 + r.IntN(8) {
		end := min(p+1+r.IntN(6), 64)
		list = append(list, addr.Range{Start: addr.From64(uint64(p)), End: addr.From64(uint64(end))})
		for ; p < end; p++ {
			in[p] = true
		}
	}
	return list, in
}

func TestAppend(t *testing.T) {
	one := func(a, b uint64) addr.Range { return addr.Range{Start: addr.From64(a), End: addr.From64(b)} }
	var list []addr.Range
	for _, r := range []addr.Range{one(1, 3), one(3, 5), one(5, 5), one(7, 8)} {
		list = addr.Append(list, r)
	}
	require.Equal(t, []addr.Range{one(1, 5), one(7, 8)}, list)
}

package peer_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

func TestNameText(t *testing.T) {
	n := peer.MustParse("0a:00:00:00:00:01")
	require.Equal(t, peer.Name(0x0a0000000001), n)

	type report struct {
		Self peer.Name            `json:"self"`
		Hops map[peer.Name]string `json:"hops"`
		None peer.Name            `json:"none"`
	}
	in := report{Self: n, Hops: map[peer.Name]string{n: "x"}}
	text, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"self":"0a:00:00:00:00:01","hops":{"0a:00:00:00:00:01":"x"},"none":"00:00:00:00:00:00"}`, string(text))
	var out report
	require.NoError(t, json.Unmarshal(text, &out))
	require.Equal(t, in, out)

	out.None = n
	require.NoError(t, out.None.UnmarshalText(nil))
	require.Zero(t, out.None)
	require.ErrorIs(t, out.None.UnmarshalText([]byte("::")), peer.ErrInvalidName)
	b, err := n.AppendText([]byte("peer "))
	require.NoError(t, err)
	require.Equal(t, "peer 0a:00:00:00:00:01", string(b))
	require.Panics(t, func() { peer.MustParse("nonsense") })
}

func TestNameOrderIsThatOfRawForms(t *testing.T) {
	names := []peer.Name{0xffffffffffff, 1, 0x0a0000000001, 0x0a0000000002, 0x010000000000, 0xff}
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		require.Negative(t, strings.Compare(string(names[i-1].AppendBytes(nil)), string(names[i].AppendBytes(nil))))
	}
}

func TestFromUint64Bounds(t *testing.T) {
	for _, v := range []uint64{0, 1 << 48, math.MaxUint64} {
		_, err := peer.FromUint64(v)
		require.ErrorIs(t, err, peer.ErrInvalidName, "%#x", v)
	}
	n, err := peer.FromUint64(1<<48 - 1)
	require.NoError(t, err)
	require.True(t, n.IsValid())
}

func TestMadeNamesAreLocalStations(t *testing.T) {
	for range 200 {
		for _, n := range []peer.Name{peer.Random(), peer.FromHardware([]byte(peer.Random().String()), nil)} {
			require.True(t, n.IsValid())
			require.Equal(t, byte(2), n.Bytes()[0]&3, "%s is local and no group", n)
		}
	}
	require.NotEqual(t, peer.Random(), peer.Random())
	require.NotEqual(t, peer.FromHardware([]byte("a"), nil), peer.FromHardware([]byte("b"), nil))
}

func TestUID(t *testing.T) {
	u := peer.NewUID()
	require.NotZero(t, u)
	back, err := peer.ParseUID(u.String())
	require.NoError(t, err)
	require.Equal(t, u, back)
	largest, err := peer.ParseUID("18446744073709551615")
	require.NoError(t, err)
	require.Equal(t, peer.UID(math.MaxUint64), largest)
	for _, s := range []string{"", "-1", "+1", "0x1", "1 ", "18446744073709551616", "a"} {
		_, err := peer.ParseUID(s)
		require.Error(t, err, "%q", s)
	}
}

func TestShortID(t *testing.T) {
	for _, s := range []string{"0", "291", "4095"} {
		id, err := peer.ParseShortID(s)
		require.NoError(t, err)
		require.Equal(t, s, id.String())
	}
	for _, s := range []string{"", "4096", "65536", "-1", "0x10", "1.0"} {
		_, err := peer.ParseShortID(s)
		require.ErrorIs(t, err, peer.ErrInvalidShortID, "%q", s)
	}
	seen := map[peer.ShortID]bool{}
	for range 1000 {
		id := peer.RandomShortID()
		require.LessOrEqual(t, id, peer.MaxShortID)
		seen[id] = true
	}
	require.Greater(t, len(seen), 500, "hardly random")
}

func TestNoAllocations(t *testing.T) {
	n := peer.MustParse("0a:00:00:00:00:01")
	raw, buf := n.AppendBytes(nil), make([]byte, 0, 32)
	var text string
	for name, f := range map[string]func(){
		"Parse":       func() { n, _ = peer.Parse("0a:00:00:00:00:01") },
		"FromBytes":   func() { n, _ = peer.FromBytes(raw) },
		"AppendBytes": func() { buf = n.AppendBytes(buf[:0]) },
		"AppendText":  func() { buf, _ = n.AppendText(buf[:0]) },
	} {
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { text = n.String() }), 1.0, text)
}

// slowParse is Parse as one would explain it.
func slowParse(s string) (raw [6]byte, ok bool) {
	groups := strings.Split(s, ":")
	if left, right, short := strings.Cut(s, "::"); short {
		l, r := fields(left), fields(right)
		if len(l)+len(r) < 1 || len(l)+len(r) > 4 {
			return raw, false
		}
		groups = l
		for len(groups)+len(r) < 6 {
			groups = append(groups, "0")
		}
		groups = append(groups, r...)
	}
	if len(groups) != 6 {
		return raw, false
	}
	for i, g := range groups {
		if len(g) < 1 || len(g) > 2 {
			return raw, false
		}
		for _, c := range strings.ToLower(g) {
			digit := strings.IndexRune("0123456789abcdef", c)
			if digit < 0 {
				return raw, false
			}
			raw[i] = raw[i]<<4 | byte(digit)
		}
	}
	return raw, raw != [6]byte{}
}

func fields(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ":")
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"12:34:56:78:9a:bc", "12::9A:BC", "12:34::", "::1", "::", "1:::2", "1::2::3", ":1:2:3:4:5:6", "00:00:00:00:00:00",
		"+1:2:3:4:5:6", "1_:2:3:4:5:6", "12:34:56:78:9a:bc:de", "123::", "ſ::1", "K:1:2:3:4:5",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := peer.Parse(s)
		raw, ok := slowParse(s)
		require.Equal(t, ok, err == nil, "%q", s)
		if err != nil {
			require.ErrorIs(t, err, peer.ErrInvalidName)
			return
		}
		require.Equal(t, raw, n.Bytes())
		again, err := peer.Parse(n.String())
		require.NoError(t, err)
		require.Equal(t, n, again)
	})
}

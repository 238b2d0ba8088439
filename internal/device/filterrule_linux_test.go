package device

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"github.com/stretchr/testify/require"
)

// TestRulesAreThoseOfIptables compares what we make with what iptables-nft 1.8.9 made of the same rules, as a kernel told it
// afterwards.
func TestRulesAreThoseOfIptables(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the file is from a little-endian machine")
	}
	file, err := os.ReadFile("testdata/iptables-nft-1.8.9.txt")
	require.NoError(t, err)
	recorded := map[string]string{}
	for line := range strings.Lines(string(file)) {
		rule, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		recorded[rule] = value
	}
	f := Firewall{Bridge: "weave"}
	for _, p := range []string{"10.32.0.0/12", "10.64.0.0/16", "10.65.1.1/32"} {
		f.Exposed = append(f.Exposed, netip.MustParsePrefix(p))
	}
	require.Len(t, recorded, len(f.forwarding()))
	for _, r := range f.forwarding() {
		require.Equal(t, recorded[r], hex.EncodeToString([]byte(identityOf(r))), r)
	}
}

func TestMarks(t *testing.T) {
	ours := func(bridge string) []byte { _, data := mark(bridge); return data }
	text := func(s string) *xt.Comment { c := xt.Comment(s); return &c }
	for _, tt := range []struct {
		what   string
		rule   nftables.Rule
		marked bool
	}{
		{"ours", nftables.Rule{UserData: ours("weave")}, true},
		{"restored by iptables", nftables.Rule{Exprs: []expr.Any{&expr.Match{Name: "comment", Info: text("overweave weave")}}}, true},
		{"bare", nftables.Rule{}, false},
		{"of another bridge", nftables.Rule{UserData: ours("wheel")}, false},
		{"of others", nftables.Rule{UserData: userdata.AppendString(nil, userdata.TypeComment, "overweave")}, false},
		{"of others, by iptables", nftables.Rule{Exprs: []expr.Any{&expr.Match{Name: "comment", Info: text("x")}}}, false},
		{"nonsense", nftables.Rule{UserData: []byte{0, 200, 1}}, false},
	} {
		require.Equal(t, tt.marked, marked(&tt.rule, "weave"), tt.what)
	}
}

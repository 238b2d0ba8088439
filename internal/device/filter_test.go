package device

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWantedRules has the rules of section 9.6 of the overlay specification, without a policy controller.
func TestWantedRules(t *testing.T) {
	f := Firewall{Bridge: "weave"}
	require.Equal(t, []string{
		"-i weave -o weave -j ACCEPT",
		"-i weave ! -o weave -j ACCEPT",
		"-o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}, f.forwarding())
	f.Masquerade = true
	require.Empty(t, f.translation(), "nothing is exposed")

	for _, addr := range []string{"10.40.0.1/16", "10.32.0.7/12", "10.32.0.8/12"} {
		f.Exposed = append(f.Exposed, netip.MustParsePrefix(addr))
	}
	require.Equal(t, []string{
		"-i weave -o weave -j ACCEPT",
		"-o weave -d 10.32.0.0/12 -j ACCEPT",
		"-o weave -d 10.40.0.0/16 -j ACCEPT",
		"-i weave ! -o weave -j ACCEPT",
		"-o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}, f.forwarding())
	require.Equal(t, []string{
		"-s 10.32.0.0/12 -d 224.0.0.0/4 -j RETURN",
		"! -s 10.32.0.0/12 -d 10.32.0.0/12 -j MASQUERADE",
		"-s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE",
		"-s 10.40.0.0/16 -d 224.0.0.0/4 -j RETURN",
		"! -s 10.40.0.0/16 -d 10.40.0.0/16 -j MASQUERADE",
		"-s 10.40.0.0/16 ! -d 10.40.0.0/16 -j MASQUERADE",
	}, f.translation())
	f.Masquerade = false
	require.Empty(t, f.translation())
}

func TestDifference(t *testing.T) {
	for name, tt := range map[string]struct {
		there, wanted, missing []string
		surplus                []int
	}{
		"nothing":        {},
		"all is missing": {nil, []string{"a", "b"}, []string{"a", "b"}, nil},
		"all is there":   {[]string{"B", "A"}, []string{"a", "b"}, nil, nil},
		"one is missing": {[]string{"B"}, []string{"a", "b", "c"}, []string{"a", "c"}, nil},
		"one is twice":   {[]string{"A", "B", "A"}, []string{"a", "b"}, nil, []int{2}},
		"one is old":     {[]string{"X", "B"}, []string{"a", "b"}, []string{"a"}, []int{0}},
		"none is wanted": {[]string{"A", "A"}, nil, nil, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			missing, surplus := difference(tt.there, tt.wanted, strings.ToUpper)
			require.Equal(t, tt.missing, missing)
			require.Equal(t, tt.surplus, surplus)
		})
	}
}

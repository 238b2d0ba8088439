package device

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func texts(rules []filterRule) (list []string) {
	for _, r := range rules {
		list = append(list, r.String())
	}
	return list
}

// TestWantedRules has the rules of section 9.6 of the overlay specification, without a policy controller.
func TestWantedRules(t *testing.T) {
	f := Firewall{Bridge: "weave"}
	require.Equal(t, []string{
		"-i weave -o weave -j ACCEPT",
		"-i weave ! -o weave -j ACCEPT",
		"-o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}, texts(f.forwarding()))
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
	}, texts(f.forwarding()))
	require.Equal(t, []string{
		"-s 10.32.0.0/12 -d 224.0.0.0/4 -j RETURN",
		"! -s 10.32.0.0/12 -d 10.32.0.0/12 -j MASQUERADE",
		"-s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE",
		"-s 10.40.0.0/16 -d 224.0.0.0/4 -j RETURN",
		"! -s 10.40.0.0/16 -d 10.40.0.0/16 -j MASQUERADE",
		"-s 10.40.0.0/16 ! -d 10.40.0.0/16 -j MASQUERADE",
	}, texts(f.translation()))
	f.Masquerade = false
	require.Empty(t, f.translation())
}

func TestDifference(t *testing.T) {
	for name, tt := range map[string]struct {
		there, wanted    []string
		missing, surplus []int
	}{
		"nothing":        {},
		"all is missing": {nil, []string{"a", "b"}, []int{0, 1}, nil},
		"all is there":   {[]string{"b", "a"}, []string{"a", "b"}, nil, nil},
		"one is missing": {[]string{"b"}, []string{"a", "b", "c"}, []int{0, 2}, nil},
		"one is twice":   {[]string{"a", "b", "a"}, []string{"a", "b"}, nil, []int{2}},
		"one is old":     {[]string{"x", "b"}, []string{"a", "b"}, []int{0}, []int{0}},
		"none is wanted": {[]string{"a", "a"}, nil, nil, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			missing, surplus := difference(tt.there, tt.wanted)
			require.Equal(t, tt.missing, missing)
			require.Equal(t, tt.surplus, surplus)
		})
	}
}

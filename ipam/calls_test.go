package ipam

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
)

// notPlayed are the recorded calls that have nothing to do with an allocator, and why.
var notPlayed = map[string]string{
	"GET /ipinfo/tracker": "the name of what follows addresses in a cloud: the daemon's",
	"GET /ring":           "not a call at all: empty, as the daemon answers to what it has no handler for below a known path",
	"PUT /ip/remote/10.32.0.200/24?noErrorOnUnknown=true": "the daemon answers before the claim is decided; here who calls does not wait for it",
	"PATCH /ip/abc":   "a method that the daemon does not have",
	"GET /ip/a/b/c/d": "a path that the daemon does not have",
	"GET /nosuch":     "a path that the daemon does not have",
}

// TestCallVectors replays the recorded calls of Weave Net's HTTP interface, as a daemon would translate them: each succeeds or
// fails as there, with the same answer.
func TestCallVectors(t *testing.T) {
	bus := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: p(1), UID: 1, Nickname: "host1"})
	a, err := New(Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/24"), Birth: Seed(p(1), p(2))})
	require.NoError(t, err)
	calls, left := loadVectors(t).HTTP.Calls, maps.Clone(notPlayed)
	require.Len(t, calls, 48)
	for _, c := range calls {
		what := c.Method + " " + c.Path
		if _, ok := notPlayed[what]; ok {
			delete(left, what)
			continue
		}
		path, _, _ := strings.Cut(c.Path, "?") // check-alive is about the container, which only the daemon can see
		parts := strings.Split(strings.Trim(path, "/"), "/")
		switch {
		case what == "GET /ip":
			requireOwners(t, c.Body, a)
			continue
		case what == "GET /ipinfo/defaultsubnet":
			require.Equal(t, c.Body, a.DefaultSubnet().String())
			continue
		}
		body, err := call(t, a, c.Method, parts[1:])
		if c.Status < 400 {
			require.NoError(t, err, what)
			require.Equal(t, c.Body, body, what)
		} else {
			require.Error(t, err, what)
			requireReason(t, c.Body, err)
		}
	}
	require.Empty(t, left, "not there")
}

// requireOwners checks who has what. The daemon lists containers last.
func requireOwners(t *testing.T, body string, a *Allocator) {
	t.Helper()
	var want struct {
		Owned []struct {
			ContainerID string
			Addrs       []netip.Prefix
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &want))
	list := []Owned{}
	for _, x := range want.Owned {
		list = append(list, Owned{x.ContainerID, x.Addrs})
	}
	require.ElementsMatch(t, list, a.Owners())
}

// requireReason checks that err gives the recorded reason, in its words. What is no address at all does not come as far as an
// allocator, and what is one of another family is told in words of its own.
func requireReason(t *testing.T, body string, err error) {
	t.Helper()
	reason := strings.TrimSpace(body)
	for _, where := range []string{"Unable to claim: ", "Unable to free: Free: ", "Delete: "} { // which call it was
		reason = strings.TrimPrefix(reason, where)
	}
	switch reason {
	case "invalid CIDR address: hello/24", "invalid CIDR address: 1.2.3.4/99", "invalid IP Address: nonsense":
	case "invalid Non-IPv4 address not supported: fd00::1/64":
		require.ErrorIs(t, err, ErrInvalidSubnet)
	default:
		require.ErrorContains(t, err, reason)
	}
}

// call does what a daemon does with the parts of /ip/{id}/{ip}/{prefixlen}.
func call(t *testing.T, a *Allocator, method string, parts []string) (string, error) {
	var subnet netip.Prefix
	if len(parts) == 3 {
		var err error
		if subnet, err = netip.ParsePrefix(parts[1] + "/" + parts[2]); err != nil {
			return "", err
		}
	}
	switch method {
	case http.MethodPost:
		got, err := a.Allocate(t.Context(), parts[0], subnet)
		return got.String(), err
	case http.MethodPut:
		return "", a.Claim(t.Context(), parts[0], subnet)
	case http.MethodDelete:
		if len(parts) == 1 {
			return "", a.FreeAll(t.Context(), parts[0])
		}
		ip, err := netip.ParseAddr(parts[1])
		if err != nil {
			return "", err
		}
		return "", a.Free(t.Context(), parts[0], ip)
	}
	var list []string
	for _, x := range a.Lookup(parts[0], subnet) {
		list = append(list, x.String())
	}
	return strings.Join(list, " "), nil
}

package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// depart asks a daemon by its control socket.
func depart(t *testing.T, d *daemon) *api.Client {
	mux := http.NewServeMux()
	mux.HandleFunc("DELETE /peer", d.leave)
	mux.HandleFunc("DELETE /peer/{peer}", d.takeOver)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return api.NewClient(s.Listener.Addr().String())
}

// TestDepartWithoutAddresses: a daemon that gives out no addresses has none to hand over, and says so.
func TestDepartWithoutAddresses(t *testing.T) {
	client := depart(t, &daemon{log: slog.New(slog.DiscardHandler)})
	_, err := client.TakeOver(t.Context(), "host2")
	var refused *api.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusUnprocessableEntity, refused.Status)
	refused = nil
	require.ErrorAs(t, client.Leave(t.Context()), &refused)
	require.Equal(t, http.StatusUnprocessableEntity, refused.Status)
}

// TestDepartStatus: what a client may do about a refusal is told by its status.
func TestDepartStatus(t *testing.T) {
	bus := gossiptest.New(gossiptest.Config{})
	one := bus.Node(gossip.Member{Name: peer.MustParse("0a:00:00:00:00:01"), UID: 1})
	two := bus.Node(gossip.Member{Name: peer.MustParse("0a:00:00:00:00:02"), UID: 2, Nickname: "host2"})
	one.Start()
	two.Start()
	allocator, err := ipam.New(ipam.Config{Bus: one, Universe: netip.MustParsePrefix("10.32.0.0/24"), Birth: ipam.Seed(one.Self().Name, two.Self().Name)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	client := depart(t, &daemon{log: slog.New(slog.DiscardHandler), ipam: allocator, attach: &attacher{}})
	cancel()
	require.NoError(t, allocator.Run(ctx))

	var refused *api.Error
	require.ErrorAs(t, client.Leave(t.Context()), &refused)
	require.Equal(t, http.StatusServiceUnavailable, refused.Status, refused.Text)
	refused = nil
	_, err = client.TakeOver(t.Context(), "host3")
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusNotFound, refused.Status, refused.Text)
}

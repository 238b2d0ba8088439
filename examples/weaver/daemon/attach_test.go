package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/ipam"
)

// TestIdentify: what a namespace and its interface are called, if nobody says.
func TestIdentify(t *testing.T) {
	a := &attacher{attached: map[string]api.Attachment{"known": {ID: "known", Port: "p"}}}
	for ns, want := range map[namespace]string{
		{ref: "c1", path: "/run/netns/c1", iface: "ethwe"}:           "c1",
		{ref: "c1", path: "/run/netns/c1", iface: "eth1"}:            "c1/eth1",
		{ref: "c1", path: "/run/netns/c1", iface: "eth1", port: "p"}: "known",
	} {
		id, err := a.identify(ns, "")
		require.NoError(t, err)
		require.Equal(t, want, id)
	}
	id, err := a.identify(namespace{ref: "7", path: "/proc/7/ns/net", iface: "eth1"}, "")
	require.NoError(t, err)
	require.Regexp(t, "^netns-", id)
}

// TestChooseGateway: the host must have an address that a container's subnet is a part of.
func TestChooseGateway(t *testing.T) {
	list := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, tt := range []struct {
		host, container []netip.Prefix
		want            string
	}{
		{list("10.32.0.1/12"), list("10.33.0.7/12"), "10.32.0.1"},
		{list("10.32.0.1/12"), list("10.32.1.7/24"), "10.32.0.1"},
		{list("10.32.2.1/24", "10.32.1.1/24"), list("10.32.1.7/24"), "10.32.1.1"},
		{list("10.32.2.1/24"), list("10.32.1.7/24", "10.32.2.7/24"), "10.32.2.1"},
		{list("10.32.2.1/24"), list("10.32.1.7/12"), ""},
	} {
		got, err := chooseGateway(tt.host, tt.container)
		if tt.want == "" {
			require.ErrorIs(t, err, errUnfit)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tt.want, got.String())
	}
}

// TestAttachmentOfOldFile reads what a daemon has stored that knew of one interface and no route.
func TestAttachmentOfOldFile(t *testing.T) {
	s, err := openState(Config{DBPrefix: filepath.Join(t.TempDir(), "db-")})
	require.NoError(t, err)
	defer s.Close()
	old := `{"id":"c1","netns":"/run/netns/c1","interface":"ethwe","port":"vethweplabc","addresses":["10.32.0.1/12"],"names":["web"]}`
	require.NoError(t, s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketAttachments).Put([]byte("c1"), []byte(old)) }))
	want := api.Attachment{
		ID: "c1", NetNS: "/run/netns/c1", Interface: "ethwe", Port: "vethweplabc",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}, Names: []string{"web"},
	}
	got, err := s.attachments()
	require.NoError(t, err)
	require.Equal(t, []api.Attachment{want}, got)
	want.Gateway = netip.MustParseAddr("10.32.0.2")
	require.NoError(t, s.put(want))
	got, err = s.attachments()
	require.NoError(t, err)
	require.Equal(t, []api.Attachment{want}, got)
}

// TestStatusOf: clients tell by the status what to do.
func TestStatusOf(t *testing.T) {
	for err, want := range map[error]int{
		api.ErrNotAttached:       http.StatusNotFound,
		ipam.ErrConflict:         http.StatusConflict,
		ipam.ErrReachable:        http.StatusConflict,
		errUnfit:                 http.StatusUnprocessableEntity,
		ipam.ErrOutOfRange:       http.StatusUnprocessableEntity,
		context.DeadlineExceeded: http.StatusServiceUnavailable,
		ipam.ErrBusy:             http.StatusServiceUnavailable,
		errors.New("something"):  http.StatusBadRequest,
	} {
		require.Equal(t, want, statusOf(fmt.Errorf("about: %w", err)))
	}
}

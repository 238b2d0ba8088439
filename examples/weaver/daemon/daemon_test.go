package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/peer"
)

// TestReconcile goes through what may have become of attachments.
func TestReconcile(t *testing.T) {
	const grace = 10 * time.Second
	start := time.Unix(1000, 0)
	at := func(id string) api.Attachment { return api.Attachment{ID: id, Port: "port-" + id} }
	ids := func(list []api.Attachment) (out []string) {
		for _, att := range list {
			out = append(out, att.ID)
		}
		return out
	}
	for name, tt := range map[string]struct {
		known             []api.Attachment
		links             []string
		since             map[string]time.Time
		alive, lost, over []string
		next              time.Time
	}{
		"nothing":            {},
		"all is well":        {known: []api.Attachment{at("a"), at("b")}, links: []string{"port-b", "port-a"}, alive: []string{"a", "b"}},
		"somebody else's":    {links: []string{"port-x"}},
		"gone":               {known: []api.Attachment{at("a"), at("b")}, links: []string{"port-b"}, alive: []string{"b"}, lost: []string{"a"}, next: start.Add(grace)},
		"gone for a while":   {known: []api.Attachment{at("a")}, since: map[string]time.Time{"a": start.Add(-3 * time.Second)}, next: start.Add(grace - 3*time.Second)},
		"gone for too long":  {known: []api.Attachment{at("a")}, since: map[string]time.Time{"a": start.Add(-grace)}, over: []string{"a"}},
		"back":               {known: []api.Attachment{at("a")}, links: []string{"port-a"}, since: map[string]time.Time{"a": start.Add(-grace)}, alive: []string{"a"}},
		"forgotten":          {since: map[string]time.Time{"a": start.Add(-grace)}},
		"nothing of it made": {known: []api.Attachment{{ID: "a"}}, lost: []string{"a"}, next: start.Add(grace)},
		"the first of two": {
			known: []api.Attachment{at("a"), at("b")}, since: map[string]time.Time{"b": start.Add(-time.Second)},
			lost: []string{"a"}, next: start.Add(grace - time.Second),
		},
	} {
		t.Run(name, func(t *testing.T) {
			links := map[string]bool{}
			for _, l := range tt.links {
				links[l] = true
			}
			v := reconcile(tt.known, links, verdict{since: tt.since, grace: grace}, start)
			require.Equal(t, tt.alive, ids(v.alive))
			require.Equal(t, tt.lost, ids(v.lost))
			require.Equal(t, tt.over, ids(v.over))
			require.Equal(t, tt.next, v.next)
			require.Len(t, v.since, len(tt.known)-len(tt.alive), "no memory of others is kept")
		})
	}
}

// TestPartEndsEarly: a part that ends before it is told to takes the others with it.
func TestPartEndsEarly(t *testing.T) {
	g := newGroup(t.Context())
	g.run("walker", func(ctx context.Context) error { <-ctx.Done(); return nil })
	g.run("sleeper", func(context.Context) error { return nil })
	require.EqualError(t, g.Wait(), "sleeper ended unexpectedly")
}

// TestServeWaitsForHandlers: what a handler uses may be closed when serve has returned.
func TestServeWaitsForHandlers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	entered, left, let := make(chan struct{}), make(chan struct{}), make(chan struct{})
	served, asked := make(chan error, 1), make(chan struct{})
	go func() {
		d := &daemon{log: slog.New(slog.DiscardHandler)}
		served <- d.serve(ctx, l, &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
			<-let
			close(left)
		})})
	}()
	go func() {
		defer close(asked)
		if resp, err := http.Get("http://" + l.Addr().String()); err == nil {
			resp.Body.Close()
		}
	}()
	<-entered
	cancel()
	select {
	case <-served:
		t.Fatal("it returned while a handler ran")
	case <-time.After(100 * time.Millisecond):
	}
	close(let)
	require.NoError(t, <-served)
	select {
	case <-left:
	default:
		t.Fatal("it returned before the handler did")
	}
	<-asked
}

// TestChooseName: what an operator says comes first, then what was used last time.
func TestChooseName(t *testing.T) {
	told, last := peer.MustParse("0a:00:00:00:00:01"), peer.MustParse("0a:00:00:00:00:02")
	require.Equal(t, told, chooseName(Config{Name: told, Bridge: "none"}, last))
	require.Equal(t, last, chooseName(Config{Bridge: "none"}, last))
	require.NotZero(t, chooseName(Config{Bridge: "none"}, 0))
}

// TestHopeless: one peer that may be reached yet is reason enough to go on.
func TestHopeless(t *testing.T) {
	password := mesh.TargetStatus{State: "waiting", Err: fmt.Errorf("refused: %w", mesh.ErrPassword)}
	name := mesh.TargetStatus{State: "never", Err: fmt.Errorf("refused: %w", mesh.ErrNameTaken)}
	self := mesh.TargetStatus{State: "never", Err: errors.New("ourselves")}
	down := mesh.TargetStatus{State: "waiting", Err: errors.New("no route to host")}
	fresh := mesh.TargetStatus{State: "attempting"}
	for _, tt := range []struct {
		targets []mesh.TargetStatus
		want    error
	}{
		{nil, nil},
		{[]mesh.TargetStatus{fresh}, nil},
		{[]mesh.TargetStatus{self}, nil},
		{[]mesh.TargetStatus{password}, mesh.ErrPassword},
		{[]mesh.TargetStatus{name}, mesh.ErrNameTaken},
		{[]mesh.TargetStatus{self, password, name}, mesh.ErrPassword},
		{[]mesh.TargetStatus{name, down}, nil},
		{[]mesh.TargetStatus{fresh, password}, nil},
	} {
		require.ErrorIs(t, hopeless(tt.targets), tt.want)
	}
}

// TestControlSocket: nobody else may open it, at no time; what a dead daemon left is no obstacle, and what a live one has is one.
func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "sock")
	require.NoError(t, os.Mkdir(filepath.Dir(path), 0o755))
	left := fmt.Sprintf("%s.%d", path, os.Getpid()) // by a daemon that died between two steps, and had our number
	for _, name := range []string{path, left} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		require.NoError(t, l.Close())
	}
	l, err := listenUnix(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(socketMode), info.Mode().Perm())
	_, err = listenUnix(path)
	require.ErrorContains(t, err, "another daemon")
	require.NoError(t, l.Close())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestLeftovers: a change of the mode removes what the new one has no use for, the last part first.
func TestLeftovers(t *testing.T) {
	bridge, pair, packet := part{partBridge, "weave"}, part{partPair, dpOuterName}, part{partPair, outerName}
	datapath, direct := part{partDatapath, datapathName}, part{partDatapath, "weave"}
	for _, tt := range []struct {
		made []part
		to   Mode
		want []part
	}{
		{nil, ModeDirect, nil},
		{[]part{bridge, pair, datapath}, ModeBridged, nil},
		{[]part{bridge, pair, datapath}, ModeBridge, []part{datapath, pair}},
		{[]part{bridge, pair, datapath}, ModeDirect, []part{datapath, pair, bridge}},
		{[]part{bridge, packet}, ModeBridge, nil},
		{[]part{bridge, packet}, ModeBridged, []part{packet}},
		{[]part{direct}, ModeBridge, []part{direct}},
	} {
		require.Equal(t, tt.want, leftovers(tt.made, tt.to.wanted("weave")))
	}
	require.ErrorContains(t, part{"house", "weave"}.remove(), "house")
}

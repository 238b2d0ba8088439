package main

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// weaver runs a command that asks the host's daemon.
func (h *host) weaver(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	return run(h.t, exec.Command(weaverPath(h.t), append(args, "--http-addr", h.socket())...))
}

// requireTargets looks whom a daemon is to connect to.
func (h *host) requireTargets(want ...string) {
	h.t.Helper()
	require.Equal(h.t, want, strings.Fields(get(h.t, h.socket(), "/status/targets")))
}

// TestConnectAndForget changes whom a daemon connects to: it does at once, and after a restart, unless its command line is another.
func TestConnectAndForget(t *testing.T) {
	l := labtest.New(t)
	first, second := addHost(t, l, "10.0.0.1"), addHost(t, l, "10.0.0.2")
	_, err := l.Link(first.Host, second.Host, lab.LinkConfig{A: netip.MustParsePrefix("10.0.0.1/24"), B: netip.MustParsePrefix("10.0.0.2/24")})
	require.NoError(t, err)
	daemon := first.start("--name", "0a:00:00:00:00:01", "10.0.0.9")
	second.start("--name", "0a:00:00:00:00:02", "--password=")
	_, stderr, code := first.weaver("connect", "10.0.0.2", "host:port:more")
	require.NotZero(t, code)
	require.Contains(t, stderr, "host:port:more")
	waitFor(t, func() bool {
		r := first.report()
		return len(r.Router.Connections) == 1 && r.Router.Connections[0].State == "established"
	})
	first.requireTargets("10.0.0.9", "10.0.0.2")
	_, stderr, code = first.weaver("forget", "10.0.0.9", "10.0.0.8")
	require.Zero(t, code, stderr)
	first.requireTargets("10.0.0.2")

	end(t, daemon, syscall.SIGKILL)
	daemon = first.start("--name", "0a:00:00:00:00:01", "10.0.0.9")
	first.requireTargets("10.0.0.2") // as it was
	_, stderr, code = first.weaver("connect", "--replace", "10.0.0.3")
	require.Zero(t, code, stderr)
	first.requireTargets("10.0.0.3")
	end(t, daemon, syscall.SIGTERM)
	first.start("--name", "0a:00:00:00:00:01", "10.0.0.7")
	first.requireTargets("10.0.0.7") // a new command line
}

// TestConnectionAttributes: callers know encrypted links by an attribute.
func TestConnectionAttributes(t *testing.T) {
	l := labtest.New(t)
	first, second := addHost(t, l, "10.0.0.1"), addHost(t, l, "10.0.0.2")
	_, err := l.Link(first.Host, second.Host, lab.LinkConfig{A: netip.MustParsePrefix("10.0.0.1/24"), B: netip.MustParsePrefix("10.0.0.2/24")})
	require.NoError(t, err)
	first.start("--name", "0a:00:00:00:00:01", "--password", "open sesame", "--mode", "bridge")
	second.start("--name", "0a:00:00:00:00:02", "--password", "open sesame", "--mode", "bridge", "10.0.0.1")
	waitFor(t, func() bool {
		return strings.Contains(get(t, first.socket(), "/status/connections"), "established encrypted   sleeve2 0a:00:00:00:00:02")
	})
	require.Contains(t, get(t, first.socket(), "/status/connections"), ") encrypted=truemtu=")
}

// TestMetrics: names and questions are counted, and whoever finds the address of the metrics cannot hold it.
func TestMetrics(t *testing.T) {
	h := newServer(t)
	h.start("--metrics-addr", "127.0.0.1:6782")
	h.attach(api.AttachRequest{NetNS: h.container("c1").Path(), ID: "c1", Names: []string{"one", "two"}})
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return h.DialContext(ctx, "udp", "127.0.0.1:5353")
	}}
	_, err := resolver.LookupNetIP(t.Context(), "ip4", "one.weave.local.")
	require.NoError(t, err)
	text := get(t, h.socket(), "/metrics")
	require.Contains(t, text, "weave_dns_entries 2")
	require.Contains(t, text, `weaver_dns_names{state="live"} 2`)
	require.Contains(t, text, `weaver_dns_questions_total{kind="asked"} 1`)
	require.Contains(t, text, `weaver_dns_faults_total{kind="malformed"} 0`)
	require.Contains(t, get(t, h.socket(), "/status"), "Entries: 2")

	var open []net.Conn // more than are served
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range 40 {
		c, err := h.DialContext(t.Context(), "tcp", "127.0.0.1:6782")
		require.NoError(t, err)
		open = append(open, c)
	}
	_, err = open[len(open)-1].Write([]byte("GET /metrics HTTP/1.0\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, open[0].Close()) // gives its place to the last ones, in turn
	for _, c := range open[1:9] {
		require.NoError(t, c.Close())
	}
	answer := make([]byte, 15)
	_, err = open[len(open)-1].Read(answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.0 200 OK", string(answer))
}

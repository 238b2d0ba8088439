package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestBadArguments: what cannot be meant is refused before anything is started, with one line.
func TestBadArguments(t *testing.T) {
	weaver := weaverPath(t)
	for name, tt := range map[string]struct {
		args []string
		says string
	}{
		"range":               {[]string{"launch", "--ipalloc-range", "10.32.0.0/33"}, "--ipalloc-range"},
		"range with host":     {[]string{"launch", "--ipalloc-range", "10.32.0.1/12"}, "did you mean 10.32.0.0/12"},
		"port":                {[]string{"launch", "--port", "65535"}, "--port must be below 65535"},
		"grace":               {[]string{"launch", "--ipalloc-grace", "-3s"}, "--ipalloc-grace must not be negative"},
		"number of peers":     {[]string{"launch", "--ipalloc-init", "consensus=-3"}, "--ipalloc-init"},
		"several":             {[]string{"launch", "--name", "me", "--log-level", "loud"}, "--log-level"},
		"peer":                {[]string{"launch", "host:port:more"}, `peer address "host:port:more"`},
		"peer without a host": {[]string{"launch", ":6783"}, `peer address ":6783"`},
		"name":                {[]string{"launch", "--name", "me"}, "--name"},
		"birth":               {[]string{"launch", "--ipalloc-init", "seeds=1"}, "--ipalloc-init"},
		"log level":           {[]string{"launch", "--log-level", "loud"}, "--log-level"},
		"trusted subnets":     {[]string{"launch", "--trusted-subnets", "here"}, "--trusted-subnets"},
		"MTU":                 {[]string{"launch", "--mtu", "10"}, "MTU 10"},
		"unknown flag":        {[]string{"launch", "--wave"}, "--wave"},
		"unknown command":     {[]string{"weave"}, `"weave"`},
		"attach to nothing":   {[]string{"attach"}, "1 arg"},
		"address":             {[]string{"attach", "x", "--address", "10.1"}, "--address"},
		"no daemon":           {[]string{"status", "--http-addr", "/nonexistent/socket"}, "no daemon listens"},
		"hosts":               {[]string{"demo", "--hosts", "1"}, "1 hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, code := run(t, exec.Command(weaver, tt.args...))
			require.NotZero(t, code)
			require.Contains(t, stderr, tt.says)
			require.Equal(t, 1, strings.Count(strings.TrimSpace(stderr), "\n")+1, "one line: %s", stderr)
		})
	}
}

// host is a host of a lab on which daemons are started that fail.
type host struct {
	*lab.Host
	t    *testing.T
	dir  string
	args []string
}

func newHost(t *testing.T) *host { return addHost(t, labtest.New(t), "127.0.0.1") }

// addHost adds a host whose daemons listen at an address of it.
func addHost(t *testing.T, l *lab.Lab, address string) *host {
	h, err := l.Host("host-" + address)
	require.NoError(t, err)
	dir := t.TempDir()
	return &host{Host: h, t: t, dir: dir, args: []string{
		"launch", "--host", address, "--no-dns", "--log-level", "error",
		"--http-addr", filepath.Join(dir, "sock"), "--db-prefix", filepath.Join(dir, "db-"),
	}}
}

// command returns a daemon with more flags.
func (h *host) command(args ...string) *lab.Cmd {
	return h.Command(context.Background(), weaverPath(h.t), append(h.args, args...)...)
}

// start starts a daemon and waits until it answers.
func (h *host) start(args ...string) *lab.Cmd {
	h.t.Helper()
	cmd := h.command(args...)
	cmd.Stderr = os.Stderr // it says there why it ends, if it does
	require.NoError(h.t, cmd.Start())
	waitFor(h.t, func() bool {
		conn, err := net.Dial("unix", h.socket())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return cmd
}

func (h *host) socket() string { return filepath.Join(h.dir, "sock") }

// devices lists the network devices of the host.
func (h *host) devices() (names []string) {
	require.NoError(h.t, h.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names = append(names, l.Name)
		}
		return err
	}))
	return names
}

// fails runs a daemon that is to fail, saying why in one sentence, and leaving nothing behind.
func (h *host) fails(says string, args ...string) {
	h.t.Helper()
	before := h.devices()
	cmd := h.command(args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	require.Error(h.t, cmd.Run())
	require.Equal(h.t, 1, cmd.ProcessState.ExitCode(), stderr.String())
	require.Contains(h.t, stderr.String(), says)
	require.Equal(h.t, 1, strings.Count(strings.TrimSpace(stderr.String()), "\n")+1, stderr.String())
	require.Equal(h.t, before, h.devices())
	require.NoFileExists(h.t, h.socket())
}

// TestLaunchFails: daemons that cannot start, or whose peers tell them that it makes no sense.
func TestLaunchFails(t *testing.T) {
	t.Run("UDP port taken", func(t *testing.T) {
		h := newHost(t)
		conn, err := h.ListenPacket("udp4", "127.0.0.1:6783")
		require.NoError(t, err)
		defer conn.Close()
		h.fails("6783")
	})
	t.Run("TCP port taken", func(t *testing.T) {
		h := newHost(t)
		l, err := h.Listen("tcp4", "127.0.0.1:6783")
		require.NoError(t, err)
		defer l.Close()
		h.fails("6783")
	})
	t.Run("bridge is no bridge", func(t *testing.T) {
		newHost(t).fails("lo", "--weave-bridge", "lo")
	})
	t.Run("control socket is a file", func(t *testing.T) {
		h := newHost(t)
		h.fails("no socket", "--http-addr", os.Args[0])
	})
	t.Run("no privileges", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("takes root to become somebody else")
		}
		h := newHost(t)
		weaver := filepath.Join(openDir(t), "weaver")
		copyFile(t, weaver, weaverPath(t))
		before := h.devices()
		cmd := h.Command(context.Background(), weaver, append(h.args, "--http-addr", "", "--db-prefix", "")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		require.Error(t, cmd.Run())
		require.Contains(t, stderr.String(), "this takes root")
		require.Equal(t, before, h.devices())
	})
}

const nobody = 65534 // the user and the group without any rights

// openDir returns a temporary folder that others may enter too.
func openDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "weaver-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func copyFile(t *testing.T, to, from string) {
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o755))
}

// TestRefusedByPeer: a running daemon meets newcomers with another password, and with its own name.
func TestRefusedByPeer(t *testing.T) {
	l := labtest.New(t)
	first, second := addHost(t, l, "10.0.0.1"), addHost(t, l, "10.0.0.2")
	_, err := l.Link(first.Host, second.Host, lab.LinkConfig{A: netip.MustParsePrefix("10.0.0.1/24"), B: netip.MustParsePrefix("10.0.0.2/24")})
	require.NoError(t, err)
	daemon := first.start("--name", "0a:00:00:00:00:01", "--password", "open sesame")

	second.fails("password", "--name", "0a:00:00:00:00:02", "--password", "open barley", "10.0.0.1")
	second.fails("password", "--name", "0a:00:00:00:00:02", "10.0.0.1")
	second.fails("name", "--name", "0a:00:00:00:00:01", "--password", "open sesame", "10.0.0.1")

	require.NoError(t, daemon.Process.Signal(syscall.SIGTERM))
	require.NoError(t, daemon.Wait(), "it was not disturbed")
}

// get asks a daemon for a path.
func get(t *testing.T, socket, path string) string {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	resp, err := c.Get("http://weaver" + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

// TestAttachUnknown: a namespace that is none is refused by the daemon, and nothing is allocated for it.
func TestAttachUnknown(t *testing.T) {
	h := newHost(t)
	daemon := h.start()
	socket := h.socket()
	for _, ns := range []string{"no-such", "/etc/passwd", "4194304"} {
		_, stderr, code := run(t, exec.Command(weaverPath(t), "attach", "--http-addr", socket, ns))
		require.NotZero(t, code)
		require.Contains(t, stderr, "no such network namespace")
	}
	stdout, _, code := run(t, exec.Command(weaverPath(t), "status", "--http-addr", socket))
	require.Zero(t, code)
	require.Contains(t, stdout, "Attached: 0")
	metrics := get(t, socket, "/metrics")
	require.Contains(t, metrics, "weave_max_ips 1.048576e+06")
	require.Contains(t, metrics, `weave_ips{state="local-used"} 0`)
	require.NoError(t, daemon.Process.Signal(syscall.SIGTERM))
	require.NoError(t, daemon.Wait())
	require.Equal(t, []string{"lo"}, h.devices(), "a bridge that nobody uses is removed")
}

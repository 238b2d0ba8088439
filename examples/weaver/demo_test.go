package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/demo"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestDemo runs the demo as a user would: real daemons, three hosts, JSON. It leaves no device and no process.
func TestDemo(t *testing.T) {
	labtest.Require(t)
	before, err := net.Interfaces()
	require.NoError(t, err)
	stdout, stderr, code := run(t, exec.Command(weaverPath(t), "demo", "--json", "--hosts", "3", "--seconds", "1"))
	require.Zero(t, code, stderr)
	requireReport(t, stdout, 3)
	after, err := net.Interfaces()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))
	require.Empty(t, daemons(t))
}

// TestDemoOrdinaryUser runs the demo as a user without any rights.
func TestDemoOrdinaryUser(t *testing.T) {
	labtest.Require(t)
	if os.Getuid() != 0 {
		t.Skip("takes root to become somebody else; the other demos run as an ordinary user here")
	}
	dir := openDir(t)
	weaver := filepath.Join(dir, "weaver")
	copyFile(t, weaver, weaverPath(t))
	t.Setenv("TMPDIR", dir)
	require.NoError(t, os.Chmod(dir, 0o777))
	cmd := exec.Command(weaver, "demo", "--json", "--seconds", "1")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	stdout, stderr, code := run(t, cmd)
	if code != 0 && strings.Contains(stderr, lab.ErrNotPermitted.Error()) {
		t.Skip(stderr)
	}
	require.Zero(t, code, stderr)
	requireReport(t, stdout, 2)
}

func requireReport(t *testing.T, stdout string, hosts int) {
	t.Helper()
	var r demo.Report
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.True(t, r.OK)
	require.Len(t, r.Hosts, hosts)
	require.Len(t, r.DNS, hosts)
	require.True(t, r.Encrypted)
	require.Equal(t, "sleeve2", r.Overlay)
	require.Positive(t, r.PingMS.Median)
	require.Positive(t, r.TCPMbitS)
}

func names(links []net.Interface) (out []string) {
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}

// daemons returns the command lines of daemons that this test binary has become.
func daemons(t *testing.T) (out []string) {
	self, err := os.Executable()
	require.NoError(t, err)
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(line), self+"\x00launch\x00") {
			out = append(out, string(line))
		}
	}
	return out
}

// TestDemoPlain has no password, and the daemons use packet sockets.
func TestDemoPlain(t *testing.T) {
	labtest.Require(t)
	r, err := demo.Run(t.Context(), demo.Config{Hosts: 2, Stream: time.Second, Daemon: weaverPath(t), Flags: []string{"--no-tap"}})
	require.NoError(t, err)
	require.False(t, r.Encrypted)
	require.Equal(t, "packet socket", r.Hosts[0].Port)
}

// TestKilledDaemon kills one daemon of two in the middle of everything and starts it again: the containers talk again, with
// the addresses they had.
func TestKilledDaemon(t *testing.T) {
	labtest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := demo.NewCluster(demo.ClusterConfig{Hosts: 2, Password: "tell nobody", Daemon: weaverPath(t)})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	a, b := c.Hosts[0], c.Hosts[1]
	for _, h := range c.Hosts {
		require.NoError(t, h.Launch(ctx))
	}
	addrs := map[*demo.Host]netip.Prefix{}
	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx))
		addrs[h] = h.Address
	}
	require.NoError(t, a.Reach(ctx, b.Address.Addr()))
	before, err := b.Client.Report(ctx)
	require.NoError(t, err)

	require.NoError(t, b.Kill())
	killed := time.Now()
	require.NoError(t, b.Launch(ctx))
	require.NoError(t, a.Reach(ctx, b.Address.Addr()))
	require.Less(t, time.Since(killed), 15*time.Second)
	after, err := b.Client.Report(ctx)
	require.NoError(t, err)
	require.Equal(t, before.Router.ShortID, after.Router.ShortID, "kernels of other hosts know it by that")

	for _, h := range c.Hosts {
		require.NoError(t, h.Attach(ctx)) // attaching again changes nothing
		require.Equal(t, addrs[h], h.Address)
		var list []netip.Prefix
		require.NoError(t, h.Container.Do(func() (err error) { list, err = device.Addresses(device.DefaultInterface); return err }))
		require.Equal(t, []netip.Prefix{addrs[h]}, list)
	}
	require.NoError(t, a.Named(ctx, b), "the name is registered again")
}

// TestDemoInterrupted interrupts a demo, early and late: it ends soon, says so, and leaves no process and no file.
func TestDemoInterrupted(t *testing.T) {
	labtest.Require(t)
	for _, after := range []string{"hosts and containers", "links established", "ping"} {
		t.Run(after, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			cmd := exec.Command(weaverPath(t), "demo", "--seconds", "60")
			stderr, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(stderr)
			for lines.Scan() && !strings.Contains(lines.Text(), after) {
			}
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			var last string
			for lines.Scan() {
				last = lines.Text()
			}
			require.Error(t, cmd.Wait())
			require.Equal(t, 130, cmd.ProcessState.ExitCode(), last)
			require.Equal(t, "weaver: interrupted", last)
			left, err := os.ReadDir(os.Getenv("TMPDIR"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

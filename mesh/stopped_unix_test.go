//go:build unix

package mesh

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
)

const stoppedTargets = "OVERWEAVE_TEST_TARGETS" // in the environment of a process that is to be stopped

// quick is the pace of a mesh in which a minute takes five seconds.
func quick(r *Router) { r.pace = pace{time.Second, 5 * time.Second, 5 * time.Second} }

// TestStoppedProcess: a peer whose process is stopped, for longer than others wait for signs of life and while they send
// more to it than sockets hold, comes back when it goes on, as the same. The others keep one another meanwhile.
func TestStoppedProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	var sender gossip.Sender
	one := start(t, loopback(1), quick, func(r *Router) {
		var err error
		sender, err = r.Join("words", &echo{})
		require.NoError(t, err)
	})
	eventually(t, "listening", func() bool { return one.Addr().IsValid() })
	heard := &echo{}
	two := start(t, loopback(2, one.Addr().String()), quick, func(r *Router) {
		_, err := r.Join("words", heard)
		require.NoError(t, err)
	})
	eventually(t, "listening", func() bool { return two.Addr().IsValid() })
	child := startChild(t, one.Addr().String()+" "+two.Addr().String())
	eventually(t, "all know all", knows(3, one, two))
	uid, _ := one.Member(name(3))
	eventually(t, "all are connected", func() bool { return len(connected(one)) == 2 && len(connected(two)) == 2 })
	since := func() time.Time { return one.Status().Connections[0].Since } // of that to the second, as they are in order of names
	before := since()

	require.NoError(t, child.Signal(syscall.SIGSTOP))
	sender.Broadcast(words{strings.Repeat("x", 8<<20)})
	eventually(t, "the others hear one another", func() bool { return len(heard.take()) > 0 })
	eventually(t, "it is given up", knows(2, one, two))
	sender.Broadcast(words{"y"})
	eventually(t, "the others hear one another", func() bool { return len(heard.take()) > 0 })
	require.NoError(t, child.Signal(syscall.SIGCONT))
	eventually(t, "it is back", knows(3, one, two))
	eventually(t, "all are connected", func() bool { return len(connected(one)) == 2 && len(connected(two)) == 2 })
	again, _ := one.Member(name(3))
	require.Equal(t, uid, again)
	require.Equal(t, before, since(), "the connection of the others is the same")
}

// startChild runs TestChildToStop in a process of its own, until the test ends.
func startChild(t *testing.T, targets string) *os.Process {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildToStop$")
	cmd.Env = append(os.Environ(), stoppedTargets+"="+targets)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Signal(syscall.SIGCONT)
		require.NoError(t, cmd.Wait())
	})
	return cmd.Process
}

// TestChildToStop is the process that TestStoppedProcess stops. It ends with its input.
func TestChildToStop(t *testing.T) {
	targets := os.Getenv(stoppedTargets)
	if targets == "" {
		t.Skip("not that process")
	}
	r := start(t, loopback(3, strings.Fields(targets)...), quick, func(r *Router) {
		_, err := r.Join("words", &echo{})
		require.NoError(t, err)
	})
	_, _ = io.Copy(io.Discard, os.Stdin)
	r.stop()
}

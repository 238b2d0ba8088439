package device_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// childVariable in the environment turns the test binary into one of the children.
const childVariable = "OVERWEAVE_DEVICE_TEST_CHILD"

var children = map[string]func() int{"powerless": childPowerless, "wait": childWait}

// childPowerless prints what it is told when it tries what it may not do.
func childPowerless() int {
	_, err := device.ResolveNetNS(os.Args[1])
	_, other := device.EnsureBridge(device.Bridge{Name: "overweave-test"})
	fmt.Printf("%v\n%v\n", err, other)
	if !errors.Is(err, os.ErrPermission) || !errors.Is(other, os.ErrPermission) {
		return 1
	}
	return 0
}

func childWait() int {
	fmt.Println("waiting")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

func TestReferencesToNamespaces(t *testing.T) {
	_, c := newHost(t, labtest.New(t), "a", 1)
	wanted, err := os.Stat(c[0].Path())
	require.NoError(t, err)
	found := func(ref string) {
		path, err := device.ResolveNetNS(ref)
		require.NoError(t, err)
		got, err := os.Stat(path)
		require.NoError(t, err)
		require.True(t, os.SameFile(wanted, got), ref)
	}
	found(c[0].Path())

	inside := c[0].Command(t.Context(), "/proc/self/exe")
	inside.Env = append(os.Environ(), childVariable+"=wait")
	in, err := inside.StdinPipe()
	require.NoError(t, err)
	out, err := inside.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, inside.Start())
	_, err = out.Read(make([]byte, 1)) // after exec, when it may be looked at
	require.NoError(t, err)
	found(fmt.Sprint(inside.Process.Pid))
	require.NoError(t, in.Close())
	require.NoError(t, inside.Wait())
	_, err = device.ResolveNetNS(fmt.Sprint(inside.Process.Pid))
	require.ErrorIs(t, err, device.ErrNoNetNS)

	withRunFolder(t, func() {
		require.NoError(t, os.Mkdir("/run/netns", 0o755))
		require.NoError(t, os.WriteFile("/run/netns/box", nil, 0o444))
		_, err := device.ResolveNetNS("box")
		require.ErrorIs(t, err, device.ErrNoNetNS, "a file of that name is not enough")
		require.NoError(t, unix.Mount(c[0].Path(), "/run/netns/box", "", unix.MS_BIND, ""))
		found("box")
	})
}

// withRunFolder runs fn with an empty /run that nobody else sees.
func withRunFolder(t *testing.T, fn func()) { withEmpty(t, "/run", fn) }

// withoutSettings runs fn where no settings of the kernel can be seen or changed.
func withoutSettings(t *testing.T, fn func()) { withEmpty(t, "/proc/sys", fn) }

func withEmpty(t *testing.T, folder string, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends, and its mounts with it
		require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		require.NoError(t, unix.Mount("tmpfs", folder, "tmpfs", 0, ""))
		fn()
	}()
	<-done
}

func TestBadReferences(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, ref := range []string{"", ".", "..", "none", "a\x00b", "/no/such", file, "/proc/self/ns/mnt", "4194305", "99999999999", "-1"} {
		_, err := device.ResolveNetNS(ref)
		require.ErrorIs(t, err, device.ErrNoNetNS, ref)
	}
}

func TestClosedNamespace(t *testing.T) {
	ns, err := device.CurrentNetNS()
	require.NoError(t, err)
	ran := false
	require.NoError(t, ns.Do(func() error { ran = true; return nil }))
	require.True(t, ran)
	require.NoError(t, ns.Close())
	require.NoError(t, ns.Close())
	require.ErrorIs(t, ns.Do(func() error { return nil }), os.ErrClosed)
}

func TestMissingPrivilegesAreNamed(t *testing.T) {
	h, err := labtest.New(t).Host("a")
	require.NoError(t, err)
	cmd := h.Command(t.Context(), "/proc/self/exe", fmt.Sprint(os.Getpid()))
	cmd.Env = append(os.Environ(), childVariable+"=powerless")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER} // with no rights outside of it
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENOSPC) {
		t.Skip("this system does not let us make user namespaces:", err)
	}
	require.NoError(t, err, string(out))
	for line := range strings.Lines(string(out)) {
		require.Contains(t, line, "CAP_NET_ADMIN")
	}
}

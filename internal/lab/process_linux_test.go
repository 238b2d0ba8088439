package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// childVariable in the environment turns the test binary into one of the children.
const childVariable = "OVERWEAVE_LAB_TEST_CHILD"

var children = map[string]func(args []string) int{
	"devices": childDevices,
	"fail":    func([]string) int { fmt.Fprintln(os.Stderr, "failing"); return 3 },
	"wait":    func([]string) int { fmt.Println("waiting"); return waitForever() },
	"hold":    childHold,
	"reexec":  childReexec,
	"locked":  childLocked,
}

func childCommand(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	return cmd
}

// childOf returns a command that runs a child in a namespace.
func childOf(t *testing.T, ns *lab.Namespace, name string, args ...string) *lab.Cmd {
	cmd := ns.Command(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	return cmd
}

// childDevices prints the devices of its namespace, or of the one that is named.
func childDevices(args []string) int {
	print := func() error {
		devices, err := net.Interfaces()
		must(err)
		var names []string
		for _, d := range devices {
			names = append(names, d.Name)
		}
		slices.Sort(names)
		fmt.Println(strings.Join(names, " "))
		return nil
	}
	if len(args) == 0 {
		must(print())
		return 0
	}
	ns, err := device.OpenNetNS(args[0])
	must(err)
	must(ns.Do(print))
	return 0
}

func TestPathIsGoodForOtherProcesses(t *testing.T) {
	hosts, _ := onSwitch(t, labtest.New(t), "a")
	out, err := childCommand("devices", hosts[0].Path()).Output()
	require.NoError(t, err)
	require.Equal(t, "eth0 lo\n", string(out))
}

func TestCommandsEndWithTheirContextAndWithTheLab(t *testing.T) {
	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var ended []*lab.Cmd
	for _, ctx := range []context.Context{ctx, t.Context()} {
		cmd := h.Command(ctx, "/proc/self/exe")
		cmd.Env = append(os.Environ(), childVariable+"=wait")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.Equal(t, "waiting", readLine(t, out))
		ended = append(ended, cmd)
	}
	cancel()
	require.Error(t, ended[0].Wait())
	require.Nil(t, ended[1].ProcessState)
	require.NoError(t, l.Close())
	require.NotNil(t, ended[1].ProcessState)
	require.ErrorContains(t, ended[1].Wait(), "killed")
}

// childHold makes a lab, connects it to a namespace of its parent, and waits to be killed.
func childHold(args []string) int {
	l, err := lab.New()
	must(err)
	h, err := l.Host("a")
	must(err)
	_, err = h.Container("a1")
	must(err)
	observer, err := device.OpenNetNS(args[0])
	must(err)
	must(h.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "out"
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = "in", netlink.NsFd(observer.Fd())
		return netlink.LinkAdd(veth)
	}))
	cmd := h.Command(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"=wait")
	cmd.Stdin, _ = io.Pipe()
	must(cmd.Start())
	fmt.Println(cmd.Process.Pid)
	return waitForever()
}

// waitForever waits in the kernel: where nothing but goroutines waits the runtime ends the process.
func waitForever() int {
	for {
		_ = unix.Pause()
	}
}

// The veth end in the observer vanishes when the namespace of the other end ceases to be.
//
//	observer --- (lab of a child process: host a, container a1, a running command)
func TestNothingOutlivesAKilledProcess(t *testing.T) {
	observer, err := labtest.New(t).Host("observer")
	require.NoError(t, err)
	cmd := childCommand("hold", observer.Path())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	_, err = fmt.Sscan(readLine(t, out), &pid)
	require.NoError(t, err)
	require.True(t, hasDevice(t, observer, "in"))
	grandchild, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	defer unix.Close(grandchild)

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	requireEnded(t, grandchild)
	require.Eventually(t, func() bool { return !hasDevice(t, observer, "in") }, patience, time.Millisecond)
}

func hasDevice(t *testing.T, h *lab.Host, name string) (has bool) {
	require.NoError(t, h.Do(func() error {
		_, err := netlink.LinkByName(name)
		has = err == nil
		return nil
	}))
	return has
}

// requireEnded waits until the process behind a descriptor has ended.
func requireEnded(t *testing.T, pidfd int) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(patience.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			require.NoError(t, err)
			require.Equal(t, 1, n, "the process still runs")
			return
		}
	}
}

// childReexec is a program as it should be written, which ends with 7 when it is asked to stop.
func childReexec([]string) int {
	code, done, err := lab.Reexec()
	must(err)
	if done {
		return code
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	must(lab.Check())
	fmt.Println(os.Getpid(), os.Getuid())
	<-stop
	return 7
}

// startWithoutRights starts a command that has no right to make network namespaces, but may make user namespaces.
func startWithoutRights(t *testing.T, cmd *exec.Cmd) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, spoilt as it is
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
			result <- err
			return
		}
		result <- cmd.Start()
	}()
	require.NoError(t, <-result)
}

// startReexec starts a program that has to be re-executed, and returns a descriptor of the second process.
func startReexec(t *testing.T) (cmd *exec.Cmd, second int) {
	labtest.Require(t)
	requireUserNamespaces(t)
	cmd = childCommand("reexec")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, "OVERWEAVE_LAB_REEXEC=") })
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	startWithoutRights(t, cmd)
	var pid, uid int
	_, err = fmt.Sscan(readLine(t, out), &pid, &uid)
	require.NoError(t, err)
	require.Zero(t, uid)
	require.NotEqual(t, cmd.Process.Pid, pid)
	second, err = unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(second) })
	return cmd, second
}

func requireUserNamespaces(t *testing.T) {
	cmd := childCommand("devices")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	if err := cmd.Run(); err != nil {
		t.Skip("this system does not let us make user namespaces:", err)
	}
}

func TestReexecPassesSignalsAndExitCodeOn(t *testing.T) {
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		cmd, second := startReexec(t)
		require.NoError(t, cmd.Process.Signal(sig))
		require.ErrorContains(t, cmd.Wait(), "exit status 7")
		requireEnded(t, second)
	}
	cmd, second := startReexec(t)
	require.NoError(t, unix.PidfdSendSignal(second, unix.SIGKILL, nil, 0))
	require.ErrorContains(t, cmd.Wait(), "exit status 137")
}

func TestReexecedProcessDiesWithTheFirst(t *testing.T) {
	cmd, second := startReexec(t)
	require.NoError(t, cmd.Process.Kill())
	require.ErrorContains(t, cmd.Wait(), "killed")
	requireEnded(t, second)
}

// An ordinary user runs tests of this file as root runs them.
func TestOrdinaryUser(t *testing.T) {
	if os.Getenv("OVERWEAVE_LAB_REEXEC") != "" {
		t.Skip("all tests run as an ordinary user here")
	}
	labtest.Require(t)
	requireUserNamespaces(t)
	out, err := asNobody(t, "-test.v", "-test.run=TestCut|TestHosts|TestLinks|TestNothing|TestClose|TestCommands|TestPath").CombinedOutput()
	require.NoError(t, err, string(out))
	for _, name := range []string{"TestCutLosesEverythingAndHealBringsItBack", "TestNothingOutlivesAKilledProcess"} {
		require.Contains(t, string(out), "--- PASS: "+name)
	}
	require.NotContains(t, string(out), "--- SKIP")
}

// asNobody returns a command that runs this binary as a user without any rights.
func asNobody(t *testing.T, args ...string) *exec.Cmd {
	dir, err := os.MkdirTemp("", "overweave-lab")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "lab.test")
	program, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, program, 0o755))
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"OVERWEAVE_REQUIRE_LAB=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

// childLocked finds itself in a user namespace in which no more namespaces may be made.
func childLocked([]string) int {
	for _, kind := range []string{"user", "net"} {
		must(os.WriteFile("/proc/sys/user/max_"+kind+"_namespaces", []byte("0"), 0))
	}
	_, done, err := lab.Reexec()
	if _, again := lab.New(); done || !errors.Is(err, lab.ErrNotPermitted) || !errors.Is(again, lab.ErrNotPermitted) {
		fmt.Fprintln(os.Stderr, "unexpected:", done, err, again)
		return 1
	}
	fmt.Println(err)
	return 0
}

func TestNotPermittedIsOneSentence(t *testing.T) {
	requireUserNamespaces(t)
	cmd := childCommand("locked")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.Equal(t, 1, strings.Count(string(out), "\n"), "one line")
	require.Contains(t, string(out), lab.ErrNotPermitted.Error())
}

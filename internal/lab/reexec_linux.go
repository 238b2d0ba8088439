package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

func check() error {
	t := startThread()
	defer t.stop()
	ns, err := t.newNetNS()
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrNotPermitted, err)
	}
	defer ns.Close()
	if err := ns.Do(loopbackUp); err != nil {
		return fmt.Errorf("%w (%w)", ErrNotPermitted, err)
	}
	return nil
}

func reexec() (code int, done bool, err error) {
	if slices.Contains(os.Environ(), reexecMark) {
		return 0, false, fmt.Errorf("%w (this system gives no rights inside user namespaces)", ErrNotPermitted)
	}
	// The signal for the death of a parent is tied to the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)

	cmd := inUserNamespace()
	if err := cmd.Start(); err != nil {
		return 0, false, fmt.Errorf("%w (%w)", ErrNotPermitted, err)
	}
	ended := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case sig := <-signals:
				_ = cmd.Process.Signal(sig) // it may have ended meanwhile
			case <-ended:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-forwarded
	return exitCode(cmd.ProcessState, err)
}

// inUserNamespace returns the command that is this program again, as root of its own small world.
func inUserNamespace() *exec.Cmd {
	return &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   os.Args,
		Env:    append(os.Environ(), reexecMark),
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
			Setpgid:     true, // else a terminal interrupts both processes, and the signal passed on is the second one
		},
	}
}

func exitCode(state *os.ProcessState, err error) (code int, done bool, _ error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, false, err
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), true, nil
	}
	return state.ExitCode(), true, nil
}

// dieWithParent has a command killed when the thread that starts it ends.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	}
}

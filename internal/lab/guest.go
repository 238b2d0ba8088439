package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

const (
	// guestVariable names an executable that is to be the guest, or has qemuGuest.
	guestVariable = "OVERWEAVE_GUEST"
	qemuGuest     = "qemu"
	// sharedGuest is where a guest may lie, seen from the root of the module.
	sharedGuest = "../shared/lab/guest"
)

// GuestMark is in the environment of whatever runs in a guest.
const GuestMark = "OVERWEAVE_IN_GUEST=1"

// ErrNoGuest says that there is no guest kernel, and how to get one.
var ErrNoGuest = errors.New("there is no guest kernel: install qemu-system-x86 and linux-image-amd64 " +
	"(`go run ./internal/lab/setup` does, as root on Debian), or name a guest by " + guestVariable + ", and test with -count=1")

// Guest is a way to run commands on another kernel, with the files of this machine. It is safe for concurrent use: each
// command has a kernel for itself.
type Guest struct {
	name   string
	launch func(GuestCommand) (*GuestProcess, error)
}

// GuestCommand is what a guest is to do.
type GuestCommand struct {
	// Args are the path of a program and its arguments. It runs as root, in our working directory.
	Args []string
	// Env is its environment; nil means ours.
	Env []string
	// Stdout is where its output and its errors go; it is to be a pipe or a file. Nothing is read from our standard input.
	Stdout *os.File
	// BootArgs are arguments with which this program comes to call [Boot]: it may have to be the first process of the guest.
	BootArgs []string
}

// GuestProcess is a guest that runs a command. It is used by one goroutine.
type GuestProcess struct {
	cmd    *exec.Cmd
	files  []*os.File             // open until Wait
	status func(int) (int, error) // the exit code of the command from that of the process
}

// InGuest reports whether this process runs in a guest.
func InGuest() bool { return slices.Contains(os.Environ(), GuestMark) }

// Guests returns the guests that there are, the best first: the executable that OVERWEAVE_GUEST names, or what it means by "qemu", and
// then no other; the executable lab/guest in a folder "shared" beside the module; qemu with the kernel of a distribution's package. Such an
// executable is called with a command as its arguments, runs it as root in a kernel that has the files of this machine, our
// working directory and our environment, and has its output and exit code. The error wraps [ErrNoGuest] if there is none.
func Guests() ([]Guest, error) {
	named := os.Getenv(guestVariable)
	if named != "" && named != qemuGuest {
		return []Guest{executable(named)}, nil
	}
	var found []Guest
	if path, err := filepath.Abs(filepath.Join(moduleRoot(), sharedGuest)); err == nil && named == "" {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			found = append(found, executable(path))
		}
	}
	qemu, err := findQemu()
	switch {
	case err == nil:
		found = append(found, qemu)
	case len(found) == 0:
		return nil, fmt.Errorf("%w (%w)", ErrNoGuest, err)
	}
	return found, nil
}

// moduleRoot returns the folder with go.mod that we are in or below, else the folder that we are in.
func moduleRoot() string {
	here, _ := os.Getwd()
	for dir := here; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return here
		}
	}
}

// executable returns the guest that a program makes.
func executable(path string) Guest {
	launch := func(c GuestCommand) (*GuestProcess, error) {
		cmd := exec.Command(path, c.Args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, c.Stdout, c.Stdout
		p := &GuestProcess{cmd: cmd, status: func(code int) (int, error) { return code, nil }}
		return p, cmd.Start()
	}
	return Guest{name: path, launch: launch}
}

// String returns what the guest is made with.
func (g Guest) String() string { return g.name }

// Start boots the guest and has it run a command. If there is no error, the process is to be waited for, unless this process
// ends before.
func (g Guest) Start(c GuestCommand) (*GuestProcess, error) {
	if c.Env == nil {
		c.Env = os.Environ()
	}
	c.Env = append(c.Env[:len(c.Env):len(c.Env)], GuestMark)
	p, err := g.launch(c)
	if err != nil {
		return nil, fmt.Errorf("guest kernel by %s: %w", g, err)
	}
	return p, nil
}

// Kill ends the guest, as far as that is possible from outside.
func (p *GuestProcess) Kill() { _ = p.cmd.Process.Kill() }

// Wait waits for the end of the guest and returns the exit code of the command.
func (p *GuestProcess) Wait() (code int, err error) {
	defer func() {
		for _, f := range p.files {
			_ = f.Close()
		}
	}()
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return p.status(p.cmd.ProcessState.ExitCode())
}

// ReexecOnKernel makes sure that this program runs on a kernel that has the features. If it does, or runs in a guest already,
// done is false and the program goes on. Else it runs the program once more in a guest, with the same arguments, and waits for
// it: then done is true, and code is what this process is to exit with. Call it first thing in main.
func ReexecOnKernel(features ...Feature) (code int, done bool, err error) {
	Boot()
	missing := Missing(features...)
	if missing == nil || InGuest() {
		return 0, false, missing
	}
	guests, err := Guests()
	if err != nil {
		return 0, false, fmt.Errorf("%w; %w", missing, err)
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	p, err := guests[0].Start(GuestCommand{Args: append([]string{self}, os.Args[1:]...), Stdout: os.Stdout})
	if err != nil {
		return 0, false, err
	}
	code, err = p.Wait()
	return code, err == nil, err
}

// Missing returns why the running kernel does not do for all the features, nil if it does.
func Missing(features ...Feature) error {
	var errs []error
	for _, f := range features {
		errs = append(errs, f.Probe())
	}
	return errors.Join(errs...)
}

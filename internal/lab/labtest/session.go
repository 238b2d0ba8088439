package labtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

const (
	// serveVariable is in the environment of the process that runs tests in a guest, and names the folder with requests.
	serveVariable = "OVERWEAVE_LAB_SERVE"

	bootFor   = 5 * time.Minute // a processor that is emulated takes its time
	idleFor   = 3 * time.Second
	pollEvery = 5 * time.Millisecond

	maxGuests = 3 // for one test

	maxPrinted = 4 << 10 // of what a guest prints; of interest if it fails

	readyFile = "ready" // appears when the guest serves
)

var (
	// errGone says that the guest ended, before it had begun with a request unless it is errBegun too.
	errGone  = errors.New("the guest has ended")
	errBegun = errors.New("while the test ran")
)

// request is a test to run in a guest: arguments of this program, its environment and its folder.
type request struct {
	Args, Env []string
	Dir       string
}

// guests are those that the tests of this process share. They are package state because tests share nothing else.
var guests pool

// pool is at most one running guest of each kind, which is booted when it is needed.
type pool struct {
	mu      sync.Mutex // held while a test runs in a guest
	running map[string]*session
	dead    map[string]error // why those did not boot that will not be tried again
	lacks   map[string]error // by guest and needs, why tests were not run there
}

// run runs a test in the first guest that boots and has what the test needs. It returns what it printed and its exit code. The error
// wraps [lab.ErrNoFeature] if all lack something.
func (p *pool) run(t *testing.T, needs []lab.Feature, r request) (output string, code int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running, p.dead, p.lacks = map[string]*session{}, map[string]error{}, map[string]error{}
	}
	candidates, err := lab.Guests()
	if err != nil {
		return "", 0, err
	}
	var why []error
	for _, guest := range candidates {
		place := fmt.Sprint(guest, needs)
		if p.lacks[place] == nil {
			output, code, err = p.runIn(t, guest, r)
			what := lacking(output)
			if err == nil && what == "" || err != nil && p.dead[guest.String()] == nil {
				return output, code, err
			}
			if err == nil {
				err = fmt.Errorf("%v: %w: %s", guest, lab.ErrNoFeature, what)
			}
			p.lacks[place] = err
		}
		why = append(why, p.lacks[place])
	}
	return "", 0, errors.Join(why...)
}

// runIn runs a test in a guest, which is booted if it does not run. If the guest ends the test is run again in a new one, since
// guests have faults of their own; a test that ends them all has one itself.
func (p *pool) runIn(t *testing.T, guest lab.Guest, r request) (output string, code int, err error) {
	for range maxGuests {
		s, err := p.session(t, guest)
		if err != nil {
			return "", 0, err
		}
		output, code, err = s.run(t, r)
		if !errors.Is(err, errGone) {
			return output, code, err
		}
		p.close(guest)
		if errors.Is(err, errBegun) {
			t.Logf("%v\n%s", err, output)
		}
	}
	return output, 0, fmt.Errorf("%d guests have ended", maxGuests)
}

// session returns the running guest, which is booted if it does not run.
func (p *pool) session(t *testing.T, guest lab.Guest) (s *session, err error) {
	name := guest.String()
	if err := p.dead[name]; err != nil {
		return nil, err
	}
	if s := p.running[name]; s != nil {
		return s, nil
	}
	if s, err = start(t, guest); err != nil {
		p.dead[name] = err
		return nil, err
	}
	p.running[name] = s
	return s, nil
}

func (p *pool) close(guest lab.Guest) {
	name := guest.String()
	_ = p.running[name].close() // it has ended already
	delete(p.running, name)
}

// session is a guest that runs tests one after another. It is asked and answers by files in a folder, which the guest sees as
// we do; what it prints, some guests hold back until they end. No goroutine serves it, so that tests can look for goroutines
// that they left behind.
type session struct {
	guest *lab.GuestProcess
	pipe  *os.File // what the guest prints; it ends with the guest
	dir   string
	asked int
}

func start(t *testing.T, guest lab.Guest) (*session, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "overweave-lab")
	if err != nil {
		return nil, err
	}
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	top, _, _ := strings.Cut(t.Name(), "/")
	reach := "-test.run=" + pattern(top)
	s := &session{pipe: in, dir: dir}
	s.guest, err = guest.Start(lab.GuestCommand{
		Args:     []string{self, reach, "-test.timeout=0"},
		Env:      append(os.Environ(), serveVariable+"="+dir),
		Stdout:   out,
		BootArgs: []string{reach},
	})
	if err != nil {
		return nil, errors.Join(err, in.Close(), os.RemoveAll(dir))
	}
	deadline := time.Now().Add(bootFor)
	if end, ok := t.Deadline(); ok && end.Before(deadline) {
		deadline = time.Now().Add(time.Until(end) * 9 / 10) // so that we end the guest before we are ended
	}
	if err := s.until(readyFile, deadline); err != nil {
		return nil, fmt.Errorf("%v: %w", guest, errors.Join(err, s.close()))
	}
	return s, nil
}

// run has the guest run a test.
func (s *session) run(t *testing.T, r request) (output string, code int, err error) {
	n := s.asked
	s.asked++
	if err := leave(s.dir, name(n, "request"), r); err != nil {
		return "", 0, fmt.Errorf("%w: %w", errGone, err)
	}
	deadline, _ := t.Deadline()
	gone := s.until(name(n, "result"), deadline)
	printed, err := os.ReadFile(filepath.Join(s.dir, name(n, "output")))
	if gone != nil && err == nil {
		return string(printed), 0, fmt.Errorf("%w: %w", errBegun, gone)
	}
	if err := errors.Join(gone, err); err != nil {
		return "", 0, err
	}
	return string(printed), code, read(s.dir, name(n, "result"), &code)
}

// until waits for a file to appear, until a time unless it is zero. The error wraps errGone if the guest ends before.
func (s *session) until(file string, deadline time.Time) error {
	var printed []byte
	buf := make([]byte, maxPrinted)
	for deadline.IsZero() || time.Now().Before(deadline) {
		if _, err := os.Stat(filepath.Join(s.dir, file)); err == nil {
			return nil
		}
		if err := s.pipe.SetReadDeadline(time.Now().Add(pollEvery)); err != nil {
			return err
		}
		n, err := s.pipe.Read(buf)
		printed = append(printed, buf[:n]...)
		printed = printed[max(0, len(printed)-maxPrinted):]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w: %s", errGone, printed)
		}
	}
	return fmt.Errorf("%w: the guest says nothing: %s", os.ErrDeadlineExceeded, printed)
}

// close ends the guest, and returns an error if it had none of its own to end.
func (s *session) close() error {
	s.guest.Kill()
	_, err := s.guest.Wait()
	_ = s.pipe.Close()
	_ = os.RemoveAll(s.dir)
	return err
}

// name returns the name of a file about the n-th test.
func name(n int, what string) string { return fmt.Sprintf("%d.%s", n, what) }

// leave writes a file for the other side. It appears there at once and whole.
func leave(dir, file string, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	whole := filepath.Join(dir, file+".partial")
	if err := os.WriteFile(whole, data, 0o600); err != nil {
		return err
	}
	return os.Rename(whole, filepath.Join(dir, file))
}

// read reads what the other side left.
func read(dir, file string, content any) error {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, content)
}

// enterGuest makes this process what it was started for in a guest, if it was, and does not return then.
func enterGuest() {
	lab.Boot()
	dir := os.Getenv(serveVariable)
	if dir == "" {
		return
	}
	err := serve(dir)
	_ = os.RemoveAll(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs tests as they are asked for, until nobody does for a while: then whoever could has ended, or can boot another.
func serve(dir string) error {
	if err := leave(dir, readyFile, nil); err != nil {
		return err
	}
	for n := 0; ; n++ {
		var r request
		err := await(dir, name(n, "request"), &r)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		code, err := perform(r, filepath.Join(dir, name(n, "output")))
		if err != nil {
			return err
		}
		if err := leave(dir, name(n, "result"), code); err != nil {
			return err
		}
	}
}

// perform runs a test, whose output goes into a file, and returns its exit code.
func perform(r request, output string) (code int, err error) {
	out, err := os.Create(output)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", r.Args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = append(r.Env, lab.GuestMark), r.Dir, out, out
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, errors.Join(err, out.Close())
	}
	return cmd.ProcessState.ExitCode(), errors.Join(out.Sync(), out.Close())
}

// await waits for a request. The error wraps [os.ErrNotExist] if there is none for long.
func await(dir, file string, r *request) (err error) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for range idleFor / pollEvery {
		if err = read(dir, file, r); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		<-poll.C
	}
	return err
}

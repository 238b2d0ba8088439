package labtest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

// RequireOpenVSwitch is [RequireKernel] for tests that need the datapath of Open vSwitch.
func RequireOpenVSwitch(t *testing.T) (here bool) {
	t.Helper()
	return RequireKernel(t, lab.OpenVSwitch)
}

// RequireKernel has a test run on a kernel with the features. Call it first thing in the test:
//
//	if !labtest.RequireKernel(t, lab.Netem) {
//		return
//	}
//
// If the running kernel has them it returns true. Else this test, found by its name, runs in the first guest kernel (see
// [lab.Guests]) that has them, as a process of its own with the same flags and environment; its output is logged, it fails or is
// skipped here if it is there, and RequireKernel returns false. Tests share a guest, and so what they leave in its kernel. A guest
// ends a few seconds after it was last needed.
//
// Where there is no guest either the test is skipped, or fails if the environment says OVERWEAVE_REQUIRE_LAB=1.
func RequireKernel(t *testing.T, features ...lab.Feature) (here bool) {
	t.Helper()
	enterGuest()
	missing := lab.Missing(features...)
	switch {
	case missing == nil:
		return true
	case lab.InGuest():
		fmt.Println(lacksMark + strings.ReplaceAll(missing.Error(), "\n", "; "))
		t.SkipNow()
	case raceEnabled:
		Unavailable(t, fmt.Errorf("%w, and a guest has no race detector", missing))
	}
	output, code, err := guests.run(t, features, request{Args: arguments(t), Env: os.Environ(), Dir: folder(t)})
	if len(output) > 0 {
		t.Logf("in a guest kernel:\n%s", output)
	}
	if errors.Is(err, lab.ErrNoGuest) || errors.Is(err, lab.ErrNoFeature) {
		Unavailable(t, err)
	}
	if err != nil {
		t.Fatal("in a guest kernel: ", err)
	}
	judge(t, output, code)
	return false
}

// RequireTool has a test that needs a program of another project skipped where that is not installed, or fail if the environment says
// OVERWEAVE_REQUIRE_LAB=1; also when the test runs in a guest. It returns the program's path.
func RequireTool(t testing.TB, program, debianPackage string) (path string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Unavailable(t, fmt.Errorf("%w (Debian has it in the package %s)", err, debianPackage))
	}
	return path
}

// lacksMark begins the line by which a test says outside that its guest's kernel does not do.
const lacksMark = "labtest: this guest lacks "

// lacking returns what a test found missing in its guest, "" if nothing was.
func lacking(output string) string {
	for line := range strings.Lines(output) {
		if what, ok := strings.CutPrefix(line, lacksMark); ok {
			return strings.TrimSpace(what)
		}
	}
	return ""
}

// Unavailable ends a test for which something is missing on this machine: it is skipped, or fails if the environment says
// OVERWEAVE_REQUIRE_LAB=1.
func Unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv(requireVariable) == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// judge gives the test the result that it had in the guest.
func judge(t *testing.T, output string, code int) {
	t.Helper()
	switch {
	case code != 0:
		t.Fatalf("it failed in the guest kernel, with exit code %d", code)
	case hasResult(output, "SKIP", t.Name()):
		t.Skip("it was skipped in the guest kernel")
	case !hasResult(output, "PASS", t.Name()):
		t.Fatal("it was not seen to run in the guest kernel")
	}
}

// hasResult reports whether the output of a test has its result.
func hasResult(output, result, name string) bool {
	for line := range strings.Lines(output) {
		if strings.HasPrefix(strings.TrimSpace(line), "--- "+result+": "+name+" (") {
			return true
		}
	}
	return false
}

// passedOn are the flags of go test that mean the same in the guest. Others write files, or choose tests.
var passedOn = [...]string{"test.short", "test.parallel", "test.cpu", "test.shuffle"}

// arguments returns the arguments with which this program runs just this test, and gives up before we do.
func arguments(t *testing.T) []string {
	args := []string{"-test.v", "-test.count=1", "-test.run=" + pattern(t.Name())}
	if deadline, ok := t.Deadline(); ok {
		left := time.Until(deadline)
		args = append(args, fmt.Sprintf("-test.timeout=%v", max(left-left/10, time.Second)))
	}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") || slices.Contains(passedOn[:], f.Name) {
			args = append(args, fmt.Sprintf("-%s=%v", f.Name, f.Value))
		}
	})
	return append(args, flag.Args()...)
}

// pattern returns what -test.run wants for exactly one test.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

func folder(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

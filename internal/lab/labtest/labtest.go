// Package labtest gives tests a lab.
package labtest

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/overweave/overweave/internal/lab"
)

// requireVariable is set to 1 where skipped tests are failed tests.
const requireVariable = "OVERWEAVE_REQUIRE_LAB"

// Enter has the test binary run in a user namespace if that is needed to make labs and is allowed; then it does not return.
// Call it first in TestMain. Where there can be no lab the tests run all the same: those that need one skip themselves, and
// examples, which cannot, are left out.
func Enter() {
	enterGuest()
	code, done, err := lab.Reexec()
	if done {
		os.Exit(code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "no lab:", err)
		_ = flag.Set("test.skip", "^Example") // the flag exists in every test
	}
}

// Main is a TestMain that does nothing else.
func Main(m *testing.M) {
	Enter()
	os.Exit(m.Run())
}

// Require skips the test, or fails it if the environment says OVERWEAVE_REQUIRE_LAB=1, if there can be no lab.
func Require(t testing.TB) {
	t.Helper()
	enterGuest()
	if err := lab.Check(); err != nil {
		Unavailable(t, err)
	}
}

// New returns a lab that is closed at the end of the test.
func New(t testing.TB) *lab.Lab {
	t.Helper()
	Require(t)
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	return l
}

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
)

// actVariable makes the test binary act as weaver, so that tests with real processes need no other binary.
const actVariable = "WEAVER_TEST_ACT"

func TestMain(m *testing.M) {
	if os.Getenv(actVariable) != "" {
		main()
		return
	}
	labtest.Main(m)
}

// weaverPath returns the path of a program that acts as weaver when it is run from this test.
func weaverPath(t *testing.T) string {
	t.Helper()
	t.Setenv(actVariable, "1")
	self, err := os.Executable()
	require.NoError(t, err)
	return self
}

// run runs a command and returns what it wrote and its exit code.
func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		require.True(t, errors.As(err, new(*exec.ExitError)), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// waitFor waits until something of another process has happened.
func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	require.Eventually(t, what, 20*time.Second, 10*time.Millisecond)
}

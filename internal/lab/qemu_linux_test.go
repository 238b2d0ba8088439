package lab_test

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// The guest that anybody can have runs commands: with our files, folder and environment, and their output and exit code come out.
func TestQemuRunsCommands(t *testing.T) {
	labtest.RequireTool(t, "qemu-system-x86_64", "qemu-system-x86")
	t.Setenv("OVERWEAVE_GUEST", "qemu")
	guests, err := lab.Guests()
	if err != nil {
		labtest.Unavailable(t, err)
	}
	require.Len(t, guests, 1)
	here, err := os.Getwd()
	require.NoError(t, err)
	release, err := exec.Command("uname", "-r").Output()
	require.NoError(t, err)
	script := "test $(uname -r) != " + strings.TrimSpace(string(release)) + " && pwd && echo $WORD && echo to stderr >&2 && id -u && exit 7"
	runs := []*guestRun{
		{args: []string{"/bin/true"}},
		{args: []string{"/bin/sh", "-c", script}, code: 7, output: here + "\nas given\nto stderr\n0\n"},
	}
	for _, r := range runs {
		r.start(t, guests[0])
	}
	for _, r := range runs {
		r.check(t)
	}
}

// guestRun is a command in a guest of its own, and what is to come of it.
type guestRun struct {
	args   []string
	code   int
	output string

	guest *lab.GuestProcess
	pipe  *os.File
}

func (r *guestRun) start(t *testing.T, g lab.Guest) {
	in, out, err := os.Pipe()
	require.NoError(t, err)
	r.guest, err = g.Start(lab.GuestCommand{Args: r.args, Env: append(os.Environ(), "WORD=as given"), Stdout: out})
	require.NoError(t, err)
	require.NoError(t, out.Close())
	r.pipe = in
	t.Cleanup(func() { require.NoError(t, in.Close()) })
}

func (r *guestRun) check(t *testing.T) {
	t.Helper()
	printed, err := io.ReadAll(r.pipe)
	require.NoError(t, err)
	code, err := r.guest.Wait()
	require.NoError(t, err, "%s", printed)
	require.Equal(t, r.code, code, "%s", r.args)
	require.Equal(t, r.output, string(printed))
}

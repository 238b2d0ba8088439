package labtest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

func TestRequireOpenVSwitch(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	family, err := netlink.GenlFamilyGet("ovs_flow")
	require.NoError(t, err)
	require.NotZero(t, family.ID)
}

func TestRequireEveryFeature(t *testing.T) {
	for _, f := range []lab.Feature{lab.OpenVSwitch, lab.ESP, lab.Netem, lab.Geneve} {
		t.Run(string(f), func(t *testing.T) {
			if !labtest.RequireKernel(t, f) {
				return
			}
			require.NoError(t, f.Probe())
		})
	}
}

// trialVariable turns on a test that is no good in itself: what comes of it is looked at from outside.
const trialVariable = "OVERWEAVE_LAB_TRIAL"

// TestTrial needs a guest where the machine lacks netem, and then does what it is told.
func TestTrial(t *testing.T) {
	trial := os.Getenv(trialVariable)
	if trial == "" {
		t.Skip("runs as part of other tests only")
	}
	if !labtest.RequireKernel(t, lab.Netem) {
		return
	}
	fmt.Println("trial", trial, "in guest", lab.InGuest(), "short", testing.Short())
	switch trial {
	case "fail":
		t.Error("as told")
	case "panic":
		panic("as told")
	case "exit":
		os.Exit(7)
	case "skip":
		t.Skip("as told")
	case "crash":
		endGuest(t)
	case "crash once":
		f, err := os.OpenFile(os.Getenv(markVariable), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_ = f.Close()
			endGuest(t)
		}
		require.ErrorIs(t, err, os.ErrExist)
	}
}

// markVariable names the file by which a trial knows that it is not the first.
const markVariable = "OVERWEAVE_LAB_MARK"

// endGuest ends the guest kernel that the test runs in.
func endGuest(t *testing.T) {
	require.True(t, lab.InGuest())
	require.NoError(t, unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	for {
		_ = unix.Pause()
	}
}

// runTrial runs the trial in a process of its own and returns what it printed, and its exit code.
func runTrial(t *testing.T, trial string, env ...string) (output string, code int) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^TestTrial$", "-test.short")
	cmd.Env = append(append(os.Environ(), trialVariable+"="+trial), env...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// needsGuest skips a test where the trial would not run in a guest.
func needsGuest(t *testing.T) {
	if lab.Missing(lab.Netem) == nil {
		t.Skip("this kernel has what the trial needs")
	}
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("a guest has no race detector")
	}
}

func TestResultsComeOutOfTheGuest(t *testing.T) {
	needsGuest(t)
	if _, err := lab.Guests(); err != nil {
		labtest.RequireKernel(t, lab.Netem) // says so
		return
	}
	for _, c := range []struct {
		trial, result string
		code          int
		said          string
	}{
		{"pass", "PASS", 0, "trial pass in guest true short true"},
		{"fail", "FAIL", 1, "as told"},
		{"panic", "FAIL", 1, "panic: as told"},
		{"exit", "FAIL", 1, "exit code 7"},
		{"skip", "SKIP", 0, "as told"},
	} {
		t.Run(c.trial, func(t *testing.T) {
			out, code := runTrial(t, c.trial)
			require.Equal(t, c.code, code, out)
			require.Regexp(t, `(?m)^--- `+c.result+`: TestTrial `, out)
			require.Contains(t, out, c.said)
		})
	}
}

// TestGuestEnds: a test whose guest ends runs in another one; a test that ends its guest always has failed.
func TestGuestEnds(t *testing.T) {
	needsGuest(t)
	if _, err := lab.Guests(); err != nil {
		labtest.RequireKernel(t, lab.Netem) // says so
		return
	}
	out, code := runTrial(t, "crash once", markVariable+"="+filepath.Join(t.TempDir(), "mark"))
	require.Zero(t, code, out)
	require.Contains(t, out, "while the test ran: the guest has ended")
	require.Contains(t, out, "--- PASS: TestTrial")
	out, code = runTrial(t, "crash")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "3 guests have ended")
}

func TestGuestThatIsNamedMustBeThere(t *testing.T) {
	needsGuest(t)
	out, code := runTrial(t, "pass", "OVERWEAVE_GUEST=/nowhere/guest", "OVERWEAVE_REQUIRE_LAB=")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "/nowhere/guest")
}

func TestMissingGuestSkipsOrFails(t *testing.T) {
	needsGuest(t)
	for required, result := range map[string]string{"": "SKIP", "1": "FAIL"} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^TestTrial$")
		cmd.Dir = t.TempDir() // in no module, so there is no shared folder beside it
		cmd.Env = append(os.Environ(), trialVariable+"=pass", "PATH=/nowhere", "OVERWEAVE_GUEST=", "OVERWEAVE_REQUIRE_LAB="+required)
		out, _ := cmd.CombinedOutput()
		require.Regexp(t, `(?m)^--- `+result+`: TestTrial `, string(out))
		reason := regexp.MustCompile(`.*` + regexp.QuoteMeta(lab.ErrNoGuest.Error()) + `.*`).FindString(string(out))
		require.NotEmpty(t, reason, string(out))
		require.Contains(t, reason, "qemu-system-x86")
	}
}

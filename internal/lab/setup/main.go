// Command setup gets what tests need that Go does not bring: a guest kernel, for which it installs qemu and a kernel package where there
// is none yet, and the tools of Open vSwitch, which judge what we do. It takes root on Debian or its like. It says what it does, and
// fails if afterwards something is still missing.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/overweave/overweave/internal/lab"
)

func main() {
	if err := setup(); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func setup() error {
	packages, why := missing()
	if packages == nil {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Getuid() != 0 {
		return why
	}
	fmt.Println("installing", strings.Join(packages, ", "), "for tests")
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", args[0], err)
		}
	}
	_, why = missing()
	return why
}

// missing returns the packages of what is not there, and says what that is.
func missing() (packages []string, why error) {
	err := lab.Missing(lab.OpenVSwitch, lab.ESP, lab.Netem, lab.Geneve)
	guests, gerr := lab.Guests()
	switch {
	case err == nil:
		fmt.Println("the running kernel has all that the tests need")
	case gerr == nil:
		fmt.Println("tests that need another kernel use", guests[0])
	default:
		packages, why = []string{"qemu-system-x86", "linux-image-amd64"}, fmt.Errorf("%w; %w", err, gerr)
	}
	if _, err := exec.LookPath("ovs-dpctl"); err != nil {
		packages, why = append(packages, "openvswitch-switch"), errors.Join(why, err)
	}
	return packages, why
}

// Command setup gets a guest kernel for the tests that need one: it installs qemu and a kernel package where there is none
// yet, as root on Debian and its like. It says what it does, and fails if afterwards there is still none.
package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/overweave/overweave/internal/lab"
)

func main() {
	if err := setup(); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func setup() error {
	features := []lab.Feature{lab.OpenVSwitch, lab.ESP, lab.Netem, lab.Geneve}
	missing := lab.Missing(features...)
	if missing == nil {
		fmt.Println("the running kernel has all that the tests need")
		return nil
	}
	if guests, err := lab.Guests(); err == nil {
		fmt.Println("tests that need another kernel use", guests[0])
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Getuid() != 0 {
		return fmt.Errorf("%w; %w", missing, lab.ErrNoGuest)
	}
	fmt.Println("installing qemu-system-x86 and linux-image-amd64, for tests that need another kernel")
	for _, args := range [][]string{
		{"update"},
		{"install", "-y", "--no-install-recommends", "qemu-system-x86", "linux-image-amd64"},
	} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", args[0], err)
		}
	}
	_, err = lab.Guests()
	return err
}

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	rootMount = "/root"
	maxStatus = 125 // what fits into the status of qemu
)

// Boot makes this process the init of a guest, if that is what it was started for, and does not return then; else it does
// nothing. Programs that call [ReexecOnKernel], and tests, have it called for them.
func Boot() {
	if os.Getpid() != 1 || os.Getenv(bootMark) == "" {
		return
	}
	code, err := boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		code = maxStatus
	}
	unix.Sync()
	leave(code)
}

// boot gets to the files of this machine and runs the command.
func boot() (code int, err error) {
	var orders bootOrders
	data, err := os.ReadFile(bootFile)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(data, &orders); err != nil {
		return 0, err
	}
	for _, file := range orders.Modules {
		if err := loadModule(filepath.Join("/", file)); err != nil {
			return 0, fmt.Errorf("module %s: %w", file, err)
		}
	}
	if err := enterRoot(); err != nil {
		return 0, err
	}
	// Of what the kernel does not load by itself when it is used. Without it, some device files are missing.
	_ = exec.Command("/sbin/modprobe", "tun").Run()
	out, err := openOutput("/dev/ttyS1")
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(orders.Args[0], orders.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = orders.Env, orders.Dir, out, out
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, err
	}
	_ = unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1) // waits until all is written
	return min(max(cmd.ProcessState.ExitCode(), 0), maxStatus), nil
}

// loadModule gives a module to the kernel, which unpacks it if need be.
func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}

// enterRoot mounts the files of the machine outside and makes them ours, with file systems of our own where the kernel shows itself.
func enterRoot() error {
	for _, m := range []struct {
		kind, dir, from, data string
		optional              bool
	}{
		{"9p", "", rootTag, "trans=virtio,version=9p2000.L,msize=262144,cache=mmap", false},
		{"proc", "/proc", "proc", "", false},
		{"sysfs", "/sys", "sys", "", false},
		{"devtmpfs", "/dev", "dev", "", false},
		{"devpts", "/dev/pts", "devpts", "", true},
		{"tmpfs", "/dev/shm", "shm", "", true},
		{"tmpfs", "/run", "run", "", false},
	} {
		dir := filepath.Join(rootMount, m.dir)
		if m.optional {
			_ = os.Mkdir(dir, 0o755)
		}
		if err := unix.Mount(m.from, dir, m.kind, 0, m.data); err != nil && !m.optional {
			return fmt.Errorf("mounting %s: %w", m.from, err)
		}
	}
	_ = os.Symlink("/proc/self/fd", filepath.Join(rootMount, "dev/fd"))
	_ = os.Mkdir(filepath.Join(rootMount, "run/netns"), 0o755)
	if err := os.Chdir(rootMount); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return loopbackUp()
}

// openOutput opens a serial line that passes bytes on as they are.
func openOutput(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	mode, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	mode.Oflag &^= unix.OPOST
	mode.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, mode)
}

// leave ends the machine with an exit code; see qemuStatus.
func leave(code int) {
	port, err := os.OpenFile("/dev/port", os.O_WRONLY, 0)
	if err == nil {
		_, err = port.WriteAt([]byte{byte(code + 1)}, exitPort)
	}
	fmt.Fprintln(os.Stderr, "init: leaving:", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	qemuProgram = "qemu-system-x86_64"
	qemuMemory  = "1G"
	// What goes on at the same time in a kernel can be tried.
	qemuProcessors = "2"
	// bootMark is given to our program, as the first process of the guest, in its environment.
	bootMark = "OVERWEAVE_LAB_BOOT"
	// bootFile tells the first process what to do.
	bootFile = "/overweave.json"
	rootTag  = "root"
	// exitPort is where a byte makes qemu exit, with twice that and one.
	exitPort = 0xf4
	// maxConsole is how much of what the kernel said is of interest.
	maxConsole = 4 << 10
)

// bootModules are what the guest needs to get to the files of this machine. The kernel loads others from there as it needs them.
var bootModules = [...]string{"virtio_pci", "9pnet_virtio", "9p"}

// bootOrders is what bootFile has, in JSON.
type bootOrders struct {
	Modules []string // paths in the initial file system, in the order to load them
	Args    []string
	Env     []string
	Dir     string
}

// findQemu returns the guest that is made with qemu and a kernel that a distribution packaged.
func findQemu() (Guest, error) {
	if runtime.GOARCH != "amd64" {
		return Guest{}, fmt.Errorf("qemu guests are made on amd64 only: %w", errors.ErrUnsupported)
	}
	qemu, err := exec.LookPath(qemuProgram)
	if err != nil {
		return Guest{}, err
	}
	kernels, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil {
		return Guest{}, err
	}
	for _, kernel := range kernels {
		modules := filepath.Join("/lib/modules", strings.TrimPrefix(kernel, "/boot/vmlinuz-"))
		if _, err := os.Stat(filepath.Join(modules, "modules.dep")); err != nil {
			continue
		}
		if f, err := os.Open(kernel); err == nil {
			_ = f.Close()
			v := vm{qemu, kernel, modules}
			return Guest{name: "qemu with " + kernel, launch: v.launch}, nil
		}
	}
	return Guest{}, errors.New("no readable kernel in /boot has its modules in /lib/modules")
}

// vm is a virtual machine to be: paths of the program that is the machine, of a kernel, and of its modules.
type vm struct{ qemu, kernel, modules string }

// launch starts the machine. Its files have no name any more when it starts.
func (v vm) launch(c GuestCommand) (p *GuestProcess, err error) {
	initramfs, err := nameless()
	if err != nil {
		return nil, err
	}
	defer initramfs.Close()
	if err := v.writeInitramfs(initramfs, c); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	console, err := nameless()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(v.qemu, v.options(c.BootArgs)...)
	cmd.Stdout, cmd.Stderr = c.Stdout, console
	cmd.ExtraFiles = []*os.File{initramfs, console} // descriptors 3 and 4
	if err := cmd.Start(); err != nil {
		_ = console.Close()
		return nil, err
	}
	return &GuestProcess{cmd: cmd, files: []*os.File{console}, status: func(code int) (int, error) {
		return qemuStatus(code, console)
	}}, nil
}

func (v vm) options(bootArgs []string) []string {
	// Not KVM: where /dev/kvm opens but does not work, as on machines that are virtual themselves, qemu hangs without a word.
	return []string{
		"-accel", "tcg", "-smp", qemuProcessors, "-m", qemuMemory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", v.kernel, "-initrd", "/proc/self/fd/3",
		"-append", "console=ttyS0 quiet panic=-1 " + bootMark + "=1 -- " + strings.Join(bootArgs, " "),
		"-fsdev", "local,id=root,path=/,security_model=none,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=root,mount_tag=" + rootTag,
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=1", exitPort),
		"-serial", "file:/proc/self/fd/4", // ttyS0, the kernel's console
		"-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out", // ttyS1, the command's output
	}
}

// writeInitramfs writes what the kernel starts with: our own program as init, and what it needs there.
func (v vm) writeInitramfs(w io.Writer, c GuestCommand) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	libs, err := libraries(self)
	if err != nil {
		return err
	}
	files, err := modules(v.modules, bootModules[:]...)
	if err != nil {
		return err
	}
	orders, err := json.Marshal(bootOrders{Modules: files, Args: c.Args, Env: c.Env, Dir: dir})
	if err != nil {
		return err
	}
	a := newArchive(w)
	a.copy("/init", self)
	for _, lib := range libs {
		a.copy(lib, lib)
	}
	for _, file := range files {
		a.copy(filepath.Join("/", file), filepath.Join(v.modules, file))
	}
	for _, dir := range []string{"/dev", rootMount} {
		a.entry(dir, cpioFolder, nil)
	}
	a.add(bootFile, orders)
	return a.finish()
}

// nameless opens a new file that ceases to be when it is closed.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "overweave-guest")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// qemuStatus returns the exit code of the command: the guest exits with one more than that, see exitPort.
func qemuStatus(code int, console *os.File) (int, error) {
	if code >= 3 && code%2 == 1 {
		return (code-1)/2 - 1, nil
	}
	said := make([]byte, 64<<10)
	n, _ := console.ReadAt(said, 0)
	said = bytes.TrimSpace(said[:n])
	return 0, fmt.Errorf("the guest ended without an answer (qemu's status is %d): %s", code, said[max(0, len(said)-maxConsole):])
}

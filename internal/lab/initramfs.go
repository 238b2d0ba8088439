package lab

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes the file system that a kernel starts with: a cpio archive in the format "newc". Its methods do nothing after
// an error, which finish returns.
type archive struct {
	w    *bufio.Writer
	size int
	dirs map[string]bool
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), dirs: map[string]bool{"/": true, ".": true}}
}

// The kinds of file, as in struct stat.
const (
	cpioFolder = 0o040755
	cpioFile   = 0o100755
)

// add appends a file, and before it the folders that it is in.
func (a *archive) add(name string, data []byte) {
	for _, dir := range parents(name) {
		if !a.dirs[dir] {
			a.dirs[dir] = true
			a.entry(dir, cpioFolder, nil)
		}
	}
	a.entry(name, cpioFile, data)
}

// parents returns the folders that a file is in, the outermost first.
func parents(name string) (dirs []string) {
	for dir := path.Dir(name); dir != "/" && dir != "."; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

// copy appends a file of this machine.
func (a *archive) copy(name, from string) {
	data, err := os.ReadFile(from)
	if a.err == nil && err != nil {
		a.err = err
	}
	a.add(name, data)
}

// entry appends a header, a name, and data, each padded to words.
func (a *archive) entry(name string, mode int, data []byte) {
	name = strings.TrimPrefix(name, "/") + "\x00"
	a.write([]byte("070701"))
	for _, field := range []int{0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0} {
		a.write(fmt.Appendf(nil, "%08X", field))
	}
	a.write([]byte(name))
	a.pad()
	a.write(data)
	a.pad()
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
	a.size += len(b)
}

func (a *archive) pad() { a.write(make([]byte, -a.size&3)) }

func (a *archive) finish() error {
	a.entry("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}

// modules returns the files of kernel modules in the order to load them, each after those that it depends on. A module that
// is not among the files is taken to be built in.
func modules(dir string, names ...string) ([]string, error) {
	index, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{} // from the name of a module: its file, then those of the modules that it needs
	for line := range strings.Lines(string(index)) {
		file, others, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[moduleName(file)] = append([]string{file}, strings.Fields(others)...)
	}
	var order []string
	for _, name := range names {
		// In the index, what a module needs comes before what that needs.
		for _, file := range slices.Backward(needs[name]) {
			if !slices.Contains(order, file) {
				order = append(order, file)
			}
		}
	}
	return order, nil
}

// moduleName returns the name of a module in a file: dir/virtio-net.ko.xz is virtio_net.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// libraryDirs is where the libraries are that a program may have been linked to.
var libraryDirs = [...]string{
	"/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib",
}

// libraries returns the paths of what a program needs to start: none if it was built without cgo.
func libraries(program string) (paths []string, err error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return nil, err
		}
		paths = append(paths, strings.TrimRight(string(loader), "\x00"))
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if slices.ContainsFunc(paths, func(p string) bool { return path.Base(p) == name }) {
			continue
		}
		found, err := findLibrary(name)
		if err != nil {
			return nil, err
		}
		paths = append(paths, found)
	}
	return paths, nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		if p := path.Join(dir, name); path.Base(name) == name {
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("library %s: %w", name, errors.ErrUnsupported)
}

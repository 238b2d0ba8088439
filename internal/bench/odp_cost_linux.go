package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// missCost is what one miss costs the process that handles it: time of its threads, in which the kernel also puts the flow, runs the
// actions and hands the frame to the receiver's device. The sender's time, in which the kernel finds the miss, is not in it. User-mode
// Linux, as in a guest, counts nearly all of it as the process's own; the sum can be compared.
type missCost struct {
	User   float64            `json:"user_us"`   // microseconds
	System float64            `json:"system_us"` // microseconds
	Calls  map[string]float64 `json:"system_calls,omitempty"`

	Uncounted string `json:"system_calls_missing,omitempty"` // why Calls is empty
}

func (c missCost) String() string {
	names := make([]string, 0, len(c.Calls))
	total := 0.0
	for name, n := range c.Calls {
		names, total = append(names, name), total+n
	}
	slices.SortFunc(names, func(a, b string) int {
		if c.Calls[a] != c.Calls[b] {
			return int(1e6 * (c.Calls[b] - c.Calls[a]))
		}
		return strings.Compare(a, b)
	})
	s := fmt.Sprintf("%.1f us in itself, %.1f us in the kernel, ", c.User, c.System)
	if c.Uncounted != "" {
		return s + "system calls not counted: " + c.Uncounted
	}
	s += fmt.Sprintf("%.2f system calls", total)
	for _, name := range names[:min(6, len(names))] {
		s += fmt.Sprintf(" %s %.2f", name, c.Calls[name])
	}
	return s
}

// processTime divides what time a process takes during f by a count.
func processTime(pid, count int, f func() error) (c missCost, err error) {
	user, system, err := processTicks(pid)
	if err != nil {
		return c, err
	}
	if err := f(); err != nil {
		return c, err
	}
	userEnd, systemEnd, err := processTicks(pid)
	const tick = 1e6 / 100 // microseconds of a tick as /proc tells them
	c.User, c.System = tick*float64(userEnd-user)/float64(count), tick*float64(systemEnd-system)/float64(count)
	return c, err
}

// processTicks reads /proc/PID/stat.
func processTicks(pid int) (user, system uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // begins with field 3 of proc(5)
	if len(fields) < 13 {
		return 0, 0, errors.New("/proc/PID/stat is too short")
	}
	user, err = strconv.ParseUint(fields[11], 10, 64)
	system, serr := strconv.ParseUint(fields[12], 10, 64)
	return user, system, errors.Join(err, serr)
}

// systemCalls has strace count a process's system calls during f and divides them by a count. strace slows the process down, so that it
// finds more to do at each turn: the numbers of two processes can be compared, and not be multiplied by a rate.
func systemCalls(ctx context.Context, pid, count int, f func() error) (map[string]float64, error) {
	table, err := os.CreateTemp("", "calls")
	if err != nil {
		return nil, err
	}
	defer os.Remove(table.Name())
	defer table.Close()
	cmd := exec.CommandContext(ctx, "strace", "-f", "-c", "-U", "calls,name", "-o", table.Name(), "-p", strconv.Itoa(pid))
	attached, err := cmd.StderrPipe() // where it says so
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	said := make([]byte, 200)
	n, err := attached.Read(said)
	if err != nil || !bytes.Contains(said[:n], []byte("attached")) {
		err = fmt.Errorf("strace: %q %w", said[:n], err)
	} else {
		err = f()
	}
	err = errors.Join(err, cmd.Process.Signal(unix.SIGINT))
	_, _ = io.Copy(io.Discard, attached)
	_ = cmd.Wait() // it ends with the signal
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(table)
	return callTable(string(text), count), err
}

// callTable reads lines of a number and a name.
func callTable(text string, count int) map[string]float64 {
	calls := make(map[string]float64)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[1] == "total" {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 64); err == nil {
			calls[fields[1]] = float64(n) / float64(count)
		}
	}
	return calls
}

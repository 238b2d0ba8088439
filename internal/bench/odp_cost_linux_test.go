package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestCallTable(t *testing.T) {
	// What strace -c -U calls,name prints.
	const text = "    calls syscall\n--------- ----------------\n       12 recvmmsg\n        4 write\n--------- ----------------\n       16 total\n"
	calls := callTable(text, 8)
	require.Equal(t, map[string]float64{"recvmmsg": 1.5, "write": 0.5}, calls)
	require.Equal(t, "1.0 us in itself, 2.0 us in the kernel, 2.00 system calls recvmmsg 1.50 write 0.50",
		missCost{User: 1, System: 2, Calls: calls}.String())
}

// What /proc says that this process took is what the process itself is told.
func TestProcessTime(t *testing.T) {
	used := func() float64 { // microseconds
		var u unix.Rusage
		require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
		return float64((u.Utime.Nano() + u.Stime.Nano()) / 1000)
	}
	before := used()
	cost, err := processTime(os.Getpid(), 2, func() error {
		for used() < before+100_000 {
		}
		return nil
	})
	require.NoError(t, err)
	require.InDelta(t, 50_000, cost.User+cost.System, 20_000) // a tick is 5000 of these
	_, err = processTime(-1, 1, func() error { return nil })
	require.Error(t, err)
}

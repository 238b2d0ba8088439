package odp

import (
	"time"

	"golang.org/x/sys/unix"
)

// MonotonicTime returns the machine's monotonic clock, by which the kernel dates the use of flows and meters; 0 on systems
// without one.
func MonotonicTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

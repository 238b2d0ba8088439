//go:build !linux

package odp

import "time"

// MonotonicTime returns the machine's monotonic clock, by which the kernel dates the use of flows and meters; 0 on systems
// without one.
func MonotonicTime() time.Duration { return 0 }

//go:build !linux

package odp

import "os"

func openNetNS() *os.File { return nil }

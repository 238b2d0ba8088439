//go:build !linux

package odp

import "runtime"

// DialKernel opens a socket to this machine's kernel, which on this system has no Open vSwitch datapath.
func DialKernel(SocketOptions) (Socket, error) {
	return nil, &UnsupportedError{Feature: "the Open vSwitch datapath", Hint: "it is part of Linux, this is " + runtime.GOOS}
}

func kernelRelease() string { return "" }

//go:build !linux

package fastdp

import "errors"

// kernelDevices are for Linux.
type kernelDevices struct{ netns int }

func (kernelDevices) send(string, []byte, int) error { return errors.ErrUnsupported }
func (kernelDevices) offloads(string) (bool, error)  { return false, errors.ErrUnsupported }
func (kernelDevices) setOffloads(string, bool) error { return errors.ErrUnsupported }

//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

func runODP(context.Context, []string, io.Writer) error {
	return errors.New("the Open vSwitch datapath needs Linux")
}

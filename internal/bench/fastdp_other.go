//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

func runFastDP(context.Context, []string, io.Writer) error {
	return errors.New("fastdp needs Linux")
}

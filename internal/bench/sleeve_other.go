//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

func runSleeve(context.Context, []string, io.Writer) error {
	return errors.New("sleeve: the measurement needs Linux")
}

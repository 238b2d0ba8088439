// Package membertest runs commands made with package member in tests.
package membertest

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
)

// FreeAddr returns an address of this host on which nobody listens.
func FreeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Start runs a command until stop is called, or the test ends, and returns what it prints.
func Start(t *testing.T, run func(ctx context.Context, args []string, out io.Writer) error, args ...string) (lines *bufio.Scanner, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, w) }()
	t.Cleanup(func() {
		cancel()
		_ = r.Close() // what it still prints fails, and holds nothing up
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return bufio.NewScanner(r), cancel
}

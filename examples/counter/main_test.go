package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// freeAddr returns an address on which nobody listens.
func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

// start runs the command until stop is called, or the test ends, and returns what it prints.
func start(t *testing.T, args ...string) (lines *bufio.Scanner, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, w) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, r.Close()) // what it still prints fails, and holds nothing up
		require.NoError(t, <-done)
	})
	return bufio.NewScanner(r), cancel
}

// TestTwoCount has two peers count, until the second shows a number that only both together can have counted.
func TestTwoCount(t *testing.T) {
	addr := freeAddr(t)
	one, _ := start(t, "-name", "0a::1", "-listen", addr)
	two, _ := start(t, "-name", "0a::2", "-listen", "127.0.0.1:0", addr)
	for _, lines := range []*bufio.Scanner{one, two} {
		last := 0
		for n := 0; n < 4 && lines.Scan(); n++ {
			sum, err := strconv.Atoi(lines.Text())
			require.NoError(t, err)
			require.Greater(t, sum, last, "it only grows")
			last = sum
		}
		require.GreaterOrEqual(t, last, 4, "each line is a change by the other")
	}
}

func TestMergeIsUnion(t *testing.T) {
	a, b := counter{1: 3, 2: 1}, counter{2: 5}
	ab, more := a.Merge(b)
	require.True(t, more)
	ba, _ := b.Merge(a)
	require.Equal(t, ab, ba)
	require.EqualValues(t, 8, ab.sum())
	_, more = ab.Merge(a)
	require.False(t, more)
	require.Equal(t, counter{1: 3, 2: 1}, a, "operands stay as they are")
}

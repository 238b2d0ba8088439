package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"slices"
	"strings"
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

// TestWhoIsHere: each sees the other come, and the one that stays sees the other leave.
func TestWhoIsHere(t *testing.T) {
	addr := freeAddr(t)
	anna, _ := start(t, "-nick", "anna", "-listen", addr)
	ben, leave := start(t, "-nick", "ben", "-listen", "127.0.0.1:0", addr)
	await(t, ben, "2 here", "anna", "ben")
	await(t, anna, "2 here", "anna", "ben")
	leave()
	await(t, anna, "1 here", "anna")
}

// await reads pictures until one has all these words.
func await(t *testing.T, lines *bufio.Scanner, words ...string) {
	for picture := ""; lines.Scan(); picture += lines.Text() + "\n" {
		if !strings.HasPrefix(lines.Text(), "\x1b[H") {
			continue
		}
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(picture, w) }) {
			return
		}
		picture = ""
	}
	t.Fatalf("it ended before it showed %q", words)
}

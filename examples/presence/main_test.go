package main

import (
	"bufio"
	"slices"
	"strings"
	"testing"

	"github.com/overweave/overweave/examples/internal/member/membertest"
)

// TestWhoIsHere: each sees the other come, and the one that stays sees the other leave.
func TestWhoIsHere(t *testing.T) {
	addr := membertest.FreeAddr(t)
	anna, _ := membertest.Start(t, run, "-nick", "anna", "-listen", addr)
	ben, leave := membertest.Start(t, run, "-nick", "ben", "-listen", "127.0.0.1:0", addr)
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

package main

import (
	"bufio"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/internal/member/membertest"
)

// TestTwoCount has two peers count, until the second shows a number that only both together can have counted.
func TestTwoCount(t *testing.T) {
	addr := membertest.FreeAddr(t)
	one, _ := membertest.Start(t, run, "-name", "0a::1", "-listen", addr)
	two, _ := membertest.Start(t, run, "-name", "0a::2", "-listen", "127.0.0.1:0", addr)
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

package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// An IPv6 address can be reached as soon as the link is there: no solicitation is lost, which would be repeated after a second.
func TestIPv6AtOnce(t *testing.T) {
	l := labtest.New(t)
	names := func(i int) (string, string) { return string(rune('a'+i)) + "1", string(rune('a'+i)) + "2" }
	for i := range 20 {
		first, second := names(i)
		a, err := l.Host(first)
		require.NoError(t, err)
		b, err := l.Host(second)
		require.NoError(t, err)
		_, err = l.Link(a, b, lab.LinkConfig{A: netip.MustParsePrefix("fd00::1/64"), B: netip.MustParsePrefix("fd00::2/64")})
		require.NoError(t, err)
		start := time.Now()
		require.Equal(t, "hello", overTCP(t, a, b, netip.MustParseAddr("fd00::2")))
		require.Less(t, time.Since(start), 900*time.Millisecond)
	}
}

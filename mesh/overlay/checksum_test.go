package overlay

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A sum that comes to zero is written as all ones, since zero means no checksum in UDP.
func TestZeroChecksum(t *testing.T) {
	frame := make([]byte, 60)
	frame[20], frame[21] = 0xff, 0xff
	require.NoError(t, CompleteChecksum(frame, 20, 6))
	require.Equal(t, []byte{0xff, 0xff}, frame[26:28])
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := make([]byte, r.IntN(200))
		for i := range b {
			b[i] = byte(r.Uint32()) | byte(r.IntN(2)*0xff)
		}
		start := r.Uint64() >> r.IntN(64)
		want := start % 0xffff
		for i, c := range b {
			want = (want + uint64(c)<<(8*(1-i%2))) % 0xffff
		}
		require.Equal(t, want, uint64(fold(sum(b, start)))%0xffff)
	}
}

package crypto_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
)

const span = 1 << 20

// naive is the rule of the window, written as the table of the specification has it, over a map.
type naive struct {
	hi   uint64
	seen map[uint64]bool
}

func (w *naive) accept(n uint64) bool {
	index := n / span
	if index+1 < w.hi || w.seen[n] {
		return false
	}
	if index > w.hi {
		w.hi = index
		for old := range w.seen {
			if old/span+1 < index {
				delete(w.seen, old)
			}
		}
	}
	w.seen[n] = true
	return true
}

func requireSame(t *testing.T, numbers []uint64) {
	t.Helper()
	var w crypto.Window
	model := naive{seen: map[uint64]bool{}}
	for i, n := range numbers {
		require.Equal(t, model.accept(n), w.Accept(n), "number %d, the %dth", n, i)
	}
}

func TestWindowAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var numbers []uint64
		at := uint64(0)
		for range 2000 {
			switch r.IntN(10) {
			case 0:
				at += r.Uint64N(3 * span) // jump ahead
			case 1:
				at = (at/span + 1) * span // to a border
			default:
				at += r.Uint64N(3)
			}
			back := r.Uint64N([]uint64{1, 4, 100, 3 * span}[r.IntN(4)])
			numbers = append(numbers, at-min(back, at))
		}
		requireSame(t, numbers)
	}
}

// TestWindowDense has most numbers come, many of them late, so that pages fill.
func TestWindowDense(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	var numbers []uint64
	for n := uint64(span - 100000); n < span+150000; n++ {
		if r.IntN(50) == 0 {
			continue
		}
		numbers = append(numbers, n)
		if r.IntN(30) == 0 {
			numbers = append(numbers, n-min(n, r.Uint64N(120000)))
		}
	}
	requireSame(t, numbers)
}

func TestWindowCorners(t *testing.T) {
	const top = ^uint64(0)
	requireSame(t, []uint64{0, 0, span - 1, span, 0, 1, 2*span - 1, 2 * span, 2, span + 1, top, top, top - 1, top - span, top - 2*span, 0})
	requireSame(t, []uint64{5 * span, 4 * span, 3*span - 1, 4*span - 1, 4 * span, 5*span + 1})
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 1, 0, 0})
	f.Add([]byte{2, 1, 0, 1, 255, 255, 3, 1, 0, 2, 9, 9})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var numbers []uint64
		at := uint64(0)
		for ; len(ops) >= 3; ops = ops[3:] {
			by := uint64(binary.BigEndian.Uint16(ops[1:]))
			switch ops[0] % 4 {
			case 0:
				at += by
			case 1:
				at -= min(by, at)
			case 2:
				at += by << 6
			case 3:
				at -= min(by<<6, at)
			}
			numbers = append(numbers, at)
		}
		requireSame(t, numbers)
	})
}

func BenchmarkWindow(b *testing.B) {
	var w crypto.Window
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		w.Accept(n)
		n++
	}
}

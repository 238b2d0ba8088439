package crypto

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// size is the memory of a window in bytes.
func (w *Window) size() int {
	n := int(unsafe.Sizeof(*w))
	for _, s := range []*span{&w.current, &w.previous} {
		for i := range s {
			if n += 2 * cap(s[i].missing); s[i].seen != nil {
				n += int(unsafe.Sizeof(*s[i].seen))
			}
		}
	}
	return n
}

// TestWindowMemory runs windows full, with loss and with late numbers, and sees what they take and that they forget nothing.
func TestWindowMemory(t *testing.T) {
	for _, c := range []struct {
		loss float64
		most int
	}{{0, 20 << 10}, {0.01, 64 << 10}, {0.2, 264 << 10}} {
		var w Window
		r := rand.New(rand.NewPCG(1, 2))
		var late, seen []uint64
		for n := range uint64(3<<spanBits - 1) {
			switch {
			case r.Float64() < c.loss/2:
			case r.Float64() < c.loss/2:
				late = append(late, n)
			default:
				if !w.Accept(n) {
					t.Fatalf("%d is new", n)
				}
				if n%997 == 0 {
					seen = append(seen, n)
				}
			}
		}
		require.LessOrEqual(t, w.size(), c.most, "%v lost", c.loss)
		for _, n := range late {
			if w.Accept(n) != (n >= 1<<spanBits) || w.Accept(n) {
				t.Fatalf("%d, late", n)
			}
		}
		for _, n := range seen {
			if w.Accept(n) {
				t.Fatalf("%d, again", n)
			}
		}
	}
}

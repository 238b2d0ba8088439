package sleeve

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// streamOf makes the segments of a TCP stream as they come over the old wire. port tells streams apart.
func streamOf(t testing.TB, protocol overlay.Protocol, payload, size int, port byte) (frames []overlay.Frame) {
	f := superFrame(t, protocol, payload, size)
	l4 := int(f.Segments.Transport)
	f.Data[l4+1] = port
	f.Data[l4+13] = tcpACK | tcpPSH // neither FIN nor CWR
	for _, data := range cutAll(t, f) {
		frames = append(frames, overlay.Frame{Data: data, Src: testA, Dst: testB})
	}
	return frames
}

// requireSame sees that frames say the same as others did, each stream in its order.
func requireSame(t *testing.T, want []overlay.Frame, got []overlay.Frame) {
	t.Helper()
	streams := func(frames []overlay.Frame) map[byte][][]byte {
		out := map[byte][][]byte{}
		for _, f := range frames {
			for _, data := range cutAll(t, f) {
				l4 := 34
				if data[12] == 0x86 {
					l4 = 54
				}
				out[data[l4+1]] = append(out[data[l4+1]], data)
			}
		}
		return out
	}
	require.Equal(t, streams(want), streams(got))
}

func TestCoalesce(t *testing.T) {
	c := newCoalescer()
	for _, protocol := range []overlay.Protocol{overlay.TCP4, overlay.TCP6} {
		whole := streamOf(t, protocol, 20000, 1300, 7)
		got := c.join(clone(whole))
		require.Len(t, got, 1)
		require.Equal(t, overlay.Segments{Protocol: protocol, Size: 1300, Transport: got[0].Segments.Transport}, got[0].Segments)
		requireSame(t, whole, got)

		long := streamOf(t, protocol, 65000, 1300, 7)
		more := streamOf(t, protocol, 5000, 1300, 7)
		require.Len(t, c.join(clone(append(long, more...))), 2, "no more than fits a packet, and nothing with another number")

		var mixed []overlay.Frame
		a, b := streamOf(t, protocol, 13000, 1300, 1), streamOf(t, protocol, 13000, 1300, 2)
		for i := range a {
			mixed = append(mixed, a[i], b[i])
		}
		got = c.join(clone(mixed))
		require.Len(t, got, 2, "two streams at once")
		requireSame(t, mixed, got)

		lost := append(append([]overlay.Frame{}, whole[:4]...), whole[6:]...)
		got = c.join(clone(lost))
		require.Len(t, got, 2)
		requireSame(t, lost, got)

		swapped := clone(whole)
		swapped[3], swapped[4] = swapped[4], swapped[3]
		got = c.join(clone(swapped))
		requireSame(t, swapped, got)
	}
}

// clone copies frames, as join uses their memory.
func clone(frames []overlay.Frame) []overlay.Frame {
	out := make([]overlay.Frame, len(frames))
	for i, f := range frames {
		f.Data = bytes.Clone(f.Data)
		out[i] = f
	}
	return out
}

// TestCoalesceLeavesAlone changes one thing of one segment in a row: it is not joined to what is before it.
func TestCoalesceLeavesAlone(t *testing.T) {
	fix := func(f []byte) {
		putChecksum(f[14:34])
		binary.BigEndian.PutUint16(f[34+16:], 0)
		binary.BigEndian.PutUint16(f[34+16:], checksum(sum(f[34:], sum(f[26:34], protoTCP)+uint32(len(f)-34))))
	}
	for name, change := range map[string]func(f *overlay.Frame){
		"TTL":              func(f *overlay.Frame) { f.Data[22]--; fix(f.Data) },
		"DSCP":             func(f *overlay.Frame) { f.Data[15] = 8; fix(f.Data) },
		"congestion":       func(f *overlay.Frame) { f.Data[15] = 3; fix(f.Data) },
		"identification":   func(f *overlay.Frame) { f.Data[18] ^= 1; fix(f.Data) },
		"fragment":         func(f *overlay.Frame) { f.Data[20] |= 0x20; fix(f.Data) },
		"IP checksum":      func(f *overlay.Frame) { f.Data[25] ^= 1 },
		"IP length":        func(f *overlay.Frame) { f.Data[17]--; fix(f.Data) },
		"padding":          func(f *overlay.Frame) { f.Data = append(f.Data, 0) },
		"acknowledgement":  func(f *overlay.Frame) { f.Data[45]++; fix(f.Data) },
		"window":           func(f *overlay.Frame) { f.Data[49]++; fix(f.Data) },
		"FIN":              func(f *overlay.Frame) { f.Data[47] |= 1; fix(f.Data) },
		"CWR":              func(f *overlay.Frame) { f.Data[47] |= 0x80; fix(f.Data) },
		"TCP checksum":     func(f *overlay.Frame) { f.Data[51] ^= 1 },
		"payload":          func(f *overlay.Frame) { f.Data[len(f.Data)-1] ^= 1 },
		"Ethernet address": func(f *overlay.Frame) { f.Data[5]++ },
		"source peer":      func(f *overlay.Frame) { f.Src++ },
		"longer": func(f *overlay.Frame) {
			f.Data = append(f.Data, 1)
			binary.BigEndian.PutUint16(f.Data[16:], uint16(len(f.Data)-14))
			fix(f.Data)
		},
	} {
		frames := streamOf(t, overlay.TCP4, 5000, 1000, 1)
		change(&frames[2])
		got := newCoalescer().join(clone(frames))
		require.GreaterOrEqual(t, len(got), 2, name)
		var first int
		for _, data := range cutAll(t, got[0]) {
			first++
			require.NotEqual(t, frames[2].Data, data, name)
		}
		require.Equal(t, 2, first, name)
		var all [][]byte
		for _, f := range got {
			all = append(all, cutAll(t, f)...)
		}
		for i := range frames {
			require.Equal(t, frames[i].Data, all[i], "%s, frame %d", name, i)
		}
	}
}

// TestCoalescePush sees that what its sender wanted to be delivered at once ends a super-frame.
func TestCoalescePush(t *testing.T) {
	frames := append(streamOf(t, overlay.TCP4, 3000, 1000, 1), streamOf(t, overlay.TCP4, 3000, 1000, 1)...)
	require.EqualValues(t, tcpPSH, frames[2].Data[47]&tcpPSH)
	got := newCoalescer().join(clone(frames))
	require.Len(t, got, 2)
	requireSame(t, frames, got)
}

// FuzzCoalesce joins and cuts streams that were lost, repeated, swapped and damaged as the input says: nothing is lost, added,
// changed or overtaken within a stream.
func FuzzCoalesce(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 64, 65, 66, 4, 5, 200, 7}, uint16(3))
	f.Add([]byte{0, 64, 1, 65, 2, 66, 3, 67, 128, 129, 130, 131}, uint16(0))
	var pool []overlay.Frame
	for port, protocol := range []overlay.Protocol{overlay.TCP4, overlay.TCP4, overlay.TCP6, overlay.TCP6} {
		pool = append(pool, streamOf(f, protocol, 64*300-port, 300, byte(port))...)
	}
	c := newCoalescer()
	f.Fuzz(func(t *testing.T, order []byte, damage uint16) {
		var frames []overlay.Frame
		for _, i := range order[:min(len(order), 512)] {
			frames = append(frames, pool[int(i)%len(pool)])
		}
		frames = clone(frames)
		if len(frames) > 0 {
			data := frames[int(damage)%len(frames)].Data
			if at := int(damage>>4) % len(data); at > 54+2 {
				data[at] ^= byte(damage)
			}
		}
		requireSame(t, frames, c.join(clone(frames)))
	})
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32()) | byte(255*(n%2))
		}
		slow := uint64(n)
		for i := range b {
			slow += uint64(b[i]) << (8 * (1 - i%2))
		}
		for slow > 0xffff {
			slow = slow>>16 + slow&0xffff
		}
		require.Equal(t, ^uint16(slow), checksum(sum(b, uint32(n))), n)
	}
}

func TestCoalesceAllocatesNothing(t *testing.T) {
	c, frames := newCoalescer(), streamOf(t, overlay.TCP4, 60000, 1300, 1)
	work := make([]overlay.Frame, len(frames))
	join := func() {
		copy(work, frames)
		if len(c.join(work)) != 1 {
			t.Fatal("not joined")
		}
	}
	join()
	require.Zero(t, testing.AllocsPerRun(100, join))
}

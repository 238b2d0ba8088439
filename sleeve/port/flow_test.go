package port

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFlowHash sees that both directions of a flow, and all segments, agree, and that flows are spread.
func TestFlowHash(t *testing.T) {
	for _, b := range []bundle{{payload: 100, size: 50}, {payload: 100, size: 50, v6: true}, {payload: 100, size: 50, udp: true, v6: true, vlan: true}} {
		there := b.frame(t, 0, 0, 50)
		want := flowHash(there)
		require.Equal(t, want, flowHash(b.frame(t, 1, 50, 100)))
		at := etherHeader
		if b.vlan {
			at += vlanTag
		}
		back := append([]byte(nil), there...)
		l4 := at + 20
		if b.v6 {
			copy(back[at+8:], there[at+24:at+40])
			copy(back[at+24:], there[at+8:at+24])
			l4 = at + 40
		} else {
			copy(back[at+12:], there[at+16:at+20])
			copy(back[at+16:], there[at+12:at+16])
		}
		copy(back[l4:], there[l4+2:l4+4])
		copy(back[l4+2:], there[l4:l4+2])
		require.Equal(t, want, flowHash(back), "the other direction")

		queues := map[uint32]int{}
		for i := range 1000 {
			back[l4+2], back[l4+3] = byte(i>>8), byte(i)
			queues[flowHash(back)%4]++
		}
		for queue := range uint32(4) {
			require.InDelta(t, 250, queues[queue], 60)
		}
	}
	first, later := append(make([]byte, 12), 8, 0, 0x45), append(make([]byte, 12), 8, 0, 0x45)
	first, later = append(first, make([]byte, 60)...), append(later, make([]byte, 60)...)
	first[20], first[23], first[35] = 0x20, 17, 9 // more fragments; UDP ports
	later[21], later[23], later[35] = 8, 17, 77
	require.Equal(t, flowHash(first), flowHash(later), "fragments have no ports")
}

func FuzzFlowHash(f *testing.F) {
	f.Add(bundle{payload: 10, size: 50}.frame(f, 0, 0, 10))
	f.Add(bundle{payload: 10, size: 50, v6: true, vlan: true}.frame(f, 0, 0, 10))
	f.Fuzz(func(t *testing.T, b []byte) {
		if flowHash(b) != flowHash(append([]byte(nil), b...)) {
			t.Fatal("not a function")
		}
	})
}

package sleeve

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// tag puts a VLAN tag into a frame.
func tag(frame []byte) []byte {
	return slices.Concat(frame[:12], []byte{0x81, 0, 0, 5}, frame[12:])
}

// TestTooLong2 sends frames that are too long for the path: their senders are told if they may be, and others go in pieces.
func TestTooLong2(t *testing.T) {
	arp := make([]byte, 1600)
	arp[12], arp[13] = 8, 6
	v4, v4DF, v6 := ipFrame(t, 1600, false, false), ipFrame(t, 1600, false, true), ipFrame(t, 1600, true, false)
	for name, c := range map[string]struct {
		data    []byte
		flooded bool
		want    path
	}{
		"IPv4":                             {data: v4, want: pathFragment},
		"IPv4, flooded":                    {data: v4, flooded: true, want: pathFragment},
		"IPv4 with tag":                    {data: tag(v4), want: pathFragment},
		"IPv4 not to be cut":               {data: v4DF, want: pathAnswer},
		"IPv4 not to be cut, with tag":     {data: tag(v4DF), want: pathAnswer},
		"IPv4 not to be cut, with tags":    {data: tag(tag(v4DF)), want: pathAnswer},
		"IPv4 not to be cut, flooded":      {data: v4DF, flooded: true, want: pathN},
		"IPv4 not to be cut, in many tags": {data: tag(tag(tag(v4DF))), want: pathN},
		"IPv6":                             {data: v6, want: pathAnswer},
		"IPv6 with tag":                    {data: tag(v6), want: pathAnswer},
		"IPv6, flooded":                    {data: v6, flooded: true, want: pathN},
		"IPv6 with tag, flooded":           {data: tag(v6), flooded: true, want: pathN},
		"neither":                          {data: arp, want: pathN},
		"the largest there is":             {data: make([]byte, MaxDatagram-16-16-3-1), want: pathN},
	} {
		t.Run(name, func(t *testing.T) {
			requireWay(t, overlay.Frame{Data: c.data, Src: testA, Dst: testB, Flooded: c.flooded}, c.want)
		})
	}
	e := newEnds2(t, &[32]byte{1}, fastAES)
	require.Empty(t, e.send(overlay.Frame{Data: make([]byte, MaxDatagram-16-16-3), Src: testA, Dst: testB}))
	require.EqualValues(t, 1, e.a.Status().Drops["too_big"])
}

// requireWay sees that a frame that is too long takes a way.
func requireWay(t *testing.T, f overlay.Frame, way path) {
	t.Helper()
	e := newEnds2(t, &[32]byte{1}, fastAES)
	var answers []overlay.Frame
	e.a.params.Receive = func(f []overlay.Frame) { answers = append(answers, f...) }
	short := overlay.Frame{Data: ipFrame(t, 100, false, true), Src: testA, Dst: testB}
	sent := e.send(short, f, short)
	got, _ := e.receive(t, sent...)
	at, v6, _ := ipOffset(f.Data)
	room := 1500 - 84 - tagsBefore(at)
	switch way {
	case pathAnswer:
		require.Len(t, got, 2)
		require.Len(t, answers, 1)
		require.Equal(t, f.Data[12:at], answers[0].Data[12:at])
		told, mtu := answers[0].Data[at:], 0
		if mtu = int(binary.BigEndian.Uint16(told[ipv4MinHeader+6:])); v6 {
			mtu = int(binary.BigEndian.Uint32(told[ipv6Header+4:]))
		}
		require.Equal(t, room, mtu)
	case pathFragment:
		require.Len(t, got, 4)
		for _, piece := range got[1:3] {
			require.Equal(t, f.Data[:at], piece[:at])
			require.LessOrEqual(t, len(piece), 1500-84+overlay.HeaderLen)
		}
	case pathN:
		require.Len(t, got, 3)
		require.Equal(t, f.Data, got[1])
		require.False(t, e.conn.written[1].DontFragment)
		require.True(t, e.conn.written[0].DontFragment && e.conn.written[2].DontFragment)
	}
}

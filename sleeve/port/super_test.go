package port

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// TestSuperFrames takes super-frames as the kernel gives them and gives them back: nothing is lost of what it said.
func TestSuperFrames(t *testing.T) {
	for _, b := range []bundle{
		{payload: 5000, size: 1448},
		{payload: 60001, size: 1447, odd: 9},
		{payload: 5000, size: 1428, v6: true},
		{payload: 5001, size: 1424, v6: true, vlan: true},
		{payload: 5001, size: 1444, vlan: true},
		{payload: 5000, size: 1200, udp: true},
		{payload: 5000, size: 1200, udp: true, v6: true},
		{payload: 5000, size: 1200, udp: true, v6: true, vlan: true},
	} {
		want := b.packet(t)
		packet := bytes.Clone(want)
		h := parseVnet(packet)
		s, err := h.segments(packet[vnetLen:])
		require.NoError(t, err)
		f := overlay.Frame{Data: packet[vnetLen:], Segments: s}
		clear(f.Data[h.checksumAt+h.checksumSkip:][:2]) // it may be anything

		var header [vnetLen]byte
		require.NoError(t, putVnet(&header, &f))
		require.Equal(t, want[vnetLen:], f.Data, "%+v", b)
		got := parseVnet(header[:])
		if !b.udp {
			h.gso |= gsoECN // the first segment says that the window was reduced
		}
		require.Equal(t, h, got, "%+v", b)
		headers := b.size + int(binary.NativeEndian.Uint16(header[2:]))
		require.Equal(t, len(b.frame(t, 0, 0, b.size)), headers)
	}
	var header [vnetLen]byte
	require.NoError(t, putVnet(&header, &overlay.Frame{Data: make([]byte, 60)}))
	require.Zero(t, header)
	bad := overlay.Frame{Data: make([]byte, 60), Segments: overlay.Segments{Protocol: overlay.TCP4, Size: 1, Transport: 34}}
	require.ErrorIs(t, putVnet(&header, &bad), overlay.ErrSegments)
}

package sleeve

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

const dscp = 46 << 2 // EF

// ecnFrame makes a frame of an IP packet with a traffic class, behind VLAN tags.
func ecnFrame(t testing.TB, v6 bool, class uint8, tags int) []byte {
	data := ipFrame(t, 100, v6, true)
	if v6 {
		data[14], data[15] = 0x60|class>>4, class<<4|data[15]&15
	} else {
		data[15] = class
		putChecksum(data[14:34])
	}
	for range tags {
		data = append(append(append([]byte(nil), data[:12]...), 0x81, 0, 0, 5), data[12:]...)
	}
	return data
}

// TestDecapsulate is figure 4 of RFC 6040, for IPv4 and IPv6, with all of the rest of the header left alone.
func TestDecapsulate(t *testing.T) {
	const ect0, dropped = 2, 0xff
	table := map[uint8][4]uint8{ // by inner field; columns: outer Not-ECT, ECT(1), ECT(0), CE
		notECT:    {notECT, notECT, notECT, dropped},
		ect1:      {ect1, ect1, ect1, congested},
		ect0:      {ect0, ect1, ect0, congested},
		congested: {congested, congested, congested, congested},
	}
	for inner, row := range table {
		for outer, want := range row {
			for _, v6 := range []bool{false, true} {
				for tags := range 3 {
					name := fmt.Sprintf("inner %d, outer %d, IPv6 %t, %d tags", inner, outer, v6, tags)
					f := ecnFrame(t, v6, dscp|inner, tags)
					ok := decapsulate(f, 0xfc|uint8(outer)) // the outer DSCP stays outside
					require.Equal(t, want != dropped, ok, name)
					if ok {
						require.Equal(t, ecnFrame(t, v6, dscp|want, tags), f, name)
					}
				}
			}
		}
	}
	arp := append(make([]byte, 12), 8, 6, 0, 1)
	require.True(t, decapsulate(arp, congested), "what has no field cannot be marked")
}

func TestTrafficClass(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for class := range 256 {
			got, ok := trafficClass(ecnFrame(t, v6, uint8(class), class%3))
			require.True(t, ok)
			require.EqualValues(t, class, got)
		}
		whole := ecnFrame(t, v6, 0xff, 2)
		for n := range whole[:40] {
			_, ok := trafficClass(whole[:n])
			require.False(t, ok, n)
		}
		_, ok := trafficClass(ecnFrame(t, v6, 0xff, 3))
		require.False(t, ok)
	}
}

// TestClasses2 looks at the outer headers: each datagram has the class of what it carries, and none has ECN if the remote
// would not heed it.
func TestClasses2(t *testing.T) {
	for _, abilities := range []byte{fastAES, fastAES | heedsECN} {
		e := newEnds2(t, &[32]byte{1}, abilities)
		var frames []overlay.Frame
		for _, class := range []uint8{0, 0, dscp | 2, dscp | 2, 3, 0} {
			frames = append(frames, overlay.Frame{Data: ecnFrame(t, class == 3, class, 0), Src: testA, Dst: testB})
		}
		arp := overlay.Frame{Data: append(make([]byte, 12), 8, 6, 0, 1), Src: testA, Dst: testB}
		super := superFrame(t, overlay.TCP4, 3000, 1000)
		super.Data[15] = 2
		e.send(append(frames, arp, super, frames[0])...)
		var classes []uint8
		for _, m := range e.conn.written {
			classes = append(classes, m.Class)
		}
		if abilities&heedsECN != 0 {
			require.Equal(t, []uint8{0, dscp | 2, 3, 0, 2, 2, 2, 0}, classes)
		} else {
			require.Equal(t, []uint8{0, dscp, 0, 0, 0, 0, 0}, classes, "frame 5 shares a datagram with the one before")
		}
	}
}

// TestMarkedParts2 marks some parts of a super-frame as congested: their payload arrives marked, the rest as it was.
func TestMarkedParts2(t *testing.T) {
	e := newEnds2(t, &[32]byte{1}, fastAES|heedsECN)
	for _, protocol := range []overlay.Protocol{overlay.TCP4, overlay.TCP6, overlay.UDP4, overlay.UDP6} {
		f := superFrame(t, protocol, 9500, 1000)
		at := 14
		if protocol == overlay.TCP6 || protocol == overlay.UDP6 {
			f.Data[15] |= 2 << 4
		} else {
			f.Data[15] = 2
		}
		want := cutAll(t, f)
		*e.received = nil
		for i, d := range e.send(f) {
			e.reader.class = 2
			if i == 3 || i == 4 || i == 9 {
				e.reader.class = congested
			}
			e.reader.datagram(remoteA, d)
		}
		e.reader.flush()
		require.Len(t, *e.received, 4, "0 to 2, 3 and 4, 5 to 8, 9")
		var got [][]byte
		for _, f := range *e.received {
			got = append(got, cutAll(t, f)...)
		}
		require.Len(t, got, len(want))
		for i := range want {
			if i == 3 || i == 4 || i == 9 {
				require.True(t, decapsulate(want[i], congested))
			}
			require.Equal(t, want[i], got[i], "segment %d", i)
			requireChecksum4(t, got[i][at:])
		}
	}
	e.reader.class = congested
	deaf := overlay.Frame{Data: ecnFrame(t, false, 0, 0), Src: testA, Dst: testB}
	for _, d := range append(e.send(deaf), e.send(superFrame(t, overlay.TCP4, 3000, 1000))...) {
		e.reader.datagram(remoteA, d)
	}
	e.reader.flush()
	require.EqualValues(t, 2, e.b.Status().Drops["congested"], "a frame, and a super-frame")
	require.Empty(t, e.a.Status().Drops)
}

// requireChecksum4 checks the header of a packet if it is IPv4.
func requireChecksum4(t *testing.T, packet []byte) {
	t.Helper()
	if packet[0]>>4 == 4 {
		require.Zero(t, checksum(sum(packet[:20], 0)))
	}
}

func FuzzDecapsulate(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		f.Add(ecnFrame(f, v6, 2, 0), uint8(3))
		f.Add(ecnFrame(f, v6, 0, 2), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, outer uint8) {
		before := gopacket.NewPacket(append([]byte(nil), b...), layers.LayerTypeEthernet, gopacket.NoCopy)
		class, isIP := trafficClass(b)
		sumBefore := uint16(0)
		at, v6, _ := ipOffset(b)
		if isIP && !v6 {
			sumBefore = checksum(sum(b[at:at+20], 0))
		}
		ok := decapsulate(b, outer)
		if ip, is := before.Layer(layers.LayerTypeIPv4).(*layers.IPv4); is && isIP && !v6 && at == 14 && ip.TOS != class {
			t.Fatal("another class")
		}
		if !isIP || !ok {
			return
		}
		if after, _ := trafficClass(b); after&^ecnMask != class&^ecnMask {
			t.Fatal("DSCP changed")
		}
		if !v6 && binary.BigEndian.Uint16(b[at+10:]) != 0xffff && checksum(sum(b[at:at+20], 0)) != sumBefore {
			t.Fatal("the checksum does not follow")
		}
	})
}

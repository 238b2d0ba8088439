package port

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
)

// bundle describes a packet from which the test makes both what the kernel would hand over, and what has to come out.
type bundle struct {
	v6, udp, vlan bool
	payload, size int
	odd           byte // seasons the payload
}

func (b bundle) l3() gopacket.NetworkLayer {
	protocol := layers.IPProtocolTCP
	if b.udp {
		protocol = layers.IPProtocolUDP
	}
	if b.v6 {
		return &layers.IPv6{
			Version: 6, TrafficClass: 2, FlowLabel: 77, HopLimit: 60, NextHeader: protocol,
			SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("fd00::2"),
		}
	}
	return &layers.IPv4{
		Version: 4, TTL: 60, Id: 65535, Flags: layers.IPv4DontFragment, Protocol: protocol,
		SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2},
	}
}

func (b bundle) data() []byte {
	data := make([]byte, b.payload)
	for i := range data {
		data[i] = byte(i*7) ^ byte(i>>8) + b.odd
	}
	return data
}

// frame serializes one frame that carries data[from:to] of the stream, with all checksums; an independent reckoning.
func (b bundle) frame(t testing.TB, index, from, to int) []byte {
	t.Helper()
	last := to == b.payload
	var all []gopacket.SerializableLayer
	etherType := layers.EthernetTypeIPv4
	if b.v6 {
		etherType = layers.EthernetTypeIPv6
	}
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: etherType}
	all = append(all, ethernet)
	if b.vlan {
		ethernet.EthernetType = layers.EthernetTypeDot1Q
		all = append(all, &layers.Dot1Q{VLANIdentifier: 5, Type: etherType})
	}
	l3 := b.l3()
	if ip4, ok := l3.(*layers.IPv4); ok {
		ip4.Id += uint16(index)
	}
	all = append(all, l3.(gopacket.SerializableLayer))
	if b.udp {
		udp := &layers.UDP{SrcPort: 1000, DstPort: 2000}
		require.NoError(t, udp.SetNetworkLayerForChecksum(l3))
		all = append(all, udp)
	} else {
		tcp := &layers.TCP{
			SrcPort: 1000, DstPort: 2000, Seq: 0xfffffff0 + uint32(from), Ack: 5, ACK: true, Window: 100,
			PSH: last, FIN: last, CWR: index == 0,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}},
		}
		require.NoError(t, tcp.SetNetworkLayerForChecksum(l3))
		all = append(all, tcp)
	}
	all = append(all, gopacket.Payload(b.data()[from:to]))
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	return buf.Bytes()
}

// packet is what the kernel hands over: header, then all of the stream in one frame with an unfinished checksum.
func (b bundle) packet(t testing.TB) []byte {
	frame := b.frame(t, 0, 0, b.payload)
	l4 := etherHeader + 20
	if b.v6 {
		l4 += 20
	}
	if b.vlan {
		l4 += vlanTag
	}
	gso, skip := uint8(gsoTCPv4), 16
	switch {
	case b.udp:
		gso, skip = gsoUDPL4, 6
	case b.v6:
		gso = gsoTCPv6 | gsoECN
	}
	if b.size == 0 {
		gso = gsoNone
	}
	copy(frame[l4+skip:], pseudoOf(b, frame[:l4], len(frame)-l4))
	header := make([]byte, vnetLen)
	header[0], header[1] = flagNeedsCSum, gso
	binary.NativeEndian.PutUint16(header[4:], uint16(b.size))
	binary.NativeEndian.PutUint16(header[6:], uint16(l4))
	binary.NativeEndian.PutUint16(header[8:], uint16(skip))
	return append(header, frame...)
}

// pseudoOf is the sum of the pseudo header, word by word.
func pseudoOf(b bundle, headers []byte, length int) []byte {
	addresses, protocol := headers[len(headers)-8:], uint32(6)
	if b.v6 {
		addresses = headers[len(headers)-32:]
	}
	if b.udp {
		protocol = 17
	}
	s := protocol + uint32(length)
	for i := 0; i < len(addresses); i += 2 {
		s += uint32(binary.BigEndian.Uint16(addresses[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return binary.BigEndian.AppendUint16(nil, uint16(s))
}

func unpackAll(packet []byte, batch int) (frames [][]byte, c *counters) {
	c = new(counters)
	u := newUnpacker(c)
	u.start(packet)
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, len(packet)+vlanTag)
	}
	for !u.empty() {
		n := u.fill(bufs, sizes, 0)
		for i := range n {
			frames = append(frames, bytes.Clone(bufs[i][:sizes[i]]))
		}
	}
	return frames, c
}

const maxTestFrame = 1<<16 + etherHeader

func TestSegments(t *testing.T) {
	for _, b := range []bundle{
		{payload: 1000, size: 0},
		{payload: 1001, size: 0, v6: true},
		{payload: 999, size: 0, udp: true},
		{payload: 5000, size: 1448},
		{payload: 1448 * 3, size: 1448},
		{payload: 60001, size: 1447, odd: 9},
		{payload: 5000, size: 1428, v6: true},
		{payload: 5001, size: 1424, v6: true, vlan: true},
		{payload: 5001, size: 1444, vlan: true},
		{payload: 100, size: 1448},
		{payload: 30, size: 10},
		{payload: 5000, size: 1200, udp: true},
		{payload: 5000, size: 1200, udp: true, v6: true},
		{payload: 37800, size: 27, udp: true, odd: 3},
	} {
		frames, c := unpackAll(b.packet(t), 7)
		require.Zero(t, c.malformed.Load())
		size := b.size
		if size == 0 {
			size = b.payload
		}
		index := 0
		for from := 0; from < b.payload; from += size {
			to := min(from+size, b.payload)
			want := b.frame(t, index, from, to)
			require.Less(t, index, len(frames))
			require.Equal(t, want, frames[index], "%+v: segment %d", b, index)
			index++
		}
		require.Len(t, frames, index, "%+v", b)
	}
}

func TestUnpackBounds(t *testing.T) {
	c := new(counters)
	u := newUnpacker(c)
	u.start(bundle{payload: 3000, size: 1000}.packet(t))
	small, sizes := [][]byte{make([]byte, 900), make([]byte, 2000)}, make([]int, 2)
	require.Zero(t, u.fill(small[:1], sizes, 0), "nothing fits")
	require.True(t, u.empty())
	require.EqualValues(t, 3, c.tooLong.Load(), "dropped, not cut")

	for name, spoil := range map[string]func(p []byte) []byte{
		"no header":        func(p []byte) []byte { return p[:9] },
		"unknown gso":      func(p []byte) []byte { p[1] = 9; return p },
		"size zero":        func(p []byte) []byte { p[4], p[5] = 0, 0; return p },
		"checksum at 0":    func(p []byte) []byte { p[6], p[7] = 0, 0; return p },
		"checksum far":     func(p []byte) []byte { p[6], p[7] = 0xff, 0xff; return p },
		"wrong IP version": func(p []byte) []byte { p[vnetLen+14] = 0x65; return p },
		"short IP header":  func(p []byte) []byte { p[vnetLen+14] = 0x44; return p },
		"not IP":           func(p []byte) []byte { p[vnetLen+12] = 9; return p },
		"not TCP":          func(p []byte) []byte { p[vnetLen+14+9] = 50; return p },
		"long TCP header":  func(p []byte) []byte { p[vnetLen+34+12] = 0xf0; return p[:vnetLen+34+30] },
		"cut short":        func(p []byte) []byte { return p[:vnetLen+15] },
	} {
		frames, c := unpackAll(spoil(bundle{payload: 3000, size: 1000}.packet(t)), 4)
		require.Empty(t, frames, name)
		require.EqualValues(t, 1, c.malformed.Load(), name)
	}
}

func TestInsertTag(t *testing.T) {
	want := bundle{vlan: true, payload: 100}
	plain := bundle{payload: 100}
	c := new(counters)
	u := newUnpacker(c)
	u.start(plain.packet(t))
	u.setTag([vlanTag]byte{0x81, 0, 0, 5})
	bufs, sizes := [][]byte{make([]byte, maxTestFrame)}, make([]int, 1)
	require.Equal(t, 1, u.fill(bufs, sizes, 0))
	require.Equal(t, want.frame(t, 0, 0, 100), bufs[0][:sizes[0]])
}

func TestUnpackAllocatesNothing(t *testing.T) {
	packet := bundle{payload: 60000, size: 1448}.packet(t)
	bufs, sizes := make([][]byte, 64), make([]int, 64)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	u := newUnpacker(new(counters))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		u.start(packet)
		for !u.empty() {
			u.fill(bufs, sizes, 0)
		}
	}))
}

func FuzzUnpack(f *testing.F) {
	for _, b := range []bundle{
		{payload: 100}, {payload: 3000, size: 1000}, {payload: 3000, size: 1000, v6: true}, {payload: 3000, size: 1000, vlan: true},
		{payload: 3000, size: 999, udp: true},
	} {
		f.Add(b.packet(f))
	}
	for _, kind := range []string{"vxlan", "gre", "ipip"} {
		f.Add(around{kind: kind, checksum: true, inner: bundle{payload: 3000, size: 1000}}.packet(f))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > 4096 {
			return // a byte of payload may make a frame
		}
		total := len(packet)
		frames, c := unpackAll(packet, 8)
		if c.malformed.Load() > 0 && len(frames) > 0 {
			t.Fatal("frames out of a malformed packet")
		}
		for _, f := range frames {
			if len(f) > total {
				t.Fatal("a frame longer than the packet it is from")
			}
		}
	})
}

func BenchmarkSegments(b *testing.B) {
	packet := bundle{payload: 60000, size: 1448}.packet(b)
	bufs, sizes := make([][]byte, 64), make([]int, 64)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	u := newUnpacker(new(counters))
	b.SetBytes(60000)
	for b.Loop() {
		u.start(packet)
		for !u.empty() {
			u.fill(bufs, sizes, 0)
		}
	}
}

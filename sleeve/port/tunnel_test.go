package port

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
)

// around is a tunnel's packet, from which the test makes what the kernel would hand over, and what has to come out.
type around struct {
	v6, vlan, checksum bool // of the outer packet
	kind               string
	inner              bundle
}

func (a around) l3(index int) gopacket.SerializableLayer {
	protocol := map[string]layers.IPProtocol{
		"vxlan": layers.IPProtocolUDP, "gre": layers.IPProtocolGRE, "ipip": layers.IPProtocolIPv4,
	}[a.kind]
	if a.v6 {
		return &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: protocol, SrcIP: net.ParseIP("fd01::1"), DstIP: net.ParseIP("fd01::2")}
	}
	return &layers.IPv4{Version: 4, TTL: 9, Id: 65534 + uint16(index), Protocol: protocol, SrcIP: net.IP{10, 1, 0, 1}, DstIP: net.IP{10, 1, 0, 2}}
}

// frame serializes the packet around an inner frame.
func (a around) frame(t testing.TB, index int, inner []byte) []byte {
	t.Helper()
	etherType := layers.EthernetTypeIPv4
	if a.v6 {
		etherType = layers.EthernetTypeIPv6
	}
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, EthernetType: etherType}
	all := []gopacket.SerializableLayer{ethernet}
	if a.vlan {
		ethernet.EthernetType = layers.EthernetTypeDot1Q
		all = append(all, &layers.Dot1Q{VLANIdentifier: 7, Type: etherType})
	}
	l3 := a.l3(index)
	all = append(all, l3)
	switch a.kind {
	case "vxlan":
		udp := &layers.UDP{SrcPort: 50000, DstPort: 4789}
		require.NoError(t, udp.SetNetworkLayerForChecksum(l3.(gopacket.NetworkLayer)))
		all = append(all, udp, gopacket.Payload(append([]byte{8, 0, 0, 0, 0, 0, 5, 0}, inner...)))
	case "gre":
		inner = append([]byte{0, 0, inner[12], inner[13]}, inner[etherHeader:]...)
		all = append(all, gopacket.Payload(inner))
	case "ipip":
		all = append(all, gopacket.Payload(inner[etherHeader:]))
	}
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	frame := buf.Bytes()
	if !a.checksum && a.kind == "vxlan" {
		clear(frame[len(frame)-len(inner)-10:][:2])
	}
	return frame
}

// packet is what the kernel hands over.
func (a around) packet(t testing.TB) []byte {
	inner := a.inner.packet(t)
	header, inner := slices.Clone(inner[:vnetLen]), inner[vnetLen:]
	frame := a.frame(t, 0, inner)
	at := int(binary.NativeEndian.Uint16(header[6:])) + len(frame) - len(inner)
	if a.kind == "vxlan" && a.checksum { // it would be that of the whole, which nobody wants to know
		copy(frame[len(frame)-len(inner)-10:], []byte{1, 2})
	}
	binary.NativeEndian.PutUint16(header[6:], uint16(at))
	return append(header, frame...)
}

func TestTunnels(t *testing.T) {
	tcp4, tcp6 := bundle{payload: 5000, size: 1200}, bundle{payload: 60001, size: 1199, v6: true}
	for _, a := range []around{
		{kind: "vxlan", inner: tcp4},
		{kind: "vxlan", inner: tcp4, checksum: true, vlan: true},
		{kind: "vxlan", inner: tcp6, checksum: true},
		{kind: "vxlan", inner: tcp6, v6: true, checksum: true},
		{kind: "vxlan", inner: bundle{payload: 5000, size: 1199, vlan: true, odd: 7}, v6: true, checksum: true, vlan: true},
		{kind: "vxlan", inner: bundle{payload: 5000, size: 1111, udp: true}},
		{kind: "vxlan", inner: bundle{payload: 5000, size: 1111, udp: true, v6: true}, checksum: true},
		{kind: "gre", inner: tcp4},
		{kind: "gre", inner: tcp6, v6: true},
		{kind: "ipip", inner: tcp4},
		{kind: "ipip", inner: tcp4, v6: true, vlan: true},
	} {
		frames, c := unpackAll(a.packet(t), 7)
		require.Zero(t, c.malformed.Load(), "%+v", a)
		index := 0
		for from := 0; from < a.inner.payload; from += a.inner.size {
			to := min(from+a.inner.size, a.inner.payload)
			want := a.frame(t, index, a.inner.frame(t, index, from, to))
			require.Less(t, index, len(frames), "%+v", a)
			require.Equal(t, want, frames[index], "%+v: segment %d", a, index)
			index++
		}
		require.Len(t, frames, index, "%+v", a)
	}
}

func TestTunnelBounds(t *testing.T) {
	packet := around{kind: "vxlan", inner: bundle{payload: 3000, size: 1000}}.packet(t)
	gre := around{kind: "gre", inner: bundle{payload: 3000, size: 1000}}.packet(t)
	const ip = vnetLen + etherHeader
	for name, p := range map[string][]byte{
		"another protocol":   spoil(packet, ip+9, 50),
		"not IP":             spoil(packet, vnetLen+12, 9),
		"options of nothing": spoil(packet, ip, 0x44),
		"inner length":       spoil(packet, ip+20+8+8+14+3, 1),
		"inner protocol":     spoil(packet, ip+20+8+8+14+9, 50),
		"GRE with checksum":  spoil(gre, ip+20, 0x80),
		"GRE with sequence":  spoil(gre, ip+20, 0x10),
		"cut short":          packet[:ip+30],
	} {
		frames, c := unpackAll(p, 4)
		require.Empty(t, frames, name)
		require.EqualValues(t, 1, c.malformed.Load(), name)
	}
}

func spoil(packet []byte, at int, to byte) []byte {
	packet = bytes.Clone(packet)
	packet[at] = to
	return packet
}

// TestSCTPChecksum sees that a packet of SCTP gets the checksum of SCTP.
func TestSCTPChecksum(t *testing.T) {
	ip := &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolSCTP, SrcIP: net.IP{10, 1, 0, 1}, DstIP: net.IP{10, 1, 0, 2}}
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, EthernetType: layers.EthernetTypeIPv4}
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ethernet, ip,
		&layers.SCTP{SrcPort: 5, DstPort: 6, VerificationTag: 7}, gopacket.Payload(bytes.Repeat([]byte{3, 0, 0, 8}, 10))))
	want := buf.Bytes()
	header := make([]byte, vnetLen)
	header[0] = flagNeedsCSum
	binary.NativeEndian.PutUint16(header[6:], etherHeader+20)
	binary.NativeEndian.PutUint16(header[8:], sctpChecksum)
	packet := append(header, want...)
	clear(packet[vnetLen+etherHeader+20+sctpChecksum:][:4])
	frames, c := unpackAll(packet, 2)
	require.Zero(t, c.malformed.Load())
	require.Equal(t, [][]byte{want}, frames)
	frames, _ = unpackAll(packet[:vnetLen+etherHeader+20+sctpChecksum+3], 2)
	require.Empty(t, frames)
}

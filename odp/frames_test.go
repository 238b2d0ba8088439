package odp_test

import (
	"net"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
)

// headers are those of a frame to be built; nil ones are not there. They are changed by a test's edit before lengths and
// checksums are computed, by code that has nothing to do with the kernel's or ours.
type headers struct {
	eth  layers.Ethernet
	tags []layers.Dot1Q
	mpls []layers.MPLS
	ip4  *layers.IPv4
	ip6  *layers.IPv6
	tcp  *layers.TCP
	udp  *layers.UDP
	sctp *layers.SCTP
	data []byte
}

type edit func(h *headers)

func hw(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

// build makes the frame after an edit, which may be nil.
func (h headers) build(t testing.TB, change edit) []byte {
	t.Helper()
	if change != nil {
		change(&h)
	}
	var list []gopacket.SerializableLayer
	add := func(l gopacket.SerializableLayer, there bool) {
		if there {
			list = append(list, l)
		}
	}
	add(&h.eth, true)
	for i := range h.tags {
		add(&h.tags[i], true)
	}
	for i := range h.mpls {
		add(&h.mpls[i], true)
	}
	add(h.ip4, h.ip4 != nil)
	add(h.ip6, h.ip6 != nil)
	var network gopacket.NetworkLayer = h.ip4
	if h.ip6 != nil {
		network = h.ip6
	}
	if h.tcp != nil {
		require.NoError(t, h.tcp.SetNetworkLayerForChecksum(network))
	}
	if h.udp != nil {
		require.NoError(t, h.udp.SetNetworkLayerForChecksum(network))
	}
	add(h.tcp, h.tcp != nil)
	add(h.udp, h.udp != nil)
	add(h.sctp, h.sctp != nil)
	add(gopacket.Payload(h.data), true)
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...))
	return slices.Clone(buf.Bytes())
}

func overIPv4(proto layers.IPProtocol) headers {
	return headers{
		eth: layers.Ethernet{SrcMAC: hw(1), DstMAC: hw(2), EthernetType: layers.EthernetTypeIPv4},
		ip4: &layers.IPv4{
			Version: 4, IHL: 5, TTL: 64, Id: 7, Flags: layers.IPv4DontFragment, Protocol: proto,
			SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2},
		},
		// Long enough that the Ethernet layer adds nothing.
		data: []byte("sixty bytes is what a frame has to have at the least, so here they are"),
	}
}

func overIPv6(proto layers.IPProtocol) headers {
	h := overIPv4(proto)
	h.eth.EthernetType, h.ip4 = layers.EthernetTypeIPv6, nil
	h.ip6 = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("fd00::2")}
	return h
}

func udp4() headers {
	h := overIPv4(layers.IPProtocolUDP)
	h.udp = &layers.UDP{SrcPort: 1000, DstPort: 2000}
	return h
}

func tcp4() headers {
	h := overIPv4(layers.IPProtocolTCP)
	h.tcp = &layers.TCP{SrcPort: 1000, DstPort: 2000, Seq: 1, SYN: true, Window: 1000}
	return h
}

func sctp4() headers {
	h := overIPv4(layers.IPProtocolSCTP)
	h.sctp = &layers.SCTP{SrcPort: 1000, DstPort: 2000, VerificationTag: 5}
	h.data = append([]byte{0, 3, 0, byte(len(h.data))}, h.data...)
	return h
}

func udp6() headers {
	h := overIPv6(layers.IPProtocolUDP)
	h.udp = &layers.UDP{SrcPort: 1000, DstPort: 2000}
	return h
}

func tcp6() headers {
	h := overIPv6(layers.IPProtocolTCP)
	h.tcp = &layers.TCP{SrcPort: 1000, DstPort: 2000, Seq: 1, SYN: true, Window: 1000}
	return h
}

// tagged has VLAN tags, the outermost first, given by their types.
func tagged(h headers, types ...layers.EthernetType) headers {
	inner := h.eth.EthernetType
	for i, typ := range types {
		if i == 0 {
			h.eth.EthernetType = typ
		} else {
			h.tags[i-1].Type = typ
		}
		h.tags = append(h.tags, layers.Dot1Q{VLANIdentifier: uint16(5 + 2*i), Priority: uint8(3 - i), Type: inner})
	}
	return h
}

// labelled has an MPLS label stack entry in front of its IP header.
func labelled(h headers, label uint32) headers {
	h.eth.EthernetType = layers.EthernetTypeMPLSUnicast
	h.mpls = append(h.mpls, layers.MPLS{Label: label, TrafficClass: 1, TTL: 9, StackBottom: true})
	return h
}

// encapsulated is a whole frame in a service header (RFC 8300) with context 1, 2, 3, 4.
func encapsulated(t testing.TB, outer, inner headers, ttl byte) []byte {
	nsh := []byte{ttl >> 2, ttl<<6 | 6, 1, 3, 0, 0, 5, 255, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4}
	h := headers{eth: outer.eth, data: append(nsh, inner.build(t, nil)...)}
	h.eth.EthernetType = 0x894f
	return h.build(t, nil)
}

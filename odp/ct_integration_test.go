//go:build linux

package odp_test

import (
	"context"
	"net"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/odp"
)

// conversation is a frame, and one that answers it.
func conversation(t *testing.T, port layers.UDPPort) (there, back func(edit) []byte) {
	base := func(h *headers) {
		h.udp.SrcPort, h.udp.DstPort = port, 53
	}
	there = func(more edit) []byte {
		return udp4().build(t, func(h *headers) { base(h); apply(more, h) })
	}
	back = func(more edit) []byte {
		return udp4().build(t, func(h *headers) {
			base(h)
			h.eth.SrcMAC, h.eth.DstMAC = h.eth.DstMAC, h.eth.SrcMAC
			h.ip4.SrcIP, h.ip4.DstIP = h.ip4.DstIP, h.ip4.SrcIP
			h.udp.SrcPort, h.udp.DstPort = h.udp.DstPort, h.udp.SrcPort
			apply(more, h)
		})
	}
	return there, back
}

func apply(e edit, h *headers) {
	if e != nil {
		e(h)
	}
}

// first is the flow for frames that come in by a port, second for those that went through the first.
func first(port, actions string) [2]string {
	return [2]string{"recirc_id(0),in_port(" + port + "),eth(),eth_type(0x0800),ipv4(frag=no)", actions}
}

func second(port, state, more, actions string) [2]string {
	return [2]string{"recirc_id(0x1),ct_state(" + state + "),in_port(" + port + ")," + more + "eth(),eth_type(0x0800),ipv4(frag=no)", actions}
}

// Connections are tracked: their state, mark, labels and first packet can be matched behind the action.
func TestIntegrationConntrack(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest13")
	there, back := conversation(t, 1001)
	w.rules(t, first("1", "ct,recirc(0x1)"), first("2", "ct,recirc(0x1)"),
		second("1", "+new+trk", "", "ct(commit,mark=0x5/0xff,label=0x6/0xff),2"),
		second("1", "-new+est+trk", "ct_mark(0x5),ct_label(0x6),ct_tuple4(src=10.0.0.1,tp_src=1001),", "3"),
		second("2", "+est+rpl+trk", "ct_mark(0x5/0xf),", "1"))
	require.Equal(t, out(outPort, there(nil)), w.through(t, inPort, there(nil)), "a new connection")
	require.Equal(t, out(inPort, back(nil)), w.through(t, outPort, back(nil)), "its answer")
	require.Equal(t, out(altPort, there(nil)), w.through(t, inPort, there(nil)), "what follows")

	w.rules(t, first("1", "ct,ct_clear,recirc(0x1)"), second("1", "-trk", "", "2"), second("1", "+trk", "", "3"))
	require.Equal(t, out(outPort, there(nil)), w.through(t, inPort, there(nil)), "forgotten again")

	w.rules(t, first("1", "ct(force_commit,mark=0x9/0xff),recirc(0x1)"), second("1", "+trk", "ct_mark(0x9),", "2"))
	require.Equal(t, out(outPort, there(nil)), w.through(t, inPort, there(nil)))
}

// Addresses and ports are translated, and the answers are translated back.
func TestIntegrationNAT(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest14")
	translated := net.IP{10, 9, 9, 9}
	for i, c := range []struct {
		nat    string
		port   layers.UDPPort
		change edit // of the frame on its way there
		answer edit // of its answer, as it comes in
	}{
		{"nat(src=10.9.9.9)", 1011, func(h *headers) { h.ip4.SrcIP = translated }, func(h *headers) { h.ip4.DstIP = translated }},
		{"nat(src=10.9.9.9:5000-5001,hash)", 1012, nil, nil},
		{"nat(dst=10.9.9.9)", 1013, func(h *headers) { h.ip4.DstIP = translated }, func(h *headers) { h.ip4.SrcIP = translated }},
		{"nat(dst=10.9.9.9:99)", 1014, func(h *headers) { h.ip4.DstIP, h.udp.DstPort = translated, 99 },
			func(h *headers) { h.ip4.SrcIP, h.udp.SrcPort = translated, 99 }},
	} {
		t.Run(c.nat, func(t *testing.T) {
			there, back := conversation(t, c.port)
			w.rules(t, first("1", "ct(commit,"+c.nat+"),2"), first("2", "ct(nat),recirc(0x1)"), second("2", "+rpl+trk", "", "1"))
			got := w.through(t, inPort, there(nil))[outPort]
			require.Len(t, got, 1)
			if c.change == nil { // the kernel chooses the port
				for p := layers.UDPPort(5000); p <= 5001; p++ {
					change := func(h *headers) { h.ip4.SrcIP, h.udp.SrcPort = translated, p }
					if got[0] == out(outPort, there(change))[outPort][0] {
						c.change = change
						c.answer = func(h *headers) { h.ip4.DstIP, h.udp.DstPort = translated, p }
					}
				}
				require.NotNil(t, c.change, "case %d: %s", i, got[0])
			}
			require.Equal(t, out(outPort, there(c.change))[outPort], got)
			require.Equal(t, out(inPort, back(nil)), w.through(t, outPort, back(c.answer)))
		})
	}
}

// Limits of tracked connections are kept by the kernel: packets of connections beyond them are dropped.
func TestIntegrationConntrackLimits(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest15")
	c := w.conn
	all, err := c.ZoneLimits(t.Context())
	require.NoError(t, err)
	require.Equal(t, []odp.ZoneLimit{{Zone: odp.DefaultZone}}, all)
	require.NoError(t, c.SetZoneLimits(t.Context(), odp.ZoneLimit{Zone: odp.DefaultZone, Limit: 100}, odp.ZoneLimit{Zone: 0, Limit: 3}))
	t.Cleanup(func() {
		require.NoError(t, c.SetZoneLimits(context.Background(), odp.ZoneLimit{Zone: odp.DefaultZone}))
	})
	w.rules(t, first("1", "ct(commit),2"))
	var in [][]byte
	for i := range 5 {
		there, _ := conversation(t, layers.UDPPort(2000+i))
		in = append(in, there(nil))
	}
	require.Equal(t, out(outPort, in[:3]...), w.through(t, inPort, in...))
	got, err := c.ZoneLimits(t.Context(), 0)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.EqualValues(t, 3, got[0].Limit)
	require.GreaterOrEqual(t, got[0].Count, uint32(3), "some kernels also count those that they refused, for a while")
	require.NoError(t, c.DeleteZoneLimits(t.Context(), 0))
	all, err = c.ZoneLimits(t.Context())
	require.NoError(t, err)
	require.Equal(t, []odp.ZoneLimit{{Zone: odp.DefaultZone, Limit: 100}}, all)
	require.ErrorIs(t, c.SetZoneLimits(t.Context(), odp.ZoneLimit{Zone: 1 << 16, Limit: 1}), odp.ErrInvalidFlow)
}

// The same addresses are different connections in different zones, and zones can be matched. Needs a kernel with zones.
func TestIntegrationConntrackZones(t *testing.T) {
	if !inKernel(t, lab.ConntrackZones) {
		return
	}
	w := newWire(t, "odptest16")
	there, back := conversation(t, 1021)
	w.rules(t, first("1", "ct(zone=7),recirc(0x1)"), first("2", "ct(zone=7),recirc(0x1)"), first("3", "ct(zone=8),recirc(0x1)"),
		second("1", "+new+trk", "ct_zone(0x7),", "ct(commit,zone=7),2"), second("2", "+est+rpl+trk", "ct_zone(0x7),", "1"),
		second("1", "-new+est+trk", "ct_zone(0x7),", "3"), second("3", "+new+trk", "ct_zone(0x8),", "1"))
	require.Equal(t, out(outPort, there(nil)), w.through(t, inPort, there(nil)))
	require.Equal(t, out(inPort, back(nil)), w.through(t, outPort, back(nil)))
	require.Equal(t, out(altPort, there(nil)), w.through(t, inPort, there(nil)), "known in this zone")
	require.Equal(t, out(inPort, there(nil)), w.through(t, altPort, there(nil)), "new in the other")

	require.NoError(t, w.conn.SetZoneLimits(t.Context(), odp.ZoneLimit{Zone: 9, Limit: 1}))
	w.rules(t, first("1", "ct(commit,zone=9),2"))
	other, _ := conversation(t, 1022)
	require.Equal(t, out(outPort, there(nil)), w.through(t, inPort, there(nil), other(nil)), "the second is over the limit")
	require.NoError(t, w.conn.DeleteZoneLimits(t.Context(), 9))

	const ftp = "ct(commit,zone=5,helper=ftp),2"
	w.rules(t, [2]string{"in_port(1),eth(),eth_type(0x0800),ipv4(proto=6,frag=no)", ftp})
	require.Equal(t, ftp, odp.Notation{}.Actions(only(t, w.conn, w.dp).Actions))
	f := tcp4().build(t, func(h *headers) { h.tcp.DstPort = 21 })
	require.Equal(t, out(outPort, f), w.through(t, inPort, f))
}

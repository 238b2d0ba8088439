//go:build linux

package odp_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

// trip is what becomes of frames that come in by port 1, or by ipPort if layer3.
type trip struct {
	name   string
	needs  []odp.Feature
	flows  [][2]string
	layer3 bool
	in     [][]byte
	want   map[uint32][]string
}

// rule is a flow for what comes in by port 1.
func rule(match, actions string) [][2]string {
	if match != "" {
		match = "," + match
	}
	return [][2]string{{"in_port(1),eth()" + match, actions}}
}

func frames(list ...[]byte) [][]byte { return list }

func (r trip) run(t *testing.T, w *wire) {
	for _, f := range r.needs {
		if err := w.conn.Probe(t.Context(), w.dp, f); errors.Is(err, odp.ErrNotSupported) {
			t.Skip(err)
		} else {
			require.NoError(t, err)
		}
	}
	w.rules(t, r.flows...)
	from := uint32(inPort)
	if r.layer3 {
		from = ipPort
	}
	require.Equal(t, r.want, w.through(t, from, r.in...))
}

// Frames come out of the datapath changed as the actions say, to the byte: one trip for each action.
func TestIntegrationTrips(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest1")
	for _, trips := range [][]trip{outputTrips(t), pushTrips(t), branchTrips(t), metadataTrips(t)} {
		for _, r := range trips {
			t.Run(r.name, func(t *testing.T) { r.run(t, w) })
		}
	}
}

// A meter lets pass its burst, and then as many packets in a second as it says.
func TestIntegrationMeter(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest27")
	start := time.Now()
	require.NoError(t, w.conn.SetMeter(t.Context(), w.dp, odp.MeterInfo{ID: 5, Rate: 1, Burst: 2}))
	w.rules(t, rule("", "meter(5),2")...)
	const sent = 20
	passed := len(w.through(t, inPort, repeat(udp4().build(t, nil), sent)...)[outPort])
	require.GreaterOrEqual(t, passed, 2)
	require.LessOrEqual(t, passed, 2+int(time.Since(start)/time.Second+1))
	m, err := w.conn.Meter(t.Context(), w.dp, 5)
	require.NoError(t, err)
	require.EqualValues(t, sent, m.Stats.Packets)
	require.EqualValues(t, sent-passed, m.Stats.DroppedPackets)

	require.NoError(t, w.conn.SetMeter(t.Context(), w.dp, odp.MeterInfo{ID: 5, Rate: 1000}))
	five := repeat(udp4().build(t, nil), 5)
	require.Equal(t, out(outPort, five...), w.through(t, inPort, five...), "without a burst, it is the rate")
}

func outputTrips(t *testing.T) []trip {
	f := udp4().build(t, nil)
	return []trip{
		{name: "output", flows: rule("", "2"), in: frames(f), want: out(outPort, f)},
		{name: "output twice", flows: rule("", "2,2"), in: frames(f), want: out(outPort, f, f)},
		{name: "output to no port", flows: rule("", "77"), in: frames(f), want: out(outPort)},
		{name: "no actions", flows: rule("", "drop"), in: frames(f), want: out(outPort)},
		{name: "drop", needs: []odp.Feature{odp.FeatureDrop}, flows: rule("", "2,drop(3)"), in: frames(f), want: out(outPort, f)},
		{name: "trunc", flows: rule("", "trunc(20),2,2"), in: frames(f), want: out(outPort, f[:20], f)},
		{name: "set eth", flows: rule("", "set(eth(src=02:00:00:00:00:09,dst=02:00:00:00:00:08)),2"), in: frames(f),
			want: out(outPort, udp4().build(t, func(h *headers) { h.eth.SrcMAC, h.eth.DstMAC = hw(9), hw(8) }))},
	}
}

func pushTrips(t *testing.T) []trip {
	f := udp4().build(t, nil)
	const single, double = layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ
	tag, qinq := tagged(udp4(), single).build(t, nil), tagged(udp4(), double, single).build(t, nil)
	label := labelled(udp4(), 7).build(t, nil)
	nsh := encapsulated(t, overIPv4(0), udp4(), 63)
	const service = "flags=0,ttl=63,mdtype=1,np=3,spi=0x5,si=255,c1=0x1,c2=0x2,c3=0x3,c4=0x4"
	const ip = "eth_type(0x0800)"
	return []trip{
		{name: "push_vlan", flows: rule(ip, "push_vlan(vid=5,pcp=3),2"), in: frames(f), want: out(outPort, tag)},
		{name: "push_vlan twice", flows: rule(ip, "push_vlan(vid=7,pcp=2),push_vlan(tpid=0x88a8,vid=5,pcp=3),2"), in: frames(f), want: out(outPort, qinq)},
		{name: "pop_vlan", flows: rule("eth_type(0x8100),vlan(vid=5),encap(eth_type(0x0800))", "pop_vlan,2"), in: frames(tag), want: out(outPort, f)},
		{name: "pop_vlan twice", flows: rule("eth_type(0x88a8),vlan(vid=5),encap(eth_type(0x8100),vlan(vid=7,pcp=2),encap(eth_type(0x0800)))", "pop_vlan,pop_vlan,2"),
			in: frames(qinq, tag), want: out(outPort, f)},
		{name: "push_mpls", flows: rule(ip, "push_mpls(label=7,tc=1,ttl=9,bos=1,eth_type=0x8847),2"), in: frames(f), want: out(outPort, label)},
		{name: "pop_mpls", flows: rule("eth_type(0x8847),mpls(label=7,bos=1)", "pop_mpls(eth_type=0x800),2"), in: frames(label), want: out(outPort, f)},
		{name: "set mpls", flows: rule("eth_type(0x8847),mpls(bos=1)", "set(mpls(label=8,tc=1,ttl=9,bos=1)),2"), in: frames(label),
			want: out(outPort, labelled(udp4(), 8).build(t, nil))},
		{name: "add_mpls", needs: []odp.Feature{odp.FeatureOfAction(odp.AddMPLS{})},
			flows: rule(ip, "add_mpls(label=7,tc=1,ttl=9,bos=1,eth_type=0x8847,layer3),2"), in: frames(f), want: out(outPort, label)},
		{name: "pop_eth", flows: rule(ip, "pop_eth,4"), in: frames(f), want: out(ipPort, f[14:])},
		{name: "push_eth", layer3: true, in: frames(f[14:]), want: out(outPort, f),
			flows: [][2]string{{"in_port(4),packet_type(ns=1,id=0x800),eth_type(0x0800)", "push_eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),2"}}},
		{name: "push_nsh", flows: rule(ip, "push_nsh("+service+"),push_eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),2"), in: frames(f), want: out(outPort, nsh)},
		{name: "pop_nsh", flows: rule("eth_type(0x894f),nsh(mdtype=1,np=3,spi=0x5,c4=0x4)", "pop_eth,pop_nsh(),2"), in: frames(nsh), want: out(outPort, f)},
	}
}

func branchTrips(t *testing.T) []trip {
	f := udp4().build(t, nil)
	long := udp4().build(t, func(h *headers) { h.data = append(h.data, make([]byte, 100)...) })
	dying := udp4().build(t, func(h *headers) { h.ip4.TTL = 1 })
	moved := udp4().build(t, func(h *headers) { h.eth.SrcMAC = hw(9) })
	two := func(a, b []byte) map[uint32][]string {
		return map[uint32][]string{outPort: out(outPort, a)[outPort], altPort: out(altPort, b)[altPort]}
	}
	ten := frames(f, f, f, f, f, f, f, f, f, f)
	return []trip{
		{name: "clone", flows: rule("", "clone(set(eth(src=02:00:00:00:00:09)),3),2"), in: frames(f), want: two(f, moved)},
		{name: "sample always", flows: rule("", "sample(sample=100.0%,actions(set(eth(src=02:00:00:00:00:09)),3)),2"), in: frames(f), want: two(f, moved)},
		{name: "sample never", flows: rule("", "sample(sample=0.0%,actions(3)),2"), in: ten, want: out(outPort, ten...)},
		{name: "check_pkt_len", flows: rule("", "check_pkt_len(size=150,gt(3),le(2))"), in: frames(f, long), want: two(f, long)},
		{name: "dec_ttl", flows: rule("eth_type(0x0800)", "dec_ttl(le_1(3)),2"), in: frames(f, dying),
			want: two(udp4().build(t, func(h *headers) { h.ip4.TTL = 63 }), dying)},
		{name: "meter that is not there", flows: rule("", "meter(6),2"), in: frames(f), want: out(outPort, f)},
		{name: "psample", needs: []odp.Feature{odp.FeaturePSample}, flows: rule("", "psample(group=1,cookie=0x01020304),2"), in: frames(f), want: out(outPort, f)},
	}
}

// Actions that leave the frame as it is show in what flows it matches afterwards.
func metadataTrips(t *testing.T) []trip {
	f := udp4().build(t, nil)
	after := func(actions string, second ...[2]string) [][2]string {
		return append([][2]string{{"recirc_id(0),in_port(1),eth(),eth_type(0x0800)", actions}}, second...)
	}
	const then = "recirc_id(0x1),in_port(1),"
	return []trip{
		{name: "recirc", flows: after("recirc(0x1)", [2]string{then + "eth()", "2"}), in: frames(f), want: out(outPort, f)},
		{name: "set skb_mark", flows: after("set(skb_mark(0x5)),recirc(0x1)", [2]string{then + "skb_mark(0x5),eth()", "2"}), in: frames(f), want: out(outPort, f)},
		{name: "set skb_mark in part", in: frames(f), want: out(outPort, f),
			flows: after("set(skb_mark(0xf0)),set(skb_mark(0x5/0xf)),recirc(0x1)", [2]string{then + "skb_mark(0xf5),eth()", "2"})},
		{name: "set skb_priority", flows: after("set(skb_priority(0x3)),recirc(0x1)", [2]string{"skb_priority(0x3)," + then + "eth()", "2"}), in: frames(f), want: out(outPort, f)},
	}
}

// Half of many packets are sampled, by and large.
func TestIntegrationSampleRate(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest7")
	w.rules(t, rule("", "sample(sample=50.0%,actions(3))")[0])
	n := 0
	for range 10 {
		n += len(w.through(t, inPort, repeat(udp4().build(t, nil), 100)...)[altPort])
	}
	require.InDelta(t, 500, n, 150, "this is nine times the standard deviation")
}

func repeat(frame []byte, n int) (list [][]byte) {
	for range n {
		list = append(list, frame)
	}
	return list
}

// A hash spreads connections, and keeps each together.
func TestIntegrationHashSpreads(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest8")
	w.rules(t, [2]string{"recirc_id(0),in_port(1),eth(),eth_type(0x0800)", "hash(l4(5)),recirc(0x1)"},
		[2]string{"recirc_id(0x1),dp_hash(0/0x1),in_port(1),eth()", "2"}, [2]string{"recirc_id(0x1),dp_hash(0x1/0x1),in_port(1),eth()", "3"})
	seen := map[uint32]int{}
	for i := range 64 {
		f := udp4().build(t, func(h *headers) { h.udp.SrcPort = layers.UDPPort(i) })
		got := w.through(t, inPort, f, f, f)
		require.Len(t, got, 1, "all of a connection go one way")
		for port, list := range got {
			require.Len(t, list, 3)
			seen[port]++
		}
	}
	require.Greater(t, seen[outPort], 8)
	require.Greater(t, seen[altPort], 8)
}

// The action userspace hands the packet, its key and what else was asked for to the socket.
func TestIntegrationUserspaceAction(t *testing.T) {
	if !inKernel(t) {
		return
	}
	w := newWire(t, "odptest9")
	f := udp4().build(t, nil)
	actions := []odp.Action{
		odp.Trunc(40), odp.Userspace{PID: w.up.PID(), Data: []byte("12345678"), Actions: true}, odp.Output(outPort),
	}
	require.NoError(t, w.conn.PutFlow(t.Context(), w.dp, odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(inPort))}, Actions: actions}))
	require.Equal(t, out(outPort, f), w.through(t, inPort, f))
	up := read(t, w.up)
	require.Equal(t, odp.ActionUpcall, up.Kind)
	require.Equal(t, f[:40], up.Packet)
	require.EqualValues(t, len(f), up.Len)
	require.Equal(t, []byte("12345678"), up.Userdata)
	list, err := up.Actions.Actions()
	require.NoError(t, err)
	require.Equal(t, odp.Notation{}.Actions(actions), odp.Notation{}.Actions(list))
	ip, ok := up.Key.IPv4()
	require.True(t, ok)
	require.Equal(t, "10.0.0.1", ip.Src.String())
}

package odp

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp/internal/nla"
)

type vector struct{ Name, Message string }

type vectors struct {
	Netlink struct {
		Reference []vector `json:"reference_messages"`
		Own       []vector `json:"own_messages"`
	} `json:"ovs_netlink"`
	Kernel []struct {
		vector
		Tunnel string `json:"tunnel_attributes"`
	} `json:"kernel_messages"`
}

func loadVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/fastdp.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

func (v vectors) message(t testing.TB, name string) message {
	t.Helper()
	for _, list := range [][]vector{v.Netlink.Reference, v.Netlink.Own} {
		for _, m := range list {
			if m.Name == name {
				return parseMessage(t, m.Message)
			}
		}
	}
	for _, m := range v.Kernel {
		if m.Name == name {
			return parseMessage(t, m.Message)
		}
	}
	t.Fatalf("no vector %s", name)
	return message{}
}

func parseMessage(t testing.TB, s string) message {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	m, rest, err := nextMessage(b)
	require.NoError(t, err)
	require.Empty(t, rest)
	return m
}

// What this package sends is what the vectors have, byte by byte.
func TestEncodeVectors(t *testing.T) {
	v := loadVectors(t)
	mac := func(s string) MAC { m, err := ParseMAC(s); require.NoError(t, err); return m }
	unicast := Match{Exact(InPort(1)), Exact(Ethernet{mac("d2:82:42:13:fd:98"), mac("62:07:dc:05:05:68")})}
	tunnel := Tunnel{ID: 0x13a134, Src: netip.MustParseAddr("192.168.12.2"), Dst: netip.MustParseAddr("192.168.12.1")}
	all := netip.MustParseAddr("255.255.255.255")
	mask := Tunnel{ID: 1<<64 - 1, Src: all, Dst: all}
	deliver := Match{Exact(InPort(2)), Exact(Ethernet{mac("62:07:dc:05:05:68"), mac("d2:82:42:13:fd:98")}), Masked(tunnel, mask)}
	ufid := Flow{UFID: "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", Actions: []Action{Output(0)},
		Match: Match{Exact(InPort(1)), Exact(Ethernet{mac("02:00:00:00:00:01"), mac("02:00:00:00:00:0d")})}}
	sixth := Flow{Match: Match{Exact(Ethernet{mac("02:00:00:00:00:01"), mac("02:00:00:00:00:0a")}), Exact(InPort(1))}, Actions: []Action{
		Set{Tunnel{ID: 5, Dst: netip.MustParseAddr("fd00::2"), TTL: 64}}, Output(2)}}
	for name, body := range map[string]func(*nla.Encoder){
		"flow_new_tunnel_deliver":  Flow{Match: deliver, Actions: []Action{Output(1)}}.appendTo,
		"flow_del":                 Flow{Match: unicast}.appendName,
		"flow_new_ufid":            orderOfVector(ufid),
		"flow_del_ufid":            ufid.appendName,
		"flow_new_set_tunnel_ipv6": sixth.appendTo,
		"vport_new_vxlan":          nil,
	} {
		t.Run(name, func(t *testing.T) {
			want := v.message(t, name)
			var e nla.Encoder
			if body == nil {
				spec := VportSpec{Name: "vxlan-6784", Type: VXLAN, DstPort: 6784}
				spec.appendTo(&e)
				require.Equal(t, sortedAttrs(t, want.body[8:]), sortedAttrs(t, e.B))
				return
			}
			body(&e)
			require.NoError(t, e.Err)
			require.Equal(t, sortedAttrs(t, want.body[8:]), sortedAttrs(t, e.B))
		})
	}
}

func orderOfVector(f Flow) func(*nla.Encoder) { return f.appendTo }

// sortedAttrs returns the attributes by type: their order at the top does not matter.
func sortedAttrs(t *testing.T, b []byte) map[uint16]string {
	t.Helper()
	out := make(map[uint16]string)
	it := nla.Iterate(b)
	for it.Next() {
		out[it.Type()] = hex.EncodeToString(it.Data())
	}
	require.NoError(t, it.Err())
	return out
}

// What the kernel sent is read, and sent again as it was.
func TestDecodeVectors(t *testing.T) {
	v := loadVectors(t)
	_, dp, attrs, err := v.message(t, "flow_dump_entry").ovs()
	require.NoError(t, err)
	require.EqualValues(t, 5, dp)
	f, err := decodeFlow(attrs)
	require.NoError(t, err)
	require.Equal(t, "tunnel(tun_id=0x79413a,src=192.168.12.1,dst=192.168.12.2,flags(+key)),in_port(2),"+
		"eth(src=d2:82:42:13:fd:98,dst=ff:ff:ff:ff:ff:ff),eth_type(0/0x0000), packets:1, bytes:42, actions:"+
		"1,set(tunnel(tun_id=0x13413a,src=192.168.12.2,dst=192.168.12.9,ttl=64,flags(df|key))),2", f.String())
	require.EqualValues(t, 2768, f.Stats.Used.Milliseconds())

	var up Upcall
	require.NoError(t, up.decode(v.message(t, "upcall_miss_vlan")))
	require.Equal(t, MissUpcall, up.Kind)
	m, err := up.Key.Match()
	require.NoError(t, err)
	require.Contains(t, m.String(), "eth_type(0x8100),vlan(vid=5,pcp=0),encap(eth_type(0x0800),ipv4(")
	require.NoError(t, up.decode(v.message(t, "upcall_miss_heartbeat")))
	require.Len(t, up.Packet, 80)
	var tun Tunnel
	ok, err := up.Key.Tunnel(&tun)
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 0x79413a, tun.ID)
	require.EqualValues(t, 45454, tun.SrcPort)
	require.Equal(t, TunnelKey|TunnelCSum, tun.Flags)

	_, dp, attrs, err = v.message(t, "dp_get_reply").ovs()
	require.NoError(t, err)
	d, err := decodeDatapath(dp, attrs)
	require.NoError(t, err)
	require.Equal(t, Datapath{Index: 5, Name: "datapath", Features: 3, MasksCache: 256, Stats: DatapathStats{1, 3, 0, 1}, Masks: MaskStats{1, 1, 0}}, d)
	_, dp, attrs, err = v.message(t, "vport_get_reply").ovs()
	require.NoError(t, err)
	port, err := decodeVport(dp, attrs)
	require.NoError(t, err)
	require.Equal(t, VXLAN, port.Type)
	require.EqualValues(t, 6784, port.DstPort)
	require.EqualValues(t, 156, port.Stats.RxBytes)
}

// A tunnel of the old 4.3 kernels, or anything else that has a wrong length, is an error and no more.
func TestMalformed(t *testing.T) {
	for name, b := range map[string]string{
		"short ipv4":      "0800070001020304",
		"long in_port":    "0c000300010000000000000000000000",
		"length below 4":  "03000300",
		"beyond the end":  "20000300",
		"tunnel id of 4":  "0c001000" + "08000000" + "00000001",
		"mpls of 3 bytes": "07001500" + "010203" + "00",
	} {
		raw, err := hex.DecodeString(b)
		require.NoError(t, err)
		_, err = decodeKeys(raw, 0)
		require.ErrorIs(t, err, ErrMalformed, name)
		var typed *DecodeError
		require.ErrorAs(t, err, &typed, name)
	}
	deep := []byte{}
	for range 30 {
		e := nla.Encoder{}
		e.Bytes(actClone, deep)
		deep = e.B
	}
	_, err := decodeActions(deep, 0)
	require.ErrorIs(t, err, ErrMalformed)
}

func TestUnknownIsCarried(t *testing.T) {
	e := nla.Encoder{}
	e.U32(99, 7)
	keys, err := decodeKeys(e.B, 0)
	require.NoError(t, err)
	require.Equal(t, "key99(07000000)", keys[0].String())
	list, err := decodeActions(e.B, 0)
	require.NoError(t, err)
	require.Equal(t, "action99(07000000)", list[0].String())
	again := nla.Encoder{}
	appendActionList(&again, list)
	require.Equal(t, e.B, again.B)
}

// What a newer kernel has put into a nest that we know makes all of the nest unknown, and nothing an error.
func TestUnknownInsideIsCarried(t *testing.T) {
	for _, typ := range []uint16{actSample, actDecTTL, actCheckPktLen, actPSample, actPushNSH} {
		var e nla.Encoder
		outer := e.Begin(actClone)
		inner := e.Begin(typ)
		e.U32(99, 7)
		e.End(inner)
		e.End(outer)
		list, err := decodeActions(e.B, 0)
		require.NoError(t, err)
		require.Equal(t, []Action{Clone{UnknownAction{Type: typ, Data: e.B[8:]}}}, list)
		var again nla.Encoder
		appendActionList(&again, list)
		require.Equal(t, e.B, again.B)
		read, err := ParseActions(list[0].String())
		require.NoError(t, err)
		require.Equal(t, list, read)
	}
	var e nla.Encoder
	nsh := e.Begin(keyNSH)
	e.U32(99, 7)
	e.End(nsh)
	keys, err := decodeKeys(e.B, 0)
	require.NoError(t, err)
	require.Equal(t, []Key{UnknownKey{Type: keyNSH, Data: e.B[4:]}}, keys)
}

func TestUFIDNotation(t *testing.T) {
	for _, id := range []UFID{"", "abc", "0123456789abcdef"} {
		again, err := ParseUFID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, again)
	}
	_, err := ParseUFID("ufid:" + strings.Repeat("00", 17))
	require.ErrorIs(t, err, ErrMalformed)
}

func TestFlowNotation(t *testing.T) {
	f := Flow{Match: Match{Exact(InPort(1))}, Stats: FlowStats{Packets: 2, Bytes: 3, Used: time.Second, TCPFlags: 0x12}}
	require.Equal(t, "in_port(1), packets:2, bytes:3, flags:S., actions:drop", f.String())
	require.Equal(t, "in_port(1), packets:2, bytes:3, used:0.500s, flags:S., actions:drop", Notation{Now: 1500 * time.Millisecond}.Flow(f))
	f.Stats = FlowStats{}
	require.Equal(t, "in_port(1), packets:0, bytes:0, used:never, actions:drop", Notation{Now: time.Second}.Flow(f))
}

// Making what is sent of a match allocates for the match as a whole, not for each rule that it is held to.
func TestPutAllocates(t *testing.T) {
	eth := Ethernet{Src: MAC{2, 1}, Dst: MAC{2, 2}}
	flow := Flow{
		Match:   Match{Exact(RecircID(0)), Exact(InPort(1)), Exact(eth), Exact(TypeIPv4), Masked(IPv4{Proto: 6}, IPv4{Proto: 0xff})},
		Actions: []Action{Output(2)},
	}
	var b Batch
	b.PutFlow(1, flow)
	allocs := testing.AllocsPerRun(100, func() {
		b.Reset()
		b.PutFlow(1, flow)
	})
	require.LessOrEqual(t, allocs, 4.0)
}

func TestMatchRules(t *testing.T) {
	m, err := ParseMatch("in_port(1),eth_type(0x0800),ipv4(proto=6)")
	require.NoError(t, err)
	all, err := m.Complete()
	require.NoError(t, err)
	require.Equal(t, "in_port(1),eth(),eth_type(0x0800),ipv4(proto=6)", all.String())
	for _, typ := range []uint16{keyEthernet, keyTCP, keyTCPFlags} {
		f, ok := all.field(typ)
		require.True(t, ok, keyName(typ))
		require.Nil(t, f.Mask())
	}
	for text, reason := range map[string]string{
		"in_port(1),in_port(2)":                                           "in_port: it is there twice",
		"in_port(1),tcp(src=5)":                                           "tcp: it needs an exact IP protocol 6",
		"eth_type(0x0800/0xff00),ipv4(proto=6)":                           "ipv4: it needs an exact eth_type 0x0800",
		"eth_type(0x0800),ipv4(proto=6/0xf),tcp(src=5)":                   "tcp: it needs an exact IP protocol 6",
		"eth_type(0x86dd),ipv4(proto=6)":                                  "ipv4: it needs an exact eth_type 0x0800",
		"eth_type(0x0800),ipv4(proto=6,frag=later),tcp(src=5)":            "tcp: it needs",
		"eth_type(0x8100),vlan(vid=5),encap(eth_type(0x0800),udp(src=1))": "udp: it needs",
		"eth_type(0x0800),ipv4(proto=17),tcp_flags(+syn)":                 "tcp_flags: it needs",
		"eth_type(0x894f),nsh(np=3,c4=0x5)":                               "nsh: a context needs mdtype 1",
	} {
		m, err := ParseMatch(text)
		require.NoError(t, err, text)
		_, err = m.Complete()
		require.ErrorIs(t, err, ErrInvalidFlow, text)
		require.ErrorContains(t, err, reason)
	}
	layer3, err := ParseMatch("packet_type(ns=1,id=0x800),eth_type(0x0800),ipv4()")
	require.NoError(t, err)
	all, err = layer3.Complete()
	require.NoError(t, err)
	_, ok := all.field(keyEthernet)
	require.False(t, ok)
}

func TestActionRules(t *testing.T) {
	for _, a := range []Action{
		Trunc(5), Userspace{}, CheckPktLen{}, Set{InPort(1)}, Set{Tunnel{ID: 1}}, CT{MarkMask: 1}, CT{NAT: &NAT{Src: true}},
		Clone{Trunc(1)}, Set{}, nil, PSample{Cookie: make([]byte, 17)},
	} {
		require.ErrorIs(t, checkActions([]Action{a}, 0), ErrInvalidFlow, "%v", a)
	}
	require.ErrorIs(t, checkActions([]Action{Drop(0), Output(1)}, 0), ErrInvalidFlow)
	require.NoError(t, checkActions([]Action{Output(1), Drop(0)}, 0))
}

// The bits of a value that its mask leaves out are cleared, wherever the two come from: the kernel refuses them.
func TestMaskedValues(t *testing.T) {
	const text = "set(ipv4(tos=0x20/0x60)),ct(commit,mark=0x20/0x60,label=0x20/0x60)"
	fromText, err := ParseActions(strings.ReplaceAll(text, "0x20", "0x3f"))
	require.NoError(t, err)
	ct := CT{Commit: true, Mark: 0x3f, MarkMask: 0x60, Labels: CTLabels{0x3f}, LabelsMask: CTLabels{0x60}}
	made := []Action{SetBits(IPv4{TOS: 0x3f}, IPv4{TOS: 0x60}), ct}
	for _, list := range [][]Action{fromText, made} {
		require.Equal(t, IPv4{Src: get4(make([]byte, 4)), Dst: get4(make([]byte, 4)), TOS: 0x20}, list[0].(SetMasked).Value())
		var e nla.Encoder
		appendActionList(&e, list)
		require.NoError(t, e.Err)
		decoded, err := decodeActions(e.B, 0)
		require.NoError(t, err)
		require.Equal(t, text, Notation{}.Actions(decoded))
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, s := range []string{"in_port(1", "in_port(x)", "nosuch(1)", "eth(src=1)", "ipv4(foo=1)", "in_port", "vlan(vid=5000)",
		"tunnel(geneve({class=1))", "encap(encap(encap(encap(encap(encap(in_port(1)))))))", strings.Repeat("(", 100)} {
		_, err := ParseMatch(s)
		require.ErrorIs(t, err, ErrMalformed, s)
		var typed *SyntaxError
		require.ErrorAs(t, err, &typed, s)
	}
	for _, s := range []string{"x", "trunc(x)", "set(5)", "hash(l4)", "1,drop", "sample(sample=200%,actions(1))", "ct(foo=1)",
		strings.Repeat("clone(", 30) + "1" + strings.Repeat(")", 30)} {
		_, err := ParseActions(s)
		require.ErrorIs(t, err, ErrMalformed, s)
	}
}

// An upcall is decoded, and looked at, without allocating.
func TestUpcallAllocates(t *testing.T) {
	m := loadVectors(t).message(t, "upcall_miss_arp")
	var up Upcall
	var tun Tunnel
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_ = up.decode(m)
		_, _ = up.Key.InPort()
		_, _ = up.Key.Ethernet()
		_, _ = up.Key.EtherType()
		_, _ = up.Key.Tunnel(&tun)
	}))
	require.EqualValues(t, 0x79413a, tun.ID)
}

func BenchmarkUpcallDecode(b *testing.B) {
	m := loadVectors(b).message(b, "upcall_miss_arp")
	var up Upcall
	b.ReportAllocs()
	for b.Loop() {
		_ = up.decode(m)
		_, _ = up.Key.InPort()
		_, _ = up.Key.Ethernet()
	}
}

func benchmarkFlow() Flow {
	return Flow{
		Match:   Match{Exact(RecircID(0)), Exact(InPort(1)), Exact(Ethernet{Src: MAC{2, 1}, Dst: MAC{2, 2}}), Exact(TypeARP)},
		Actions: []Action{Output(2)},
	}
}

func BenchmarkPutFlow(b *testing.B) {
	var batch Batch
	flow := benchmarkFlow()
	b.ReportAllocs()
	for b.Loop() {
		batch.Reset()
		batch.PutFlow(1, flow)
	}
}

func BenchmarkDecodeAndPrintFlow(b *testing.B) {
	var e nla.Encoder
	benchmarkFlow().appendTo(&e)
	b.ReportAllocs()
	for b.Loop() {
		f, _ := decodeFlow(e.B)
		_ = f.String()
	}
}

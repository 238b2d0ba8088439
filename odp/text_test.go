package odp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// dice makes values at random, mostly such that have no bits set, or all.
type dice struct{ *rand.Rand }

func (d dice) bytes(n int) []byte {
	b := make([]byte, n)
	for i, fill := range b {
		if fill = [...]byte{0, 0xff, 0, byte(d.Uint32())}[d.IntN(4)]; d.IntN(4) > 0 || i == 0 {
			b[i] = fill
		} else {
			b[i] = b[i-1]
		}
	}
	return b
}

func (d dice) number() uint64 { return binary.NativeEndian.Uint64(d.bytes(8)) }
func (d dice) coin() bool     { return d.IntN(2) == 0 }

func (d dice) addr(four bool) netip.Addr {
	switch {
	case d.IntN(4) == 0:
		return netip.Addr{}
	case four:
		return get4(d.bytes(4))
	}
	return getIP6(d.bytes(16))
}

// tunnel makes a value, and a mask that the kernel could have of it.
func (d dice) tunnel() (k, m Tunnel) {
	four := d.coin()
	one := func() Tunnel {
		t := Tunnel{
			ID: d.number(), Src: d.addr(four), Dst: d.addr(four), TOS: d.bytes(1)[0], TTL: d.bytes(1)[0],
			Flags: TunnelFlags(d.number()) & tunnelAll, SrcPort: be16(d.bytes(2)), DstPort: be16(d.bytes(2)),
		}
		if d.coin() {
			t.ID = 0
		}
		if t.ID != 0 {
			t.Flags |= TunnelKey // as it is decoded
		}
		return t
	}
	k, m = one(), one()
	option := func(n int) (value, mask []byte) {
		if value = d.bytes(n); d.coin() {
			mask = d.bytes(n)
		}
		return value, mask
	}
	switch d.IntN(6) {
	case 0:
		for range 1 + d.IntN(3) {
			k.Geneve = AppendGeneveOption(k.Geneve, be16(d.bytes(2)), d.bytes(1)[0], d.bytes(4*d.IntN(4)))
		}
		_, m.Geneve = option(len(k.Geneve))
	case 1:
		k.Geneve, m.Geneve = option(4 * (1 + d.IntN(4)))
	case 2:
		k.VXLAN, k.GBP, m.VXLAN = true, uint32(d.number())&gbpAll, d.coin()
		if m.VXLAN {
			m.GBP = uint32(d.number()) & gbpAll
		}
	case 3:
		k.ERSPAN, m.ERSPAN = option(erspanLen)
		binary.NativeEndian.PutUint32(k.ERSPAN, uint32(d.IntN(3)))
	case 4:
		value, mask := option(1 + d.IntN(4))
		k.Unknown = []Attr{{Type: 40, Data: value}}
		if mask != nil {
			m.Unknown = []Attr{{Type: 40, Data: mask}}
		}
	}
	return k, m
}

// field makes a field of any type, of those that packets of one kind have.
func (d dice) field(typ uint16) Field {
	switch l, fixed := layoutOf(typ); {
	case fixed:
		return Masked(l.decode(d.bytes(l.size)), l.decode(d.bytes(l.size)))
	case typ == keyTunnel:
		k, m := d.tunnel()
		return Masked(k, m)
	case typ == keyMPLS:
		var k, m MPLS
		for range 1 + d.IntN(12) {
			k, m = append(k, LSE(be32(d.bytes(4)))), append(m, LSE(be32(d.bytes(4))))
		}
		return Masked(k, m)
	case typ == keyNSH:
		m := NSH{Flags: d.bytes(1)[0], TTL: d.bytes(1)[0], MDType: d.bytes(1)[0], SPI: uint32(d.number()) & 0xffffff, SI: d.bytes(1)[0]}
		k := NSH{TTL: 5, MDType: 1, NextProto: 3, SPI: 7}
		k.Context[1], m.Context[2] = uint32(d.number()), uint32(d.number())
		return Masked(k, m)
	}
	n := 1 + d.IntN(5)
	return Masked(UnknownKey{Type: typ, Data: d.bytes(n)}, UnknownKey{Type: typ, Data: d.bytes(n)})
}

// match makes a match that the kernel could have.
func (d dice) match() Match {
	types := []uint16{
		keyPriority, keyInPort, keyEthernet, keySkbMark, keyTunnel, keyDPHash, keyRecircID, keyCTState, keyCTZone, keyCTMark, keyCTLabels, 31, 99,
	}
	m := Match{}
	for _, typ := range types {
		if d.coin() {
			m = append(m, d.field(typ))
		}
	}
	behind := map[EtherType][]uint16{
		TypeIPv4: {keyCTTupleIPv4}, TypeIPv6: {keyCTTupleIPv6, keyIPv6ExtHdrs}, TypeARP: {keyARP}, TypeMPLS: {keyMPLS}, TypeNSH: {keyNSH},
		TypeLLC: nil, 0x9000: nil,
	}
	choice := [...]EtherType{TypeIPv4, TypeIPv6, TypeARP, TypeMPLS, TypeNSH, TypeLLC, 0x9000, TypeVLAN}[d.IntN(8)]
	switch choice {
	case TypeVLAN:
		return append(m, Exact(choice), d.field(keyVLAN), Inside(Match{Exact(TypeARP), d.field(keyARP)}))
	case TypeIPv4:
		mask := IPv4{Src: d.addr(true), TTL: 7, Proto: 0xff, Frag: Frag(d.bytes(1)[0])}
		m = append(m, Masked(IPv4{Src: d.addr(true), Proto: ProtoTCP, Frag: Frag(d.IntN(3))}, mask))
		if ip, _, _ := Get[IPv4](m); ip.Frag != FragLater {
			m = append(m, d.field(keyTCP), d.field(keyTCPFlags))
		}
	case TypeIPv6:
		m = append(m, Masked(IPv6{Proto: ProtoICMPv6, Label: 5}, IPv6{Dst: d.addr(false), Proto: 0xff, Label: uint32(d.number()) & 0xfffff}))
		m = append(m, Masked(ICMPv6{Type: 135}, ICMPv6{0xff, d.bytes(1)[0]}), d.field(keyND))
	}
	for _, typ := range behind[choice] {
		m = append(m, d.field(typ))
	}
	return append(m, Exact(choice))
}

// A match is sent as it was after it has been written with all its wildcards and read again.
func TestMatchText(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(1, 2))}
	for range 2000 {
		m := d.match()
		_, err := m.Complete()
		require.NoError(t, err, Notation{Verbose: true}.Match(m))
		sameInText(t, m)
	}
}

// What is written of parts that only some matches have is read as it was; so is what ovs-dpctl writes.
func TestNotationOfParts(t *testing.T) {
	first := []byte{0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(first, 1)
	second := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xf8}
	binary.NativeEndian.PutUint32(second, 2)
	option := AppendGeneveOption(nil, 0x102, 0x80, []byte{0, 0, 0, 1})
	labels := MPLS{0x5100, 0x6100, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	onlyID := func(k Tunnel) Field { // with options that are not matched
		k.ID, k.Flags = 6, TunnelKey
		return Masked(k, Tunnel{ID: 1<<64 - 1, Flags: TunnelKey})
	}
	exact := func(k Tunnel) Field {
		k.ID, k.Flags = 6, TunnelKey
		m := k.exactMask()
		m.Src, m.Dst, m.TOS, m.TTL, m.SrcPort, m.DstPort, m.Flags = k.Src, k.Dst, 0, 0, 0, 0, TunnelKey
		return Masked(k, m)
	}
	const id = "tunnel(tun_id=0x6,ttl=0/0,"
	for text, f := range map[string]Field{
		id + "erspan(ver=1,idx=0x7),flags(+key))":                       exact(Tunnel{ERSPAN: first}),
		id + "erspan(ver=2,dir=1,hwid=0x1f),flags(+key))":               exact(Tunnel{ERSPAN: second}),
		id + "erspan(01020304/0),flags(+key))":                          onlyID(Tunnel{ERSPAN: []byte{1, 2, 3, 4}}),
		id + "geneve({class=0x102,type=0x80,len=4,0x1}),flags(+key))":   exact(Tunnel{Geneve: option}),
		id + "geneve({class=0x102,type=0x80,len=4,0x1}/0),flags(+key))": onlyID(Tunnel{Geneve: option}),
		id + "geneve(0x01028002/0),flags(+key))":                        onlyID(Tunnel{Geneve: []byte{1, 2, 0x80, 2}}),
		id + "vxlan(gbp(id=5,flags=0)),flags(+key))":                    exact(Tunnel{VXLAN: true, GBP: 5}),
		id + "vxlan(gbp(id=5,flags=0)/0),flags(+key))":                  onlyID(Tunnel{VXLAN: true, GBP: 5}),
		id + "tun40(0102),flags(+key))":                                 exact(Tunnel{Unknown: []Attr{{40, []byte{1, 2}}}}),
		id + "tun40(0102/0),flags(+key))":                               onlyID(Tunnel{Unknown: []Attr{{40, []byte{1, 2}}}}),
		"ct_state(0x1/0x121)":                                           Masked(CTState(1), CTState(0x121)),
		"mpls(lse0=0x5100,lse1=0x6100/0,lse2=0x3/0,lse3=0x4/0,lse4=0x5/0,lse5=0x6/0,lse6=0x7/0,lse7=0x8/0,lse8=0x9/0,lse9=0xa/0," +
			"lse10=0xb/0,lse11=0xc/0)": Masked(labels, append(MPLS{0xffffffff}, make(MPLS, 11)...)),
	} {
		require.Equal(t, text, f.String())
		m, err := ParseMatch(text)
		require.NoError(t, err, text)
		require.Equal(t, Match{f}, m, text)
	}
	states, err := ParseMatch(Match{Masked(CTState(0), CTState(0x120))}.String())
	require.NoError(t, err)
	_, mask, _ := Get[CTState](states)
	require.Equal(t, CTState(0x120), mask)
	for _, a := range []Action{
		Set{Tunnel{ID: 5, Flags: TunnelKey, InfoBridge: true}},
		Sample{Probability: 1 << 20}, Sample{Probability: 1}, Sample{Probability: 1<<32 - 2},
	} {
		list, err := ParseActions(a.String())
		require.NoError(t, err, a)
		require.Equal(t, []Action{a}, list, a)
	}
	require.Equal(t, "sample(sample=50.0%,actions(drop))", Sample{Probability: 1 << 31}.String())
}

package odp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp/internal/nla"
)

// attrsOf returns attributes KEY and MASK as the kernel sends them.
func attrsOf(values, masks []Key) []byte {
	var e nla.Encoder
	for typ, keys := range map[uint16][]Key{flowKey: values, flowMask: masks} {
		m := e.Begin(typ)
		for _, k := range keys {
			appendKey(&e, k)
		}
		e.End(m)
	}
	return e.B
}

// A frame of 802.2 has no EtherType, which its flow matches: the mask has one, the key has not. So it is listed, sent and written.
func TestLLC(t *testing.T) {
	eth := Ethernet{Src: MAC{2}, Dst: MAC{4}}
	every := Ethernet{Broadcast(), Broadcast()}
	tagged := []Key{InPort(1), eth, TypeVLAN, Tag(5, 0), Encap{}}
	for _, c := range []struct {
		key, mask []Key
		text      string
	}{
		{
			[]Key{InPort(1), eth}, []Key{InPort(1<<32 - 1), every, EtherType(0xffff)},
			"in_port(1),eth(src=02:00:00:00:00:00,dst=04:00:00:00:00:00),eth_type(0/0xffff)",
		},
		{
			tagged, []Key{InPort(1<<32 - 1), every, EtherType(0xffff), VLAN(0xffff), Encap{EtherType(0xffff)}},
			"in_port(1),eth(src=02:00:00:00:00:00,dst=04:00:00:00:00:00),eth_type(0x8100),vlan(vid=5,pcp=0),encap(eth_type(0/0xffff))",
		},
	} {
		var fields Match
		for _, k := range c.key {
			fields = append(fields, Any(k))
		}
		m, err := EncodeKeys(fields).Match()
		require.NoError(t, err)
		require.Equal(t, c.text, m.String())
		read, err := ParseMatch(c.text)
		require.NoError(t, err)
		listed, err := decodeFlow(attrsOf(c.key, c.mask))
		require.NoError(t, err)
		for _, m := range []Match{m, read, listed.Match} {
			require.Equal(t, c.text, m.String())
			var e nla.Encoder
			require.NoError(t, m.appendTo(&e))
			sent, err := decodeFlow(e.B)
			require.NoError(t, err)
			require.ElementsMatch(t, listed.Match, sent.Match)
			key, _ := KeyData(e.B).find(flowKey, -1)
			_, typed := KeyData(key).find(keyEtherType, -1)
			require.Equal(t, len(c.key) > 2, typed, "0 is no EtherType of a packet")
		}
	}
	typ, mask, ok := Get[EtherType](Match{Exact(TypeLLC)})
	require.Equal(t, []any{TypeLLC, EtherType(0xffff), true}, []any{typ, mask, ok})
	any, err := ParseMatch("in_port(1),eth(),eth_type(0/0x0000)")
	require.NoError(t, err)
	require.Len(t, any, 2)
}

// A port that is not matched is listed with a mask of which the upper half is set.
func TestWildcardInPort(t *testing.T) {
	f, err := decodeFlow(attrsOf([]Key{InPort(1), Ethernet{}}, []Key{InPort(0xffff0000)}))
	require.NoError(t, err)
	require.Equal(t, Match{Any(InPort(1)), Any(Ethernet{})}, f.Match)
	m, err := ParseMatch("in_port(1/0xffff0000),eth()")
	require.NoError(t, err)
	require.Equal(t, f.Match, m)
}

// A flow of which the kernel left out the actions is not one that drops.
func TestActionsOmitted(t *testing.T) {
	attrs := attrsOf([]Key{InPort(1), Ethernet{}}, []Key{InPort(1<<32 - 1)})
	f, err := decodeFlow(attrs)
	require.NoError(t, err)
	require.True(t, f.ActionsOmitted)
	require.Contains(t, f.String(), "actions:omitted")
	require.ErrorIs(t, f.appendToDiscard(), ErrInvalidFlow)
	f.Actions = []Action{Output(1)}
	require.NoError(t, f.appendToDiscard())
	e := nla.Encoder{B: attrs}
	appendActions(&e, flowActions, nil)
	f, err = decodeFlow(e.B)
	require.NoError(t, err)
	require.False(t, f.ActionsOmitted)
	require.Contains(t, f.String(), "actions:drop")
	require.NoError(t, f.appendToDiscard())
}

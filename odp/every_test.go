package odp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp/internal/nla"
)

// everyKey is matches that together have each key attribute, and each part of those that have optional parts.
func everyKey() []string {
	return []string{
		"skb_priority(0x5),in_port(1),skb_mark(0x7/0xf),eth(src=02:00:00:00:00:01,dst=00:00:00:00:00:00/01:00:00:00:00:00),eth_type(0x0806)",
		"recirc_id(0x4),dp_hash(0x3/0x7),in_port(1),ct_state(-new+est+trk),ct_zone(0x7),ct_mark(0x1/0xff),ct_label(0x5/0xff),eth(),eth_type(0x0806)",
		"in_port(1),ct_state(+trk),ct_tuple4(src=10.0.0.1,dst=10.0.0.0/255.0.0.0,proto=6,tp_src=5,tp_dst=6/0xff),eth(),eth_type(0x0800)",
		"in_port(1),ct_state(+trk),ct_tuple6(src=fd00::1,dst=fd00::/ffff::,proto=17,src_port=5,dst_port=6/0xff),eth(),eth_type(0x86dd)",
		"in_port(1),eth(),eth_type(0x0800),ipv4(src=10.0.0.1,dst=10.0.0.0/255.0.0.0,proto=6,tos=0x4/0xfc,ttl=9,frag=no),tcp(src=1,dst=2/0xff00),tcp_flags(+syn-ack)",
		"in_port(1),eth(),eth_type(0x86dd),ipv6(src=fd00::1,dst=fd00::/ffff::,label=0x5,proto=17,tclass=0x4/0xfc,hlimit=9,frag=first),udp(src=1,dst=2)",
		"in_port(1),eth(),eth_type(0x86dd),ipv6(frag=no),ipv6_exthdrs(0x8/0xff)",
		"in_port(1),eth(),eth_type(0x0800),ipv4(proto=132,frag=no),sctp(src=3,dst=4)",
		"in_port(1),eth(),eth_type(0x0800),ipv4(proto=1,frag=no),icmp(type=8,code=0)",
		"in_port(1),eth(),eth_type(0x86dd),ipv6(proto=58,frag=no),icmpv6(type=135,code=0),nd(target=fd00::5,sll=02:00:00:00:00:01,tll=02:00:00:00:00:02)",
		"in_port(1),eth(),eth_type(0x0806),arp(sip=10.0.0.1,tip=10.0.0.2,op=1,sha=02:00:00:00:00:01,tha=00:00:00:00:00:00)",
		"in_port(1),eth(),eth_type(0x88a8),vlan(vid=5,pcp=3),encap(eth_type(0x8100),vlan(vid=7,pcp=1),encap(eth_type(0x0806)))",
		"in_port(1),eth(),eth_type(0x8847),mpls(label=5,tc=0,ttl=64,bos=1)",
		"in_port(1),eth(),eth_type(0x8847),mpls(lse0=0x5000,lse1=0x7100/0xfffff000)",
		"in_port(1),eth(),eth_type(0x894f),nsh(flags=0,ttl=63,mdtype=1,np=3,spi=0x5,si=255,c1=0x1,c2=0x2,c3=0x3,c4=0x4/0xff)",
		"tunnel(tun_id=0x5,src=10.0.0.1,dst=10.0.0.2,tos=0x8,ttl=9/0xf,tp_src=1,tp_dst=2/0xff,flags(oam|csum|key)),in_port(2),eth(),eth_type(0x0806)",
		"tunnel(tun_id=0x6,ipv6_src=fd00::1,ipv6_dst=fd00::2,geneve({class=0x102,type=0x80,len=4,0xa/0xff}),flags(+key)),in_port(2),eth(),eth_type(0x0806)",
		"tunnel(tun_id=0x6,src=10.0.0.1,vxlan(gbp(id=5,flags=0x8)),flags(+key)),in_port(2),eth(),eth_type(0x0806)",
		"tunnel(tun_id=0x6,src=10.0.0.1,erspan(0102/ff00),flags(+key)),in_port(2),eth(),eth_type(0x0806)",
		"key99(0102/ff00),in_port(2),eth(),eth_type(0x0806)",
	}
}

// Every key is read as text, sent, received and written as it was; only those that have no place in messages are not sent.
func TestEveryKey(t *testing.T) {
	seen := map[uint16]bool{keyPacketType: true, keyNDExtensions: true}
	for _, text := range everyKey() {
		m, err := ParseMatch(text)
		require.NoError(t, err, text)
		require.Equal(t, text, m.String())
		var e nla.Encoder
		Flow{Match: m}.appendTo(&e)
		require.NoError(t, e.Err, text)
		f, err := decodeFlow(e.B)
		require.NoError(t, err, text)
		verbose := Notation{Verbose: true}
		all, err := m.Complete()
		require.NoError(t, err)
		require.Equal(t, verbose.Match(all), verbose.Match(f.Match), text)
		for _, field := range all {
			seen[field.keyType()] = true
		}
	}
	for typ := keyEncap; typ <= keyIPv6ExtHdrs; typ++ {
		require.True(t, seen[uint16(typ)] || typ == 31, "key %d", typ) // 31 is never sent
	}
}

// Every action is read as text, sent, received and written as it was.
func TestEveryAction(t *testing.T) {
	seen := map[uint16]bool{}
	for _, text := range []string{
		"2", "recirc(0x7)", "trunc(100)", "meter(3)", "drop(3)", "pop_vlan", "pop_eth", "pop_nsh()", "ct_clear", "clone(2,1)", "dec_ttl(le_1(2))",
		"userspace(pid=12,userdata(0102030405060708),actions,tunnel_out_port=2)", "userspace(pid=12)",
		"set(ipv4(src=10.9.0.0/255.255.0.0,tos=0xb8/0xfc))", "set(eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02))", "set(skb_mark(0x5))",
		"set(tunnel(tun_id=0x5,src=10.0.0.2,dst=10.0.0.1,tos=0x8,ttl=64,tp_src=1,tp_dst=2,flags(oam|df|csum|key)))",
		"set(tunnel(tun_id=0x5,ipv6_src=fd00::1,ipv6_dst=fd00::2,ttl=64,geneve({class=0x102,type=0x80,len=8,0xa}),flags(key)))",
		"set(tunnel(tun_id=0x5,dst=10.0.0.1,ttl=0,erspan(0102),flags(key)))", "set(tunnel(tun_id=0x5,dst=10.0.0.1,ttl=0,vxlan(gbp(id=5,flags=0x8)),flags(key)))",
		"push_vlan(vid=5,pcp=3)", "push_vlan(tpid=0x88a8,vid=5,pcp=3)", "push_mpls(label=7,tc=1,ttl=9,bos=1,eth_type=0x8847)", "pop_mpls(eth_type=0x800)",
		"add_mpls(label=7,tc=1,ttl=9,bos=1,eth_type=0x8848,layer3)", "push_eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02)",
		"push_nsh(flags=0,ttl=63,mdtype=1,np=3,spi=0x5,si=255,c1=0x1,c2=0x2,c3=0x3,c4=0x4)",
		"push_nsh(flags=0,ttl=63,mdtype=2,np=3,spi=0x5,si=255,md2=0x01020003)",
		"sample(sample=50.0%,actions(trunc(20),2))", "hash(l4(5))", "hash(sym_l4(5))", "check_pkt_len(size=100,gt(drop),le(1))", "psample(group=1,cookie=0x01020304)",
		"ct", "ct(commit,zone=5,mark=0x1/0xff,label=0x1/0xff,helper=ftp,timeout=slow,eventmask=0x6)", "ct(force_commit)", "ct(nat)",
		"ct(commit,nat(src=10.0.0.1-10.0.0.9:100-200,persistent,random))", "ct(commit,nat(dst=[fd00::1-fd00::9]:100-200,hash))", "ct(commit,nat(src=fd00::1))",
		"action99(0102)",
	} {
		list, err := ParseActions(text)
		require.NoError(t, err, text)
		require.Equal(t, text, Notation{}.Actions(list))
		require.NoError(t, checkActions(list, 0), text)
		var e nla.Encoder
		appendActionList(&e, list)
		require.NoError(t, e.Err, text)
		again, err := decodeActions(e.B, 0)
		require.NoError(t, err, text)
		require.Equal(t, text, Notation{}.Actions(again))
		for _, a := range again {
			_, unknown := a.(UnknownAction)
			require.Equal(t, a.actionType() > actPSample, unknown, text)
			seen[a.actionType()] = true
		}
	}
	for typ := actOutput; typ <= actPSample; typ++ {
		require.True(t, seen[uint16(typ)], "action %d", typ)
	}
}

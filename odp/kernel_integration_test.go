//go:build linux

package odp_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/odp"
)

// corpus is flows that the kernel takes, in the notation of ovs-dpctl: a match and actions.
func corpus() [][2]string {
	const eth = "eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02)"
	const anyType = ",eth_type(0/0x0000)"
	return [][2]string{
		{"in_port(1)," + eth + ",eth_type(0x0806),arp(sip=10.0.0.1,tip=10.0.0.2,op=1/0xff,sha=02:00:00:00:00:01,tha=00:00:00:00:00:00)", "2"},
		{"in_port(1),eth(),eth_type(0x0800),ipv4(src=10.0.0.0/255.0.0.0,dst=10.1.2.3,proto=6,ttl=64,frag=no),tcp(src=1,dst=2/0xff00),tcp_flags(+syn-ack)",
			"set(ipv4(ttl=63)),set(eth(src=02:00:00:00:00:05)),set(tcp(dst=80)),push_vlan(vid=5,pcp=3),2,pop_vlan,sample(sample=50.0%,actions(2)),trunc(100),2"},
		{"in_port(1),eth(),eth_type(0x8100),vlan(vid=5,pcp=3),encap(eth_type(0x0800),ipv4(proto=17,frag=no),udp(src=4))", "pop_vlan,2"},
		{"in_port(1),eth(),eth_type(0x88a8),vlan(vid=5),encap(eth_type(0x8100),vlan(vid=7,pcp=1),encap(eth_type(0x0806),arp(op=1/0xff)))", "push_vlan(tpid=0x88a8,vid=9,pcp=0),2"},
		{"recirc_id(0x4),in_port(1),ct_state(-new+est+trk),ct_mark(0x1/0xff),ct_label(0x5/0xff),eth(),eth_type(0x86dd),ipv6(src=fd00::1,dst=fd00::/ffff::,label=0x5,proto=58,frag=no),icmpv6(type=135,code=0),nd(target=fd00::5,sll=02:00:00:00:00:01)",
			"hash(l4(5)),recirc(0x7)"},
		{"recirc_id(0),in_port(1),eth(),eth_type(0x0800),ipv4(frag=no)", "ct(commit,zone=5,mark=0x1/0xff,label=0x1/0xff,nat(src=10.0.0.1-10.0.0.9:100-200,random)),recirc(0x4)"},
		{"recirc_id(0x1),in_port(1),eth(),eth_type(0x0800),ipv4(frag=no)", "ct(commit,mark=0x1/0xff),recirc(0x4)"},
		{"recirc_id(0x3),in_port(1),eth(),eth_type(0x0800),ipv4(frag=no)", "ct(commit,nat(src=10.0.0.1-10.0.0.9:100-200,random)),recirc(0x4)"},
		{"recirc_id(0x2),in_port(1),eth(),eth_type(0x0800),ipv4(frag=no)", "ct(zone=9,nat),ct_clear,ct(force_commit,nat(dst=10.0.0.1:80)),recirc(0x5)"},
		{"tunnel(tun_id=0x5,src=10.0.0.1,dst=10.0.0.2,flags(-df+csum+key)),in_port(2),eth(),eth_type(0x0806)", "1"},
		{"tunnel(tun_id=0x6,ipv6_src=fd00::1,ipv6_dst=fd00::2,flags(+key)),in_port(2),eth(),eth_type(0x0806)", "1"},
		{"in_port(3)," + eth + anyType, "set(tunnel(tun_id=0x5,dst=10.0.0.1,ttl=64,tp_dst=4789,flags(df|csum|key))),2,set(tunnel(tun_id=0x5,ipv6_dst=fd00::9,ttl=64,flags(key))),2"},
		{"in_port(4)," + eth + anyType, "set(tunnel(tun_id=0x7,dst=10.0.0.1,ttl=64,geneve({class=0x102,type=0x80,len=4,0xa}),flags(key))),2"},
		{"in_port(5)," + eth + anyType, "set(tunnel(tun_id=0x7,dst=10.0.0.1,ttl=64,vxlan(gbp(id=5,flags=0x8)),flags(key))),2"},
		{"in_port(6),eth(),eth_type(0x8847),mpls(label=5,tc=0,ttl=64,bos=1)", "pop_mpls(eth_type=0x800),2"},
		{"in_port(7),eth(),eth_type(0x0800)", "push_mpls(label=7,tc=1,ttl=9,bos=1,eth_type=0x8847),2"},
		{"skb_priority(0x5),in_port(8),skb_mark(0x7/0xf),eth(),eth_type(0x0806)", "set(skb_mark(0x9)),set(skb_priority(0x3)),2"},
		{"in_port(9),eth(),eth_type(0x0806)", "check_pkt_len(size=100,gt(2),le(1)),meter(3),clone(2,1)"},
		{"in_port(10),eth(),eth_type(0x894f),nsh(flags=0,ttl=63,mdtype=1,np=3,spi=0x5,si=255,c1=0x1,c2=0x2,c3=0x3,c4=0x4)", "pop_nsh(),2"},
		{"in_port(11),eth(),eth_type(0x0800)", "push_nsh(flags=0,ttl=63,mdtype=1,np=3,spi=0x5,si=255,c1=0x1,c2=0x2,c3=0x3,c4=0x4),2"},
		{"in_port(12),eth(),eth_type(0x0800),ipv4(proto=132,frag=no),sctp(src=3)", "dec_ttl(le_1(2)),set(sctp(src=4)),2"},
		{"in_port(13),ct_state(+trk),ct_tuple4(src=1.2.3.4,proto=6,tp_src=5,tp_dst=6/0xff),eth(),eth_type(0x0800),ipv4(frag=later)", "userspace(pid=12,userdata(0102030405060708),actions,tunnel_out_port=2)"},
		{"in_port(14),eth(),eth_type(0x0800),ipv4(proto=1,frag=no),icmp(type=8,code=0)", "pop_eth,push_eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),2"},
		{"in_port(15),eth(),eth_type(0x0800)", "add_mpls(label=7,tc=1,ttl=9,bos=1,eth_type=0x8847),2"},
		{"in_port(16),eth(),eth_type(0x0800)", "drop"},
		{"in_port(18),eth(),eth_type(0x0800),ipv4(proto=6,frag=no)", "set(ipv4(src=10.9.0.0/255.255.0.0,tos=0xb8/0xfc)),set(tcp(dst=0/0xff)),set(eth(src=06:00:00:00:00:00/ff:00:00:00:00:00)),2"},
		{"in_port(19),eth(),eth_type(0x86dd),ipv6(src=fd00::1,hlimit=64,frag=no)", "set(ipv6(src=fd00::/ffff::,dst=fd00::9,tclass=0xb8/0xfc)),2"},
		{"in_port(20),eth(),eth_type(0x0806)", "set(skb_mark(0x5/0xff)),sample(sample=25.0%,actions(clone(2,3))),2"},
		{"in_port(21),eth(),eth_type(0x8100),vlan(vid=5),encap()", "push_vlan(tpid=0x88a8,vid=9,pcp=0),2"},
		{"in_port(22),eth(),eth_type(0x8847),mpls(label=5/0xfffff,tc=0/0,ttl=0/0x0,bos=1/1)", "set(mpls(label=8,tc=1,ttl=9,bos=1)),2"},
		{"recirc_id(0x9),dp_hash(0x3/0x7),in_port(23),eth(),eth_type(0x0806)", "trunc(64),userspace(pid=12,userdata(0102030405060708)),2"},
		{"in_port(24),eth(),eth_type(0x0800),ipv4(proto=6,tos=0/0x3,frag=first),tcp_flags(-syn+ack)", "2"},
		{"in_port(25),ct_state(+trk),ct_tuple6(src=fd00::1,proto=17,src_port=5),eth(),eth_type(0x86dd),ipv6(frag=no)", "ct(commit),recirc(0x4)"},
		{"recirc_id(0x5),in_port(1),eth(),eth_type(0x86dd),ipv6(frag=no)", "ct(commit,eventmask=0x6),recirc(0x4)"},
		{"in_port(26),eth(),eth_type(0x86dd),ipv6(frag=no),ipv6_exthdrs(0x8/0xff)", "2"},
		{"in_port(27),eth(),eth_type(0x0806)", "hash(sym_l4(5)),recirc(0x7)"},
		{"tunnel(tun_id=0x7,src=10.0.0.1,dst=10.0.0.2,tos=0x8,ttl=9,tp_src=1,tp_dst=2,flags(oam|csum|key)),in_port(2),eth(),eth_type(0x0806)", "1"},
		{"in_port(28)," + eth + anyType, "set(tunnel(tun_id=0x5,src=10.0.0.2,dst=10.0.0.1,tos=0x8,ttl=64,tp_src=1,tp_dst=2,flags(oam|df|csum|key))),2"},
		{"in_port(29)," + eth + anyType, "set(tunnel(tun_id=0x5,dst=10.0.0.1,ttl=64,erspan(ver=1,idx=0x7),flags(key))),2"},
		{"in_port(30)," + eth + anyType, "set(tunnel(tun_id=0x5,dst=10.0.0.1,ttl=64,erspan(ver=2,dir=1,hwid=0xf),flags(key))),2"},
		{"tunnel(tun_id=0x7,src=10.0.0.1,dst=10.0.0.2,geneve({class=0x102,type=0x80,len=8,0xa/0xf}),flags(+key)),in_port(2),eth(),eth_type(0x0806)", "1"},
		{"tunnel(tun_id=0x7,src=10.0.0.1,dst=10.0.0.3,vxlan(gbp(id=5,flags=0x8)),flags(+key)),in_port(2),eth(),eth_type(0x0806)", "1"},
		{"in_port(17),eth(),eth_type(0x86dd),ipv6(proto=17,tclass=0x4,hlimit=9,frag=no),udp(dst=53)", "set(ipv6(label=0x3,hlimit=8)),set(udp(src=1)),2"},
	}
}

// Every flow of the corpus is read and written as text, put, found, listed and deleted.
func TestIntegrationCorpus(t *testing.T) {
	if !inKernel(t) {
		return
	}
	c := openKernel(t)
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest0"})
	for _, text := range corpus() {
		t.Run(text[0], func(t *testing.T) {
			f := parseFlow(t, text)
			require.Equal(t, text[0], f.Match.String())
			require.Equal(t, text[1], odp.Notation{}.Actions(f.Actions))
			err := c.CreateFlow(t.Context(), dp.Index, f)
			if errors.Is(err, odp.ErrNotSupported) {
				t.Skip(err)
			}
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, c.FlushFlows(context.Background(), dp.Index)) })
			require.ErrorIs(t, c.CreateFlow(t.Context(), dp.Index, f), syscall.EEXIST)

			got, err := c.GetFlow(t.Context(), dp.Index, f)
			require.NoError(t, err)
			require.Equal(t, text[1], odp.Notation{}.Actions(got.Actions))
			listed := only(t, c, dp.Index)
			require.Equal(t, got.Match, listed.Match)
			require.Equal(t, text[0], listed.Match.String())
			_, err = c.DeleteFlow(t.Context(), dp.Index, listed)
			require.NoError(t, err)
			_, err = c.GetFlow(t.Context(), dp.Index, f)
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

func parseFlow(t *testing.T, text [2]string) odp.Flow {
	t.Helper()
	m, err := odp.ParseMatch(text[0])
	require.NoError(t, err, text[0])
	actions, err := odp.ParseActions(text[1])
	require.NoError(t, err, text[1])
	return odp.Flow{Match: m, Actions: actions}
}

// only returns the only flow there is.
func only(t *testing.T, c *odp.Conn, dp odp.Index) (f odp.Flow) {
	t.Helper()
	n := 0
	for g, err := range c.Flows(t.Context(), dp, odp.DumpOptions{}) {
		require.NoError(t, err)
		f, n = g, n+1
	}
	require.Equal(t, 1, n)
	return f
}

// toolCorpus is what of the corpus ovs-dpctl 3.1 knows and this kernel takes.
func toolCorpus(t *testing.T, c *odp.Conn, dp odp.Index) (texts [][2]string) {
	t.Helper()
	for _, text := range corpus() {
		if strings.Contains(text[1], "dec_ttl") || strings.Contains(text[1], "eventmask") || strings.Contains(text[0], "ipv6_exthdrs") {
			continue // their numbers mean something else to the tool, or nothing
		}
		err := c.CreateFlow(t.Context(), dp, parseFlow(t, text))
		if errors.Is(err, odp.ErrNotSupported) {
			t.Log("left out:", err)
			continue
		}
		require.NoError(t, err, text)
		texts = append(texts, text)
	}
	return texts
}

// What we put, ovs-dpctl prints as we do, with and without wildcards, and we read what it prints. What it puts from the same text,
// we print as that text.
func TestIntegrationTool(t *testing.T) {
	if !inKernel(t) {
		return
	}
	tool := labtest.RequireTool(t, "ovs-dpctl", "openvswitch-switch")
	run := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), tool, args...).Output()
		require.NoError(t, err, "%s: %s", args, out)
		return string(out)
	}
	c := openKernel(t)
	// The tool sets the features of datapaths that it opens; these it leaves as they are.
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest5", Features: odp.Unaligned | odp.PerCPU, UpcallPIDs: []uint32{1}}).Index
	require.NoError(t, c.SetMeter(t.Context(), dp, odp.MeterInfo{ID: 3, Rate: 5}))
	texts := toolCorpus(t, c, dp)
	require.Greater(t, len(texts), 25)
	for _, verbose := range []bool{false, true} {
		args := []string{"--no-names", "dump-flows", "odptest5"}
		if verbose {
			args = append([]string{"-m"}, args...)
		}
		require.Equal(t, printed(t, run(args...), verbose), ours(t, c, dp, odp.Notation{Verbose: verbose}))
	}
	require.NoError(t, c.FlushFlows(t.Context(), dp))
	var file strings.Builder
	want := map[string]string{}
	for _, text := range texts {
		if line, ok := forTool(t, text); ok {
			want[text[0]] = text[1]
			fmt.Fprintln(&file, line)
		}
	}
	require.Greater(t, len(want), 20)
	path := filepath.Join(t.TempDir(), "flows")
	require.NoError(t, os.WriteFile(path, []byte(file.String()), 0o600))
	run("add-flows", "odptest5", path)
	require.Equal(t, want, ours(t, c, dp, odp.Notation{}))
}

// forTool is the flow for the tool to read, unless it has what the tool prints but cannot read.
func forTool(t *testing.T, text [2]string) (line string, ok bool) {
	if strings.Contains(text[0], "nsh(") || strings.Contains(text[0], "encap()") {
		return "", false
	}
	for _, unread := range []string{"recirc(", "push_mpls", "pop_mpls", "pop_nsh", "pop_eth", "drop", "oam"} {
		if strings.Contains(text[1], unread) {
			return "", false
		}
	}
	all, err := parseFlow(t, text).Match.Complete() // the tool adds no headers itself
	require.NoError(t, err)
	match := strings.Replace(odp.Notation{Verbose: true}.Match(all), ",eth_type(0/0x0000)", "", 1)
	return match + " " + text[1], true
}

// ours is the flows as we print them: actions by match.
func ours(t *testing.T, c *odp.Conn, dp odp.Index, n odp.Notation) map[string]string {
	flows := map[string]string{}
	for f, err := range c.Flows(t.Context(), dp, odp.DumpOptions{}) {
		require.NoError(t, err)
		// The tool is older than this key.
		flows[strings.Replace(n.Match(f.Match), ",ipv6_exthdrs(0/0)", "", 1)] = n.Actions(f.Actions)
	}
	return flows
}

// printed is the flows as the tool prints them. We can read each.
func printed(t *testing.T, text string, verbose bool) map[string]string {
	flows := map[string]string{}
	for line := range strings.Lines(text) {
		match, rest, ok := strings.Cut(strings.TrimSpace(line), ", packets:")
		require.True(t, ok, line)
		_, actions, ok := strings.Cut(rest, "actions:")
		require.True(t, ok, line)
		match = strings.Replace(match, ",key32(00 00/00 00)", "", 1)
		m, err := odp.ParseMatch(match)
		require.NoError(t, err, match)
		n := odp.Notation{Verbose: verbose}
		require.Equal(t, match, n.Match(m))
		list, err := odp.ParseActions(actions)
		require.NoError(t, err, actions)
		require.Equal(t, actions, n.Actions(list))
		flows[match] = actions
	}
	return flows
}

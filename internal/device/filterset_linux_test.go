package device_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// addOthers adds a rule of others to the chain; it changes nothing.
func addOthers(t *testing.T, first bool, name string) {
	rule := &nftables.Rule{Table: filterTable, Chain: forwardChain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: append([]byte(name), 0)}, &expr.Counter{},
	}}
	nft(t, func(c *nftables.Conn) {
		if first {
			c.InsertRule(rule)
		} else {
			c.AddRule(rule)
		}
	})
}

// filterDump lists all rules here, each as its chain, handle, comment and expressions, without what they have counted.
func filterDump(t *testing.T) (list []string) {
	t.Helper()
	conn, err := nftables.New()
	require.NoError(t, err)
	tables, err := conn.ListTables()
	require.NoError(t, err)
	for _, table := range tables {
		list = append(list, "table "+table.Name)
	}
	chains, err := conn.ListChains()
	require.NoError(t, err)
	for _, chain := range chains {
		list = append(list, "chain "+chain.Name)
		rules, err := conn.GetRules(chain.Table, chain)
		require.NoError(t, err)
		for _, r := range rules {
			text := fmt.Sprintf("%s %s %d %q", chain.Table.Name, chain.Name, r.Handle, r.UserData)
			for _, e := range r.Exprs {
				if _, counter := e.(*expr.Counter); !counter {
					b, err := json.Marshal(e)
					require.NoError(t, err)
					text += fmt.Sprintf(" %T%s", e, b)
				}
			}
			list = append(list, text)
		}
	}
	return list
}

// commentsOf returns which rules of the chain are ours, by bridge, from the top; "" for those of others.
func commentsOf(t *testing.T, bridges ...string) (list []string) {
	t.Helper()
	conn, err := nftables.New()
	require.NoError(t, err)
	rules, err := conn.GetRules(filterTable, forwardChain)
	require.NoError(t, err)
	for _, r := range rules {
		i := slices.IndexFunc(bridges, func(b string) bool { return strings.Contains(string(r.UserData), "overweave "+b+"\x00") })
		if i < 0 {
			list = append(list, "")
		} else {
			list = append(list, bridges[i])
		}
	}
	return list
}

// TestRulesOfOthersStay looks at handles, which a rule that is removed and made again does not keep.
func TestRulesOfOthersStay(t *testing.T) {
	h, err := labtest.New(t).Host("a")
	require.NoError(t, err)
	within(t, h, func() {
		dropForwarded(t)
		for _, name := range []string{"x", "y", "z"} {
			addOthers(t, false, name)
		}
		before := filterDump(t)
		first := device.Firewall{Bridge: "weave", Exposed: []netip.Prefix{prefix(9)}, Masquerade: true}
		second := device.Firewall{Bridge: "weave2", Exposed: []netip.Prefix{netip.MustParsePrefix("10.50.0.1/16")}, Masquerade: true}
		require.Equal(t, []string{
			"-i weave -o weave -j ACCEPT", "-o weave -d 10.32.0.0/12 -j ACCEPT", "-i weave ! -o weave -j ACCEPT",
			"-o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-s 10.32.0.0/12 -d 224.0.0.0/4 -j RETURN", "! -s 10.32.0.0/12 -d 10.32.0.0/12 -j MASQUERADE",
			"-s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE",
		}, ensure(t, first).Added)
		require.Equal(t, []string{"weave", "weave", "weave", "weave", "", "", ""}, commentsOf(t, "weave"))
		one := filterDump(t)
		require.Subset(t, one, before)
		for range 3 {
			done := ensure(t, first)
			require.Empty(t, done.Added)
			require.Zero(t, done.Removed)
		}
		require.Equal(t, one, filterDump(t))

		require.Len(t, ensure(t, second).Added, 7)
		require.Subset(t, filterDump(t), one)
		addOthers(t, true, "w")
		both := filterDump(t)
		require.Empty(t, ensure(t, first).Added, "whoever is above means to be")
		require.Empty(t, ensure(t, second).Added)
		require.Equal(t, both, filterDump(t))

		require.NoError(t, device.RemoveFirewall("weave"))
		require.Empty(t, ensure(t, second).Added)
		require.Equal(t, []string{"", "weave2", "weave2", "weave2", "weave2", "", "", ""}, commentsOf(t, "weave", "weave2"))
		require.NoError(t, device.RemoveFirewall("weave2"))
		require.NoError(t, device.RemoveFirewall("weave2"))
		after := filterDump(t)
		require.Len(t, after, len(before)+1)
		require.Subset(t, after, before)
	})
}

// TestRulesAreRepaired damages what is there in all ways there are.
func TestRulesAreRepaired(t *testing.T) {
	h, err := labtest.New(t).Host("a")
	require.NoError(t, err)
	rules := func() []*nftables.Rule {
		conn, err := nftables.New()
		require.NoError(t, err)
		list, err := conn.GetRules(filterTable, forwardChain)
		require.NoError(t, err)
		return list
	}
	within(t, h, func() {
		f := device.Firewall{Bridge: "weave", Exposed: []netip.Prefix{prefix(9)}, Masquerade: true}
		require.Len(t, ensure(t, f).Added, 3, "there is no chain to accept in")
		dropForwarded(t)
		require.Len(t, ensure(t, f).Added, 4)

		ours := rules()
		nft(t, func(c *nftables.Conn) { c.FlushChain(forwardChain) })
		require.Len(t, ensure(t, f).Added, 4)

		copied := *ours[0]
		copied.Handle, copied.Position = 0, 0
		nft(t, func(c *nftables.Conn) { c.AddRule(&copied) })
		done := ensure(t, f)
		require.Empty(t, done.Added)
		require.Equal(t, 1, done.Removed)

		weak := rules()[3]
		weak.Exprs = slices.DeleteFunc(weak.Exprs, func(e expr.Any) bool { _, match := e.(*expr.Match); return match })
		nft(t, func(c *nftables.Conn) { c.ReplaceRule(weak) })
		done = ensure(t, f)
		require.Equal(t, []string{"-o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"}, done.Added)
		require.Equal(t, 1, done.Removed)

		restored := rules()[0] // by iptables, which makes an expression of the comment
		comment := xt.Comment("overweave weave")
		restored.UserData = nil
		restored.Exprs = slices.Insert(restored.Exprs, 0, expr.Any(&expr.Match{Name: "comment", Info: &comment}))
		nft(t, func(c *nftables.Conn) { c.ReplaceRule(restored) })
		require.Empty(t, ensure(t, f).Added)

		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "overweave-weave"}
		more := f
		more.Exposed = append(more.Exposed, netip.MustParsePrefix("10.50.0.1/16"))
		require.Len(t, ensure(t, more).Added, 4)
		require.Empty(t, ensure(t, more).Added)
		require.Equal(t, 4, ensure(t, f).Removed)
		require.Zero(t, ensure(t, f).Removed)
		nft(t, func(c *nftables.Conn) { c.FlushTable(table) })
		require.Len(t, ensure(t, f).Added, 3)
		nft(t, func(c *nftables.Conn) { c.DelTable(table) })
		require.Len(t, ensure(t, f).Added, 3)
		nft(t, func(c *nftables.Conn) { c.FlushRuleset() })
		require.Len(t, ensure(t, f).Added, 3)
		require.NoError(t, device.RemoveFirewall("weave"))
		require.Empty(t, filterDump(t))
	})
}

func TestObstaclesAreNamed(t *testing.T) {
	h, err := labtest.New(t).Host("a")
	require.NoError(t, err)
	obstacles := func(f device.Firewall) string { return strings.Join(ensure(t, f).Obstacles, "\n") }
	exposed := device.Firewall{Bridge: "weave", Exposed: []netip.Prefix{prefix(9)}}
	within(t, h, func() {
		setSetting(t, "ipv4/ip_forward", "0")
		require.Empty(t, obstacles(device.Firewall{Bridge: "weave"}))
		require.Contains(t, obstacles(exposed), "sysctl -w net.ipv4.ip_forward=1")
		setSetting(t, "ipv4/ip_forward", "1")
		require.Empty(t, obstacles(exposed))

		nft(t, func(c *nftables.Conn) {
			policy := nftables.ChainPolicyDrop
			table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "mine"})
			c.AddChain(&nftables.Chain{
				Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Policy: &policy,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
			})
		})
		require.Contains(t, obstacles(exposed), "the chain forward of the nftables table mine drops")
		nft(t, func(c *nftables.Conn) { c.FlushRuleset() })
		require.Empty(t, obstacles(exposed))

		if err := useLegacyFilter(); err != nil {
			labtest.Unavailable(t, fmt.Errorf("the kernel has no filter of iptables-legacy: %w", err))
		}
		require.Contains(t, obstacles(exposed), "iptables-legacy filters here")
	})
}

// useLegacyFilter asks for the size of iptables-legacy's table filter, by which the kernel makes it.
func useLegacyFilter() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const getInfo = 64 // IPT_SO_GET_INFO
	var info [84]byte  // struct ipt_getinfo
	copy(info[:], "filter")
	size := uint32(len(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, getInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func TestFirewallRefusesWhatItCannotDo(t *testing.T) {
	for says, f := range map[string]device.Firewall{
		"1 to 15 bytes":   {Bridge: "a-name-that-is-too-long"},
		"no space":        {Bridge: "a bridge"},
		"no IPv4 address": {Bridge: "weave", Exposed: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}},
	} {
		_, err := device.EnsureFirewall(f)
		require.ErrorContains(t, err, says)
	}
	require.ErrorContains(t, device.RemoveFirewall(""), "no name for a network device")
}

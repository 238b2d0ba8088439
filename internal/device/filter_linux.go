package device

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// filterTimeout bounds one look at the packet filter, and what follows from it.
	filterTimeout = 5 * time.Second
	// filterAttempts is how often to look again, if others change the same rules at the same moment.
	filterAttempts = 5
)

// EnsureFirewall brings the rules of the packet filter to what f says, in one transaction: those that are missing are made, those
// of ours that are not wanted any more are removed, whoever made them, and all others stay as they are and where they are. Nothing
// that is there and wanted is missing for a moment.
//
// Two places have rules of ours. Addresses are translated in a table of our own, named for the bridge. What is forwarded has to
// be accepted where it would be dropped: a table of our own cannot undo what another does. So if the host has a chain FORWARD in
// the table filter of iptables-nft, as with Docker or Kubernetes, our rules go to its top, marked by a comment. We do not move
// our rules back to the top: a DROP above them is taken as intended, and two programs doing so would loop. A reload of a
// firewall, which rebuilds the chain, removes ours with all others; the next call makes them at the top again.
//
// Obstacles are told with an error, too. The error wraps [errors.ErrUnsupported] if the kernel has no nftables.
func EnsureFirewall(f Firewall) (done Firewalled, err error) {
	err = checkNames(f.Bridge)
	if err == nil {
		err = checkAddresses(f.Exposed...)
	}
	if err != nil {
		return done, err
	}
	done, err = applyRules(f.Bridge, f.forwarding(), f.translation())
	done.Obstacles = append(hostObstacles(f), done.Obstacles...)
	return done, failed(err, "the packet filter")
}

// RemoveFirewall removes the rules for a bridge, and nothing else. Removing rules that do not exist is not an error.
func RemoveFirewall(bridge string) error {
	if err := checkNames(bridge); err != nil {
		return err
	}
	_, err := applyRules(bridge, nil, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return failed(err, "the packet filter")
}

func applyRules(bridge string, forwarding, translation []string) (done Firewalled, err error) {
	for range filterAttempts {
		done, err = tryRules(bridge, forwarding, translation)
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return done, err
}

func tryRules(bridge string, forwarding, translation []string) (done Firewalled, err error) {
	deadline := func(c *netlink.Conn) error { return c.SetDeadline(time.Now().Add(filterTimeout)) }
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(deadline))
	if err != nil {
		return done, unsupported(err)
	}
	defer func() { err = errors.Join(err, conn.CloseLasting()) }()
	there, err := readRules(conn, bridge)
	if err != nil {
		return done, err
	}
	done.Obstacles = there.obstacles
	added, removed := there.forward(conn, forwarding)
	moreAdded, moreRemoved := there.translate(conn, translation)
	if err := conn.Flush(); err != nil {
		return done, err
	}
	done.Added, done.Removed = append(added, moreAdded...), removed+moreRemoved
	return done, nil
}

// unsupported tells apart that the kernel has no nftables.
func unsupported(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("this kernel has no nftables: %w (%w)", errors.ErrUnsupported, err)
	}
	return err
}

// ruleset is what is there for a bridge.
type ruleset struct {
	bridge    string
	chain     *nftables.Chain // in which iptables-nft accepts and drops; nil if there is none
	ours      []*nftables.Rule
	table     *nftables.Table // of our own, for addresses
	exists    bool            // whether it is there
	addresses []*nftables.Rule
	obstacles []string
}

func readRules(conn *nftables.Conn, bridge string) (*ruleset, error) {
	r := &ruleset{bridge: bridge, table: &nftables.Table{Family: filterFamily, Name: "overweave-" + bridge}}
	tables, err := conn.ListTablesOfFamily(filterFamily)
	if err != nil {
		return nil, unsupported(err)
	}
	r.exists = slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == r.table.Name })
	if r.exists {
		if r.addresses, err = conn.GetRules(r.table, r.postrouting()); err != nil {
			return nil, err
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	if r.sort(chains); r.chain != nil {
		r.ours, err = conn.GetRules(r.chain.Table, r.chain)
		r.ours = slices.DeleteFunc(r.ours, func(rule *nftables.Rule) bool { return !marked(rule, bridge) })
	}
	return r, err
}

// sort finds the chain of iptables-nft, and others that drop what is forwarded unless one of their rules says otherwise.
func (r *ruleset) sort(chains []*nftables.Chain) {
	for _, c := range chains {
		ipv4 := c.Table.Family == filterFamily
		switch {
		case c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward:
		case ipv4 && c.Table.Name == "filter" && c.Name == "FORWARD":
			r.chain = c
		case (ipv4 || c.Table.Family == nftables.TableFamilyINet) && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop:
			r.obstacles = append(r.obstacles, fmt.Sprintf("the chain %s of the nftables table %s drops all that it does not accept itself: "+
				"have it accept what enters and leaves by %s", c.Name, c.Table.Name, r.bridge))
		}
	}
}

// postrouting is the chain of our own table.
func (r *ruleset) postrouting() *nftables.Chain {
	return &nftables.Chain{
		Name: "postrouting", Table: r.table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
}

// forward plans what makes the rules in the chain of iptables-nft the wanted ones.
func (r *ruleset) forward(conn *nftables.Conn, wanted []string) (added []string, removed int) {
	if r.chain == nil {
		return nil, 0
	}
	missing, surplus := difference(identities(r.ours), wanted, identityOf)
	for _, i := range surplus {
		_ = conn.DelRule(&nftables.Rule{Table: r.chain.Table, Chain: r.chain, Handle: r.ours[i].Handle}) // it has a handle, so no error
	}
	_, data := mark(r.bridge)
	for _, rule := range slices.Backward(missing) { // the last that is inserted is the first in the end
		conn.InsertRule(&nftables.Rule{Table: r.chain.Table, Chain: r.chain, Exprs: compile(rule), UserData: data})
	}
	return missing, len(surplus)
}

// translate plans the same for our own table. The order counts there, so if anything differs all is made anew, which happens at
// once.
func (r *ruleset) translate(conn *nftables.Conn, wanted []string) (added []string, removed int) {
	missing, surplus := difference(identities(r.addresses), wanted, identityOf)
	switch {
	case len(wanted) == 0 && r.exists:
		conn.DelTable(r.table)
	case len(missing)+len(surplus) > 0:
		chain := r.postrouting()
		conn.AddTable(r.table)
		conn.AddChain(chain)
		conn.FlushChain(chain)
		for _, rule := range wanted {
			conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: compile(rule)})
		}
	}
	return missing, len(surplus)
}

// hostObstacles are those that nftables does not know of. The kernel's settings are those of the calling thread's namespace.
func hostObstacles(f Firewall) (list []string) {
	names, _ := os.ReadFile("/proc/thread-self/net/ip_tables_names") // missing where there is no iptables-legacy
	if slices.Contains(strings.Fields(string(names)), "filter") {
		list = append(list, fmt.Sprintf("iptables-legacy filters here, which only its own command can change: "+
			"have its chain FORWARD accept what enters and leaves by %s, or move its rules to iptables-nft", f.Bridge))
	}
	forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err == nil && len(f.Exposed) > 0 && bytes.Equal(bytes.TrimSpace(forward), []byte("0")) {
		list = append(list, "the host does not forward, so containers do not reach the outside, nor it them: "+
			"`sysctl -w net.ipv4.ip_forward=1` changes that")
	}
	return list
}

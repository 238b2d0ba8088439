package device

import (
	"fmt"
	"net/netip"
	"slices"
)

// Firewall says what the packet filter of a host is to do for an overlay: let through what enters or leaves by its bridge, and,
// if the host has addresses there, give the host's own addresses to what crosses between the overlay and elsewhere.
type Firewall struct {
	// Bridge is the name of the bridge, or of a datapath's own device. There need not be one.
	Bridge string
	// Exposed are the subnets in which the host has an address on the bridge, IPv4. What comes from elsewhere is let through to
	// these alone.
	Exposed []netip.Prefix
	// Masquerade rewrites addresses between the exposed subnets and elsewhere, so that neither side needs a route to the other.
	Masquerade bool
}

// Firewalled is what [EnsureFirewall] has found and done.
type Firewalled struct {
	// Added are the rules that were missing, as iptables writes them.
	Added []string
	// Removed counts rules of ours that are not wanted any more.
	Removed int
	// Obstacles are sentences about what may stop the overlay's traffic all the same, and what to do about it.
	Obstacles []string
}

var multicast = netip.MustParsePrefix("224.0.0.0/4")

// subnets are the exposed ones, each once.
func (f Firewall) subnets() (list []netip.Prefix) {
	for _, p := range f.Exposed {
		list = append(list, p.Masked())
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

// forwarding are the rules for what passes the host, or just its bridge, where that is filtered too, as iptables writes them. All
// of them accept, so their order is of no importance.
func (f Firewall) forwarding() []string {
	rules := []string{fmt.Sprintf("-i %s -o %s -j ACCEPT", f.Bridge, f.Bridge)}
	for _, p := range f.subnets() {
		rules = append(rules, fmt.Sprintf("-o %s -d %s -j ACCEPT", f.Bridge, p))
	}
	return append(rules,
		fmt.Sprintf("-i %s ! -o %s -j ACCEPT", f.Bridge, f.Bridge),
		fmt.Sprintf("-o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", f.Bridge))
}

// translation are the rules for the addresses of what leaves, in their order. Multicast stays on the overlay, whoever hears it.
func (f Firewall) translation() (rules []string) {
	if !f.Masquerade {
		return nil
	}
	for _, p := range f.subnets() {
		rules = append(rules,
			fmt.Sprintf("-s %s -d %s -j RETURN", p, multicast),
			fmt.Sprintf("! -s %s -d %s -j MASQUERADE", p, p),
			fmt.Sprintf("-s %s ! -d %s -j MASQUERADE", p, p))
	}
	return rules
}

// difference compares the rules that are there, given by their identities, with those that are wanted. It returns those that are
// missing, and the indexes of those that are not wanted, or there once more.
func difference(there, wanted []string, identity func(rule string) string) (missing []string, surplus []int) {
	lacking := map[string]bool{}
	for _, rule := range wanted {
		lacking[identity(rule)] = true
	}
	for i, id := range there {
		if !lacking[id] {
			surplus = append(surplus, i)
		}
		delete(lacking, id)
	}
	for _, rule := range wanted {
		if lacking[identity(rule)] {
			missing = append(missing, rule)
		}
	}
	return missing, surplus
}

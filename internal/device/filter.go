package device

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
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

// condition is something that a packet has to meet. It is named by the option of iptables that asks for it.
type condition struct {
	option string
	not    bool
	device string       // of entering and leaving
	subnet netip.Prefix // of source and destination
}

// The options of conditions.
const (
	entering    = "-i"
	leaving     = "-o"
	source      = "-s"
	destination = "-d"
	answering   = "-m conntrack --ctstate RELATED,ESTABLISHED"
)

// action is what becomes of a packet that meets all conditions of a rule, by its name in iptables.
type action string

const (
	accept     action = "ACCEPT"
	leave      action = "RETURN"
	masquerade action = "MASQUERADE"
)

// filterRule is a rule of the packet filter.
type filterRule struct {
	conditions []condition
	action     action
}

// String returns the rule as iptables writes it.
func (r filterRule) String() string {
	var words []string
	for _, c := range r.conditions {
		if c.not {
			words = append(words, "!")
		}
		words = append(words, c.option)
		if c.option != answering {
			words = append(words, cmp.Or(c.device, c.subnet.String()))
		}
	}
	return strings.Join(append(words, "-j", string(r.action)), " ")
}

// subnets are the exposed ones, each once.
func (f Firewall) subnets() (list []netip.Prefix) {
	for _, p := range f.Exposed {
		list = append(list, p.Masked())
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

// forwarding are the rules for what passes the host, or just its bridge, where that is filtered too. All of them accept, so
// their order is of no importance.
func (f Firewall) forwarding() []filterRule {
	in, out := condition{option: entering, device: f.Bridge}, condition{option: leaving, device: f.Bridge}
	rules := []filterRule{{[]condition{in, out}, accept}}
	for _, p := range f.subnets() {
		rules = append(rules, filterRule{[]condition{out, {option: destination, subnet: p}}, accept})
	}
	elsewhere := out
	elsewhere.not = true
	return append(rules, filterRule{[]condition{in, elsewhere}, accept}, filterRule{[]condition{out, {option: answering}}, accept})
}

// translation are the rules for the addresses of what leaves, in their order.
func (f Firewall) translation() (rules []filterRule) {
	if !f.Masquerade {
		return nil
	}
	for _, p := range f.subnets() {
		from, to := condition{option: source, subnet: p}, condition{option: destination, subnet: p}
		notFrom, notTo := from, to
		notFrom.not, notTo.not = true, true
		rules = append(rules,
			filterRule{[]condition{from, {option: destination, subnet: multicast}}, leave},
			filterRule{[]condition{notFrom, to}, masquerade},
			filterRule{[]condition{from, notTo}, masquerade})
	}
	return rules
}

// difference compares rules, each given as a text that is the same for the same rule. It returns the indexes of those that are
// wanted and not there, and of those that are there and not wanted, or there once more.
func difference(there, wanted []string) (missing, surplus []int) {
	found := map[string]bool{}
	for i, rule := range there {
		if found[rule] || !slices.Contains(wanted, rule) {
			surplus = append(surplus, i)
		}
		found[rule] = true
	}
	for i, rule := range wanted {
		if !found[rule] {
			missing = append(missing, i)
		}
	}
	return missing, surplus
}

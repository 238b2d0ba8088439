package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/peer"
)

// statusParts are the parts of the status, in the line formats of Weave Net (section 8.2 of its HTTP specification).
var statusParts = map[string]func(api.Report) string{
	"targets":     targetsText,
	"connections": connectionsText,
	"peers":       peersText,
	"dns":         dnsText,
	"ipam":        ipamText,
}

// summary is the status as a whole, in the form of Weave Net (section 8.1).
func summary(r api.Report) string {
	blocks := []string{field("Version", r.Version), routerSummary(r)}
	if r.IPAM != nil {
		blocks = append(blocks, field("Service", "ipam")+field("Status", r.IPAM.State)+
			field("Range", r.IPAM.Range)+field("DefaultSubnet", r.IPAM.DefaultSubnet)+ipamTroubles(r.IPAM))
	}
	if r.DNS != nil {
		blocks = append(blocks, field("Service", "dns")+field("Domain", r.DNS.Domain)+field("Address", r.DNS.Address)+
			field("Upstream", listOrNone(r.DNS.Upstreams))+
			field("TTL", int(r.DNS.TTL/time.Second))+field("Entries", r.DNS.Table.Live)+deniedSummary(r.DNS.Server.Denied))
	}
	blocks = append(blocks, bridgeSummary(r))
	if r.Datapath != nil {
		blocks = append(blocks, datapathSummary(r))
	}
	return strings.Join(blocks, "\n")
}

func routerSummary(r api.Report) string {
	m := r.Router
	states := map[string]int{}
	for _, c := range m.Connections {
		states[c.State]++
	}
	for _, t := range m.Targets {
		if state, ok := targetState(t); ok {
			states[state]++
		}
	}
	return field("Service", "router") +
		field("Protocol", protocols(m)) +
		field("Name", named(m.Name, m.Nickname)) +
		field("Encryption", enabled(m.Encryption)) +
		field("PeerDiscovery", enabled(m.Discovery)) +
		field("Targets", len(r.Targets)) +
		field("Connections", countStates(states)) +
		field("Peers", countPeers(m)) +
		field("TrustedSubnets", listOrNone(m.TrustedSubnets))
}

func bridgeSummary(r api.Report) string {
	b := r.Bridge
	port := b.Port
	if b.PortNote != "" {
		port += " (" + b.PortNote + ")"
	}
	return field("Service", "bridge") + field("Bridge", b.Name) + field("Mode", b.Mode) + field("MTU", b.MTU) + field("Port", port) +
		field("Addresses", listOrNone(b.Addresses)) + field("Attached", len(r.Attachments)) + trouble(b.Trouble) + firewallSummary(b.Firewall)
}

func firewallSummary(f api.FirewallStatus) (text string) {
	if len(f.Exposed) > 0 {
		text = field("Exposed", listOrNone(f.Exposed)) + field("Masquerade", enabled(f.Masquerade))
	}
	if len(f.Trouble) == 0 {
		text += field("Firewall", "open for the overlay")
	}
	for _, t := range f.Trouble {
		text += field("Firewall", t)
	}
	return text
}

// deniedSummary is a line if questions were refused.
func deniedSummary(n uint64) string {
	if n == 0 {
		return ""
	}
	return field("Refused", fmt.Sprintf("%d questions from outside of --dns-allow", n))
}

// trouble is a line if there is any.
func trouble(text string) string {
	if text == "" {
		return ""
	}
	return field("Trouble", text)
}

func datapathSummary(r api.Report) string {
	d := r.Datapath
	state := "running"
	if !d.Running {
		state = cmp.Or(d.Problem, "starting")
	}
	flows := 0
	for _, n := range d.Flows {
		flows += n
	}
	text := field("Service", "datapath") + field("Datapath", d.Name) + field("Status", state) + field("Ports", len(d.Ports)) +
		field("Links", d.Links) + field("Flows", flows) + field("Misses", d.Counts["misses"])
	if e := r.Encryption; e != nil {
		text += field("Encryption", cmp.Or(e.Error, fmt.Sprintf("%d tunnels", len(e.Tunnels))))
	}
	return text
}

// field is a line with its label right-aligned.
func field(label string, value any) string {
	return fmt.Sprintf("%15s: %s\n", label, oneLine(fmt.Sprint(value)))
}

func enabled(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

func named(n peer.Name, nickname string) string {
	if nickname == "" {
		return n.String()
	}
	return fmt.Sprintf("%s(%s)", n, nickname)
}

func listOrNone[T fmt.Stringer](list []T) string {
	if len(list) == 0 {
		return "none"
	}
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

func protocols(m mesh.Status) string {
	if m.MinProtocol == m.MaxProtocol {
		return fmt.Sprintf("weave %d", m.MaxProtocol)
	}
	return fmt.Sprintf("weave %d..%d", m.MinProtocol, m.MaxProtocol)
}

// countStates words how many connections there are in which state.
func countStates(states map[string]int) string {
	var total int
	var parts []string
	for _, s := range []string{"established", "pending", "retrying", "failed", "connecting", "waiting"} {
		if n := states[s]; n > 0 {
			total += n
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	if total == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}

func countPeers(m mesh.Status) string {
	var established, pending int
	for _, p := range m.Peers {
		for _, c := range p.Connections {
			if c.Established {
				established++
			} else {
				pending++
			}
		}
	}
	switch {
	case established+pending == 0:
		return fmt.Sprint(len(m.Peers))
	case pending == 0:
		return fmt.Sprintf("%d (with %d established connections)", len(m.Peers), established)
	default:
		return fmt.Sprintf("%d (with %d established, %d pending connections)", len(m.Peers), established, pending)
	}
}

// targetState is the state that a target counts as in the list of connections; ok is false if it is not in that list.
func targetState(t mesh.TargetStatus) (state string, ok bool) {
	failedBefore := t.Reason != ""
	switch t.State {
	case "attempting":
		if failedBefore {
			return "retrying", true
		}
		return "connecting", true
	case "waiting", "never":
		if failedBefore {
			return "failed", true
		}
		return "waiting", t.State == "waiting"
	}
	return "", false
}

func targetsText(r api.Report) string {
	var b strings.Builder
	for _, t := range r.Targets {
		fmt.Fprintln(&b, t)
	}
	return b.String()
}

func connectionsText(r api.Report) string {
	var b strings.Builder
	for _, c := range r.Router.Connections {
		info := fmt.Sprintf("%-6s %s", cmp.Or(c.Link.Overlay, "none"), named(c.Name, c.Nickname))
		if r.Router.Encryption {
			info = fmt.Sprintf("%-11s %s", encryption(c.Encrypted), info)
		}
		line := connectionLine(c.Outbound, c.Address.String(), c.State, info)
		attributes := fmt.Sprintf("mtu=%d", c.Link.MTU)
		if c.Encrypted {
			attributes = "encrypted=true" + attributes // Weave Net prints no space; scripts parse it
		}
		fmt.Fprintln(&b, line, attributes)
		b.WriteString(betterLinks(c))
	}
	for _, t := range r.Router.Targets {
		state, ok := targetState(t)
		if !ok {
			continue
		}
		fmt.Fprintln(&b, connectionLine(true, t.Address, state, targetInfo(t, state)))
	}
	return b.String()
}

// betterLinks has a line for each overlay that would be preferred to the one in use: why it is not used, and when it is tried next.
func betterLinks(c mesh.ConnStatus) string {
	var b strings.Builder
	for _, l := range c.Links {
		if l.Overlay == c.Link.Overlay {
			break
		}
		fmt.Fprintf(&b, "   %s: %s", l.Overlay, oneLine(cmp.Or(l.Reason, "not established yet")))
		if !l.Next.IsZero() {
			fmt.Fprintf(&b, ", next try: %s", l.Next.Format(time.RFC3339))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func encryption(on bool) string {
	if on {
		return "encrypted"
	}
	return "unencrypted"
}

func connectionLine(outbound bool, address, state, info string) string {
	return fmt.Sprintf("%s %-21s %-11s %s", arrow(outbound), address, state, info)
}

func arrow(outbound bool) string {
	if outbound {
		return "->"
	}
	return "<-"
}

func targetInfo(t mesh.TargetStatus, state string) string {
	next := "never"
	if !t.Next.IsZero() {
		next = t.Next.Format(time.RFC3339)
	}
	switch state {
	case "failed":
		return t.Reason + ", retry: " + next
	case "waiting":
		return "until: " + next
	}
	return t.Reason
}

func peersText(r api.Report) string {
	var b strings.Builder
	for _, p := range r.Router.Peers {
		fmt.Fprintln(&b, named(p.Name, p.Nickname))
		for _, c := range p.Connections {
			state := "pending"
			if c.Established {
				state = "established"
			}
			fmt.Fprintf(&b, "   %s %-21s %-37s %s\n", arrow(c.Outbound), c.Address, named(c.Name, c.Nickname), state)
		}
	}
	return b.String()
}

func dnsText(r api.Report) string {
	if r.DNS == nil {
		return "the name service is off\n"
	}
	var b strings.Builder
	for _, e := range r.DNS.Entries {
		if e.Live() {
			name := strings.TrimSuffix(e.Hostname, "."+r.DNS.Domain)
			fmt.Fprintf(&b, "%-12s %-15s %12.12s %s\n", name, e.Addr, e.Owner, e.Origin)
		}
	}
	return b.String()
}

func ipamText(r api.Report) string {
	if r.IPAM == nil {
		return "no addresses are given out\n"
	}
	peers := slices.Clone(r.IPAM.Peers)
	slices.SortStableFunc(peers, func(x, y ipam.PeerSpace) int { // ourselves first
		return -cmp.Compare(btoi(x.Peer == r.Router.Name), btoi(y.Peer == r.Router.Name))
	})
	var b strings.Builder
	for _, p := range peers {
		note := ""
		switch {
		case p.Peer == r.Router.Name:
			note = fmt.Sprintf("(%d active)", r.IPAM.ActiveIPs)
		case !p.Reachable:
			note = "- unreachable!"
		}
		share := 100 * float64(p.IPs) / float64(r.IPAM.RangeNumIPs)
		fmt.Fprintf(&b, "%-37s %8d IPs (%04.1f%% of total) %s\n", named(p.Peer, p.Nickname), p.IPs, share, note)
	}
	if why := r.IPAM.ReclaimOff; why != "" {
		fmt.Fprintf(&b, "The space of dead peers is not taken over: %s\n", why)
	}
	return b.String()
}

// troubles are what an operator should know of an allocator, by name; zero if there is none of it.
func troubles(s *ipam.Status) map[string]int {
	return map[string]int{
		"cut off": btoi(s.CutOff), "fenced": btoi(s.Fenced), "suspect": btoi(s.Suspect), "twin": btoi(s.Twin),
		"store error": btoi(s.StoreError != ""), "lost": len(s.Lost), "disputes": len(s.Disputes), "faults": len(s.Faults),
		"strays": len(s.Strays), "reclaiming": len(s.Reclaiming), "in doubt": len(s.InDoubt),
	}
}

// ipamTroubles is a line if there are troubles, with the addresses that containers must not use any more.
func ipamTroubles(s *ipam.Status) string {
	var list []string
	for what, n := range troubles(s) {
		if n > 0 {
			list = append(list, fmt.Sprintf("%s (%d)", what, n))
		}
	}
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	text := field("Trouble", strings.Join(list, ", "))
	if s.NotGiving != "" {
		text += field("NoneGiven", s.NotGiving)
	}
	for _, h := range s.Lost {
		text += field("Lost", fmt.Sprintf("%v of %s: restart it", h.Addr, h.Owner))
	}
	return text
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

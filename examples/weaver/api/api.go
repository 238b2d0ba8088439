// Package api is what a weaver daemon and its clients say to each other over the control socket: HTTP with JSON for what
// is weaver's own (attach, detach, report), and the plain-text paths that clients of Weave Net know.
//
// The control socket is a Unix socket that only its owner may open; whoever can open it can do what the daemon can.
package api

import (
	"net/netip"
	"time"

	"github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/dns/dnsserver"
	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/overlay"
)

// DefaultSocket is where the daemon listens for its clients if nothing else is said.
const DefaultSocket = "/run/weaver.sock"

// AttachRequest asks to give a network namespace an interface on the overlay. Attaching again adds what is missing.
type AttachRequest struct {
	// NetNS is the namespace: a path, a name below /run/netns, or the ID of a process in it.
	NetNS string `json:"netns"`
	// ID names the attachment; addresses and names belong to it. A container that comes back under its ID within some seconds
	// keeps its address. Empty: the name of the namespace, with "/" and the interface if that is not the usual one, or a random
	// one; what is attached already keeps its ID.
	ID string `json:"id,omitempty"`
	// Interface is what the interface is called in the namespace, which may have several, each an attachment of its own.
	// Empty: ethwe.
	Interface string `json:"interface,omitempty"`
	// Addresses to claim, with prefix lengths. None: the allocator gives one.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Subnet is what the allocator is to give the address from. Zero: the daemon's default subnet.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// DefaultRoute has everything that the namespace has no other route for go to the address that the host has on the overlay.
	// It waits until the host has it.
	DefaultRoute bool `json:"defaultRoute,omitempty"`
	// NoMulticastRoute leaves multicast to the other routes of the namespace.
	NoMulticastRoute bool `json:"noMulticastRoute,omitempty"`
	// Names to register in the DNS domain for the addresses, with or without the domain.
	Names []string `json:"names,omitempty"`
	// Wait is how long the daemon is to try; then it says why it could not. Zero: as long as the client waits.
	Wait time.Duration `json:"wait,omitempty"`
}

// Attachment is a namespace with an interface on the overlay.
type Attachment struct {
	ID        string         `json:"id"`
	NetNS     string         `json:"netns"`
	Interface string         `json:"interface"` // in the namespace
	Port      string         `json:"port"`      // the host's end of it
	Addresses []netip.Prefix `json:"addresses"` // none while it waits for one
	Names     []string       `json:"names,omitempty"`
	Gateway   netip.Addr     `json:"gateway,omitzero"` // where the default route leads, if it was asked for
	MAC       string         `json:"mac,omitempty"`    // of the interface; in answers, not in reports
}

// DetachRequest asks to take an attachment away again. NetNS may be given instead of ID, if it has but one.
type DetachRequest struct {
	NetNS string `json:"netns,omitempty"`
	ID    string `json:"id,omitempty"`
}

// Report is the whole state of a daemon.
type Report struct {
	Version     string
	Started     time.Time
	Router      mesh.Status
	Switch      overlay.SwitchStatus
	Bridge      BridgeStatus
	Datapath    *fastdp.Status `json:",omitempty"` // nil without one
	Encryption  *ipsec.Status  `json:",omitempty"` // of the datapath's tunnels; nil without
	IPAM        *ipam.Status   `json:",omitempty"` // nil if it is off
	DNS         *DNSStatus     `json:",omitempty"` // nil if it is off
	Attachments []Attachment
	Targets     []string // the peers to connect to, as they were given
}

// BridgeStatus describes the host's end of the overlay.
type BridgeStatus struct {
	Name      string
	Mode      string
	Addresses []netip.Prefix // of the host itself on the overlay
	Port      string         // what carries frames between bridge and switch: "tap" or "packet socket"
	PortNote  string         `json:",omitempty"` // why it is not the better one
	Trouble   string         `json:",omitempty"` // why the host has no address, if it is to have one
	MTU       int
	Firewall  FirewallStatus
}

// FirewallStatus describes the rules of the host's packet filter for the overlay.
type FirewallStatus struct {
	Exposed    []netip.Prefix `json:",omitempty"` // subnets of the overlay that the host connects to the outside
	Masquerade bool           // what crosses between these and the outside gets the host's addresses
	Repairs    int            // how often rules were missing that had been there
	Trouble    []string       `json:",omitempty"` // sentences about what may stop the overlay's traffic
}

// DNSStatus describes the name service.
type DNSStatus struct {
	Domain    string
	Address   string           // where questions are answered
	Upstreams []netip.AddrPort // who is asked for other names
	TTL       time.Duration
	Table     dns.Status       // of the names, how many there are and what was wrong with messages
	Server    dnsserver.Status // of questions
	Entries   []dns.Entry
}

package ipsec

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/mesh/peer"
)

// Status describes a [Protector] for people. Counters of packets are those of the last sweep.
type Status struct {
	Ports   []uint16       `json:"ports"` // that are guarded
	Tunnels []TunnelStatus `json:"tunnels,omitempty"`
	// Adopted policies and associations of a former run, Repaired ones that others changed, Removed ones that nobody needed.
	Adopted  uint64 `json:"adopted"`
	Repaired uint64 `json:"repaired"`
	Removed  uint64 `json:"removed"`
	Error    string `json:"error,omitempty"` // of the last sweep
}

// TunnelStatus describes the state between two addresses.
type TunnelStatus struct {
	Local, Remote netip.Addr
	Port          uint16    `json:"port"`
	Peer          peer.Name `json:"peer,omitempty"` // of the youngest tunnel
	Open          int       `json:"open"`           // tunnels; 0: on hold
	Action        string    `json:"action"`
	SPI           uint32    `json:"spi,omitempty"` // that we send with
	Sent          uint64    `json:"sent"`          // packets, by associations that are in the kernel
	Received      uint64    `json:"received"`
	Error         string    `json:"error,omitempty"`
}

// Status returns how things stand.
func (g *Protector) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{
		Ports:   slices.Sorted(maps.Keys(g.ports)),
		Adopted: g.counters.adopted, Repaired: g.counters.repaired, Removed: g.counters.removed,
	}
	if g.counters.sweepErr != nil {
		s.Error = g.counters.sweepErr.Error()
	}
	for _, id := range g.sortedPairs() {
		s.Tunnels = append(s.Tunnels, g.tunnelStatus(g.pairs[id]))
	}
	return s
}

func (g *Protector) tunnelStatus(p *pair) TunnelStatus {
	s := TunnelStatus{Local: p.local, Remote: p.remote, Port: p.port, Open: len(p.open), Action: p.action().String()}
	for _, t := range p.open {
		s.Peer = t.t.Remote
		if t.err != nil {
			s.Error = t.err.Error()
		}
	}
	if p.out != nil {
		s.SPI = p.out.SPI
	}
	for _, a := range g.associations {
		switch a.Selector {
		case p.selector(Out):
			s.Sent += a.Packets
		case p.selector(In):
			s.Received += a.Packets
		}
	}
	return s
}

// Status implements [fastdp.Protection].
func (p *Protection) Status() fastdp.ProtectionStatus {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	s := fastdp.ProtectionStatus{Rekeys: p.rekeys}
	switch {
	case p.closed:
		s.Reason = "closed"
	case p.err != nil:
		s.Reason = p.err.Error()
	case p.t.Key == nil && p.pair.action() == ESP:
		s.Reason = "between these addresses there is an encrypted tunnel, which goes first"
	case p.t.Key != nil && !g.has(p.out):
		s.Reason = "no key from the other end yet"
	case p.t.Key != nil && !g.has(p.in):
		s.Reason = "the other end has no key"
	case p.t.Key != nil:
		s.Encrypted, s.Cipher = true, Cipher
	}
	return s
}

// Cipher is how packets are encrypted.
const Cipher = "ESP AES-256-GCM"

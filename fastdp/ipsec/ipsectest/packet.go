package ipsectest

import (
	"net/netip"

	"github.com/overweave/overweave/fastdp/ipsec"
)

// Packet is a UDP packet from one host to another.
type Packet struct {
	Src, Dst netip.Addr
	Port     uint16
	// Rewritten is a source that somebody writes into the outer header on the path; none if it is not valid.
	Rewritten netip.Addr
}

// Outcome is what becomes of a packet.
type Outcome uint8

// The outcomes.
const (
	Unsent    Outcome = iota // dropped by the host that would send it
	Refused                  // dropped by the host that it arrived at
	Plain                    // arrived in the clear
	Encrypted                // arrived, and was encrypted on the way
)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	return [...]string{"unsent", "refused", "plain", "encrypted"}[o]
}

// Trace is a packet's way.
type Trace struct {
	Outcome Outcome
	Exposed bool   // it was on the path in the clear
	SPI     uint32 // of the association it was sent with; 0: none
}

// Send says what becomes of a packet, and counts it.
func Send(from, to *Kernel, p Packet) Trace {
	policy, ok := from.lookup(p, ipsec.Out)
	if ok && policy.Action == ipsec.Block {
		return Trace{Outcome: Unsent}
	}
	var sa ipsec.Association
	encrypted := ok && policy.Action == ipsec.ESP
	if encrypted {
		if sa, ok = from.choose(policy, p); !ok {
			return Trace{Outcome: Unsent}
		}
	}
	t := Trace{Outcome: Refused, Exposed: !encrypted, SPI: sa.SPI}
	if p.Rewritten.IsValid() {
		p.Src = p.Rewritten
	}
	if to.admits(p, sa, encrypted) {
		t.Outcome = Plain
		if encrypted {
			t.Outcome = Encrypted
		}
	}
	return t
}

// precedence of the actions, as their priorities are.
func precedence(a ipsec.Action) int { return int(a) }

// lookup finds the policy for a packet.
func (k *Kernel) lookup(p Packet, d ipsec.Direction) (best ipsec.Policy, found bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.policies {
		if c.Direction == d && matches(c.Selector, p) && (!found || precedence(c.Action) > precedence(best.Action)) {
			best, found = c, true
		}
	}
	return best, found
}

func matches(s ipsec.Selector, p Packet) bool {
	return s.Src.Contains(p.Src) && s.Dst.Contains(p.Dst) && s.Port == p.Port
}

// choose finds the association to send with.
func (k *Kernel) choose(policy ipsec.Policy, p Packet) (ipsec.Association, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, a := range k.associations {
		if matches(a.Selector, p) && a.ReqID == policy.ReqID && (policy.SPI == 0 || policy.SPI == a.SPI) {
			a.Packets++
			k.associations[id] = a
			return a, true
		}
	}
	return ipsec.Association{}, false
}

// admits reports whether a packet that arrives passes.
func (k *Kernel) admits(p Packet, sent ipsec.Association, encrypted bool) bool {
	var reqID uint32
	if encrypted {
		a, ok := k.open(p, sent)
		if !ok {
			return false
		}
		reqID = a.ReqID
	}
	policy, ok := k.lookup(p, ipsec.In)
	return !ok || policy.Action == ipsec.Clear || policy.Action == ipsec.ESP && encrypted && policy.ReqID == reqID
}

// open finds the association that a packet opens with.
func (k *Kernel) open(p Packet, sent ipsec.Association) (ipsec.Association, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := associationID{p.Dst, sent.SPI}
	a, ok := k.associations[id]
	if !ok || a.Key != sent.Key || !matches(a.Selector, p) {
		return a, false
	}
	a.Packets++
	k.associations[id] = a
	return a, true
}

package fastdp

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// returned returns what to do with a frame that a tunnel seems to return to us. The kernel turns a packet that is too long for
// the way into an ICMP message to its sender, and feeds it in as if it had come from the neighbour it was to go to, with the
// VNI that it was to go with: section 8.3 of the fastdp specification. It belongs to the sender of the packet: here, or at the
// peer where the packet entered the overlay. All else that comes back would go in circles, and is dropped.
func (d *Datapath) returned(f *frameKey, frame []byte) []step {
	t := &d.table
	src, dst, ok := t.ends(f.vni)
	if !ok || !isTooBig(frame) {
		d.stats.loops.Add(1)
		return nil
	}
	hop, ok := t.fwd.Routes().NextHop(dst)
	if !ok {
		return nil
	}
	if s, ok := t.hopStep(hop, src, dst, foreignByUser); !ok || s.kind != stepTunnel || s.outer != f.outer.reversed() {
		return nil // not from the neighbour towards the destination
	}
	d.stats.tooBig.Add(1)
	if src == d.cfg.Self {
		if port, here := t.deliverTo(f.dst); here {
			return []step{{kind: stepOutput, port: port}}
		}
		return nil
	}
	back, ok := t.fwd.Routes().NextHop(src)
	if !ok {
		return nil
	}
	if s, ok := t.hopStep(back, dst, src, foreignByUser); ok && s.kind == stepTunnel {
		return []step{s}
	}
	return nil
}

const (
	icmpUnreachable  = 3
	icmpFragNeeded   = 4
	icmp6PacketToo   = 2
	ipv4HeaderMin    = 20
	ipv6HeaderLength = 40
)

// isTooBig reports whether a frame is an ICMP message about a packet that was too long.
func isTooBig(frame []byte) bool {
	if len(frame) < overlay.HeaderLen+ipv4HeaderMin {
		return false
	}
	p := frame[overlay.HeaderLen:]
	switch odp.EtherType(binary.BigEndian.Uint16(frame[12:])) {
	case odp.TypeIPv4:
		header := int(p[0]&15) * 4
		return len(p) >= header+2 && p[9] == odp.ProtoICMP && p[header] == icmpUnreachable && p[header+1] == icmpFragNeeded
	case odp.TypeIPv6:
		return len(p) > ipv6HeaderLength && p[6] == odp.ProtoICMPv6 && p[ipv6HeaderLength] == icmp6PacketToo
	}
	return false
}

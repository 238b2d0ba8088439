package fastdp

import (
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// frameKey is what flows can depend on of one frame.
type frameKey struct {
	port     uint32
	stage    odp.RecircID
	dst, src overlay.MAC
	tunneled bool
	vni      vni
	outer    outer
	tags     tags
	proto    proto // as of a frame to a group
}

// parseFrame reads the key of an upcall; ok is false if it is one that we know nothing to do with.
func parseFrame(d odp.KeyData) (f frameKey, ok bool) {
	var t odp.Tunnel
	eth, hasEth := d.Ethernet()
	port, hasPort := d.InPort()
	tunneled, err := d.Tunnel(&t)
	if !hasEth || !hasPort || err != nil || t.ID > maxVNI {
		return f, false
	}
	f = frameKey{
		port: port, dst: overlay.MAC(eth.Dst), src: overlay.MAC(eth.Src),
		tunneled: tunneled, vni: vni(t.ID), outer: outer{t.Src.Unmap(), t.Dst.Unmap()},
	}
	stage, _ := d.RecircID()
	f.stage = odp.RecircID(stage)
	f.tags, d = parseTags(d)
	if forGroups(f.dst) {
		f.proto = parseProto(d)
	}
	return f, true
}

// parseTags returns the types of the VLAN tags, and the key of what follows them.
func parseTags(d odp.KeyData) (t tags, inner odp.KeyData) {
	for _, tag := range []*odp.EtherType{&t.first, &t.second} {
		inside, nested := d.Encap()
		if v, has := d.VLAN(); !has || v&tagged == 0 || !nested {
			return t, d
		}
		*tag, _ = d.EtherType()
		d = inside
	}
	return t, d
}

func parseProto(d odp.KeyData) (p proto) {
	p.typ, p.set = d.EtherType()
	if v4, ok := d.IPv4(); ok {
		p.ip = v4.Proto
	}
	if v6, ok := d.IPv6(); ok {
		p.ip = v6.Proto
	}
	if keys, err := d.Keys(); p.typ == odp.TypeIPv6 && p.ip == odp.ProtoICMPv6 && err == nil {
		for _, key := range keys {
			if icmp, ok := key.(odp.ICMPv6); ok {
				p.sub = icmp.Type
			}
		}
	}
	return p
}

// parseKey returns the key of a flow that a former run made, for its match and its name; ok is false if the flow is none of
// ours.
func parseKey(m odp.Match, id odp.UFID) (k flowKey, ok bool) {
	stage, _, _ := odp.Get[odp.RecircID](m)
	_, portMask, _ := odp.Get[odp.InPort](m)
	eth, ethMask, _ := odp.Get[odp.Ethernet](m)
	if port, _, _ := odp.Get[odp.InPort](m); portMask == ^odp.InPort(0) {
		k.port = uint32(port)
	}
	if t, mask, _ := odp.Get[odp.Tunnel](m); mask.ID != 0 {
		k.vni, k.outer = vni(t.ID), outer{t.Src.Unmap(), t.Dst.Unmap()}
	}
	k.mac = overlay.MAC(eth.Dst)
	if ethMask.Dst == (odp.MAC{}) {
		k.mac = overlay.MAC(eth.Src)
	}
	k.tags, m = unwrap(m)
	if forGroups(k.mac) {
		k.proto = protoOf(m)
	}
	for s := shapeSource; s < numShapes; s++ {
		k.shape = s
		if k.shape.stage() == stage && k.cleaned().ufid() == id {
			return k.cleaned(), true
		}
	}
	return flowKey{}, false
}

// cleaned returns the key without what its shape does not match.
func (k flowKey) cleaned() flowKey {
	if !k.shape.matchesPort() {
		k.port = 0
	}
	if !k.shape.matchesTunnel() {
		k.vni, k.outer = 0, outer{}
	}
	if k.shape == shapeRelay {
		k.mac = overlay.MAC{}
	}
	if !k.shape.matchesProto() {
		k.proto = proto{}
	}
	return k
}

func unwrap(m odp.Match) (t tags, inner odp.Match) {
	for _, tag := range []*odp.EtherType{&t.first, &t.second} {
		v, _, has := odp.Get[odp.VLAN](m)
		typ, _, _ := odp.Get[odp.EtherType](m)
		if !has || v&tagged == 0 {
			return t, m
		}
		*tag = typ
		for _, f := range m {
			if inside, ok := f.Inner(); ok {
				m = inside
				break
			}
		}
	}
	return t, m
}

func protoOf(m odp.Match) (p proto) {
	typ, mask, has := odp.Get[odp.EtherType](m)
	if !has || mask == 0 {
		return proto{}
	}
	p = proto{set: true, typ: typ}
	if v4, _, ok := odp.Get[odp.IPv4](m); ok {
		p.ip = v4.Proto
	}
	if v6, _, ok := odp.Get[odp.IPv6](m); ok {
		p.ip = v6.Proto
	}
	if icmp, _, ok := odp.Get[odp.ICMPv6](m); ok {
		p.sub = icmp.Type
	}
	return p
}

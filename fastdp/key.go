package fastdp

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// shape is one of the forms that flows have. Each has its own set of fields that are matched, all of them exactly; what is
// matched follows from the frame, so that two flows never match the same frame: see [flowKey.rivals].
type shape uint8

const (
	// shapeSource: a frame from a local port, by its source. It learns, and leads to one of the next two.
	shapeSource shape = iota + 1
	// shapeToPeer: then, to a station at another peer, from whatever port.
	shapeToPeer
	// shapeFromPort: then, to anything else: a station of this host, one that is not known, a group.
	shapeFromPort
	// shapeArrive: a frame from the tunnel that is for this peer, by its source. It learns, and leads to one of the next two.
	shapeArrive
	// shapeDeliver: then, to a station of this host, from whatever peer.
	shapeDeliver
	// shapeSpread: then, to many, here and further on.
	shapeSpread
	// shapeRelay: a frame from the tunnel that is for another peer.
	shapeRelay
	// shapeUser: a frame from the port of the user-space overlays, for stations of this host.
	shapeUser
	numShapes
)

var shapeNames = [numShapes]string{"", "source", "to_peer", "from_port", "arrive", "deliver", "spread", "relay", "user"}

// String returns the name of the shape in status reports.
func (s shape) String() string { return shapeNames[s] }

// Numbers of the stages: what a frame is recirculated with.
const (
	stageFirst   = 0
	stageLocal   = 1 // the source of a local frame is known to be good
	stageArrived = 2 // the source of a frame from the tunnel is known to be good
)

func (s shape) stage() odp.RecircID {
	switch s {
	case shapeToPeer, shapeFromPort:
		return stageLocal
	case shapeDeliver, shapeSpread:
		return stageArrived
	}
	return stageFirst
}

// matchesSource tells by which address of the frame a shape goes.
func (s shape) matchesSource() bool { return s == shapeSource || s == shapeArrive }

func (s shape) matchesPort() bool { return s != shapeToPeer && s != shapeDeliver }

func (s shape) matchesTunnel() bool {
	return s == shapeArrive || s == shapeSpread || s == shapeRelay
}

// flowKey names a flow: it says what the flow matches. It is comparable.
type flowKey struct {
	shape shape
	port  uint32      // in_port, if the shape matches it
	mac   overlay.MAC // zero for shapeRelay
	vni   vni         // these two if the shape matches the tunnel
	outer outer
	tags  tags
	proto proto // for group addresses of IP, if the shape spreads; else zero
}

// tags are the types of a frame's VLAN tags, 0 for none; a flow always says how many tags its frames have. What is in the tags
// does not matter.
type tags struct{ first, second odp.EtherType }

// proto tells protocols apart, as far as that is needed to see what tells of memberships.
type proto struct {
	set bool // it is matched
	typ odp.EtherType
	ip  uint8 // protocol of an IP packet
	sub uint8 // type of an ICMPv6 message
}

const (
	protoIGMP = 2
	tagged    = odp.VLAN(0x1000)

	mldQuery   = 130
	mldReport  = 131
	mldDone    = 132
	mldReport2 = 143
)

// forGroups reports whether frames to m are told apart by protocol: the groups of IPv4 and IPv6.
func forGroups(m overlay.MAC) bool {
	return m[0] == 0x01 && m[1] == 0x00 && m[2] == 0x5e && m[3] < 0x80 || m[0] == 0x33 && m[1] == 0x33
}

// membership reports whether frames of the protocol tell of memberships. Where they go depends on what they say.
func (p proto) membership() bool {
	switch {
	case p.typ == odp.TypeIPv4:
		return p.ip == protoIGMP
	case p.typ == odp.TypeIPv6 && p.ip == odp.ProtoICMPv6:
		return p.sub >= mldQuery && p.sub <= mldDone || p.sub == mldReport2
	}
	return false
}

// match returns what the kernel is told to match.
func (k flowKey) match() odp.Match {
	m := odp.Match{odp.Exact(k.shape.stage())}
	if k.shape.matchesPort() {
		m = append(m, odp.Exact(odp.InPort(k.port)))
	}
	if k.shape.matchesTunnel() {
		ones := odp.Tunnel{ID: ^uint64(0), Src: allOnes(k.outer.src), Dst: allOnes(k.outer.dst), Flags: odp.TunnelKey}
		m = append(m, odp.Masked(odp.Tunnel{ID: uint64(k.vni), Src: k.outer.src, Dst: k.outer.dst, Flags: odp.TunnelKey}, ones))
	}
	switch {
	case k.shape == shapeRelay: // whatever its addresses are
	case k.shape.matchesSource():
		m = append(m, odp.Masked(odp.Ethernet{Src: odp.MAC(k.mac)}, odp.Ethernet{Src: odp.Broadcast()}))
	default:
		m = append(m, odp.Masked(odp.Ethernet{Dst: odp.MAC(k.mac)}, odp.Ethernet{Dst: odp.Broadcast()}))
	}
	return append(m, k.tags.wrap(k.proto.match())...)
}

func allOnes(a netip.Addr) netip.Addr {
	return odp.NetMask(netip.PrefixFrom(a, a.BitLen()))
}

func (p proto) match() odp.Match {
	if !p.set {
		return nil
	}
	m := odp.Match{odp.Exact(p.typ)}
	switch p.typ {
	case odp.TypeIPv4:
		m = append(m, odp.Masked(odp.IPv4{Proto: p.ip}, odp.IPv4{Proto: 0xff}))
	case odp.TypeIPv6:
		m = append(m, odp.Masked(odp.IPv6{Proto: p.ip}, odp.IPv6{Proto: 0xff}))
		if p.ip == odp.ProtoICMPv6 {
			m = append(m, odp.Masked(odp.ICMPv6{Type: p.sub}, odp.ICMPv6{Type: 0xff}))
		}
	}
	return m
}

// wrap puts tags around what matches the rest of a frame.
func (t tags) wrap(m odp.Match) odp.Match {
	for _, typ := range []odp.EtherType{t.second, t.first} {
		if typ != 0 {
			m = odp.Match{odp.Exact(typ), odp.Masked(tagged, tagged), odp.Inside(m)}
		}
	}
	return m
}

// appendTo appends bytes that are the same for the same key and no other.
func (k flowKey) appendTo(b []byte) []byte {
	b = append(b, byte(k.shape), k.proto.ip, k.proto.sub, bit(k.proto.set))
	b = binary.BigEndian.AppendUint32(b, k.port)
	b = append(b, k.mac[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(k.vni))
	for _, v := range []odp.EtherType{k.tags.first, k.tags.second, k.proto.typ} {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	for _, a := range []netip.Addr{k.outer.src, k.outer.dst} {
		b = append(b, a.AsSlice()...)
	}
	return b
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// ufid returns the name by which the kernel knows the flow.
func (k flowKey) ufid() odp.UFID {
	h := fnv.New128a()
	h.Write(k.appendTo(make([]byte, 0, 80)))
	return odp.UFID(h.Sum(nil))
}

// rivals returns the keys of other flows that could match the same frames. No two of them are to be in the kernel at the same
// time, since either may win. Given are those with the same address.
func (k flowKey) rivals(same map[flowKey]*entry) (out []flowKey) {
	var rival shape
	switch k.shape {
	case shapeToPeer:
		rival = shapeFromPort
	case shapeFromPort:
		rival = shapeToPeer
	case shapeDeliver:
		rival = shapeSpread
	case shapeSpread:
		rival = shapeDeliver
	default:
		return nil
	}
	for other := range same {
		if other.shape == rival && other.tags == k.tags {
			out = append(out, other)
		}
	}
	return out
}

// matchesProto reports whether the shape tells protocols apart, for groups.
func (s shape) matchesProto() bool { return s == shapeFromPort || s == shapeSpread }

package odp

import (
	"encoding/binary"
	"net/netip"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Action is one step of what the datapath does with a packet. The set of implementations is closed. A flow with no actions
// drops its packets.
type Action interface {
	actionType() uint16
	appendPayload(e *nla.Encoder)
	// String returns the action in the notation of ovs-dpctl.
	String() string
}

type (
	// Output sends the packet out by a port; if there is none of this number it is dropped silently.
	Output uint32

	// Recirc has the packet looked up again as one with this [RecircID].
	Recirc uint32

	// Trunc cuts the packet to this many bytes, at least 14, for the next Output only. Since Linux 4.8.
	Trunc uint32

	// Meter drops the packet if that meter says so. A meter that does not exist lets pass. Since Linux 4.15.
	Meter uint32

	// Drop ends the list of actions and says why, for those who trace drops; 0 is the ordinary reason. Since Linux 6.6.
	Drop uint32

	// PopMPLS removes the outermost MPLS label; the packet then has this EtherType.
	PopMPLS EtherType

	// Clone runs actions on a copy of the packet. Since Linux 4.19.
	Clone []Action

	// DecTTL decrements the TTL or hop limit. If it reaches 0 the actions are run and nothing else. Since Linux 5.7.
	DecTTL []Action

	// PopVLAN removes the outermost VLAN tag.
	PopVLAN struct{}

	// PopEth removes the Ethernet header.
	PopEth struct{}

	// PopNSH removes the network service header.
	PopNSH struct{}

	// CTClear forgets what connection tracking knows of the packet.
	CTClear struct{}

	// PushEth adds an Ethernet header to a packet without one.
	PushEth Ethernet

	// PushNSH adds a network service header.
	PushNSH NSH

	// UnknownAction is an action that this package does not know. It is carried as it is, and printed as action99(0102).
	UnknownAction Attr
)

// Userspace sends the packet to the netlink socket with this number, as an [Upcall] of kind [ActionUpcall]. With per-CPU dispatch
// the kernel chooses another socket, but PID must not be 0 all the same.
type Userspace struct {
	PID        uint32
	Data       []byte // given back in the upcall
	TunnelPort uint32 // if HasTunnel: the upcall describes the tunnel that an Output to this port would use
	HasTunnel  bool
	Actions    bool // the upcall contains the flow's actions
	Unknown    []Attr
}

// Set replaces a header or metadata by the given key. The flow must prove that the header is there. Setting a [Tunnel] addresses
// the copies sent by following Outputs to tunnel ports.
type Set struct{ Key Key }

// SetMasked replaces the bits of a header or of metadata that are 1 in the mask. It is made by [SetBits].
type SetMasked struct{ value, mask Key }

// SetBits replaces those bits of a key that are 1 in the mask. The other bits of the value are cleared, as the kernel demands.
func SetBits[K Key](value, mask K) SetMasked { return setMasked(value, mask) }

func setMasked(value, mask Key) SetMasked { return SetMasked{within(value, mask), mask} }

// Value returns the new bits.
func (a SetMasked) Value() Key { return a.value }

// Mask returns which bits are replaced.
func (a SetMasked) Mask() Key { return a.mask }

// PushVLAN adds a VLAN tag: see [Tag].
type PushVLAN struct {
	Type EtherType // TypeVLAN or TypeQinQ
	TCI  VLAN
}

// PushMPLS adds an MPLS label behind the Ethernet header.
type PushMPLS struct {
	Entry LSE
	Type  EtherType // TypeMPLS or TypeMPLSMC
}

// AddMPLS adds an MPLS label, in front of the Ethernet header or of the IP header. Since Linux 5.6.
type AddMPLS struct {
	Entry  LSE
	Type   EtherType
	Layer3 bool // in front of the IP header
}

// Sample runs actions on a copy of a share of the packets.
type Sample struct {
	Probability uint32 // of 2^32-1, which is always
	Actions     []Action
}

// HashAlgorithm is a way to compute a [DPHash].
type HashAlgorithm uint32

// Hash algorithms.
const (
	HashL4    HashAlgorithm = iota // of the addresses and ports
	HashSymL4                      // the same for both directions, since Linux 6.5
)

// Hash computes a hash that flows behind a [Recirc] can match as [DPHash].
type Hash struct {
	Algorithm HashAlgorithm
	Basis     uint32
}

// CheckPktLen chooses actions by the packet's length, without a VLAN tag's. Since Linux 5.2.
type CheckPktLen struct {
	Len       uint16 // in bytes, more than 0
	Greater   []Action
	LessEqual []Action
}

// PSample gives a copy of the packet to the listeners of a psample group. Since Linux 6.11.
type PSample struct {
	Group  uint32
	Cookie []byte // at most 16 bytes
}

// CT sends the packet through connection tracking. A [Recirc] must follow for flows to match what came out. Since Linux 4.3.
type CT struct {
	Commit      bool // remember the connection
	ForceCommit bool // remember it as one that goes the way of this packet
	Zone        uint16
	Mark        CTMark // with MarkMask: set these bits of the connection's mark; needs Commit
	MarkMask    CTMark
	Labels      CTLabels // with LabelsMask; needs Commit
	LabelsMask  CTLabels
	Helper      string // name of a protocol helper, at most 15 bytes
	NAT         *NAT   // translate addresses
	Events      uint32 // which events are notified, a bit mask of the kernel's IPCT values; if HasEvents
	HasEvents   bool
	Timeout     string // name of a timeout policy, at most 31 bytes
	Unknown     []Attr
}

// NAT says how a connection's addresses are translated. Without Src and Dst, what was decided for the connection before is done.
// Src or Dst need Commit.
type NAT struct {
	Src, Dst         bool // translate the source, or the destination; not both
	MinIP, MaxIP     netip.Addr
	MinPort, MaxPort uint16 // 0 for any
	Persistent       bool
	Hash             bool // choose the port by a hash
	Random           bool // choose the port at random
	Unknown          []Attr
}

func (Output) actionType() uint16          { return actOutput }
func (Recirc) actionType() uint16          { return actRecirc }
func (Trunc) actionType() uint16           { return actTrunc }
func (Meter) actionType() uint16           { return actMeter }
func (Drop) actionType() uint16            { return actDrop }
func (PopMPLS) actionType() uint16         { return actPopMPLS }
func (Clone) actionType() uint16           { return actClone }
func (DecTTL) actionType() uint16          { return actDecTTL }
func (PopVLAN) actionType() uint16         { return actPopVLAN }
func (PopEth) actionType() uint16          { return actPopEth }
func (PopNSH) actionType() uint16          { return actPopNSH }
func (CTClear) actionType() uint16         { return actCTClear }
func (PushEth) actionType() uint16         { return actPushEth }
func (PushNSH) actionType() uint16         { return actPushNSH }
func (a UnknownAction) actionType() uint16 { return a.Type }
func (Userspace) actionType() uint16       { return actUserspace }
func (Set) actionType() uint16             { return actSet }
func (SetMasked) actionType() uint16       { return actSetMasked }
func (PushVLAN) actionType() uint16        { return actPushVLAN }
func (PushMPLS) actionType() uint16        { return actPushMPLS }
func (AddMPLS) actionType() uint16         { return actAddMPLS }
func (Sample) actionType() uint16          { return actSample }
func (Hash) actionType() uint16            { return actHash }
func (CheckPktLen) actionType() uint16     { return actCheckPktLen }
func (PSample) actionType() uint16         { return actPSample }
func (CT) actionType() uint16              { return actCT }

func (a Output) appendPayload(e *nla.Encoder)        { put32(e, uint32(a)) }
func (a Recirc) appendPayload(e *nla.Encoder)        { put32(e, uint32(a)) }
func (a Trunc) appendPayload(e *nla.Encoder)         { put32(e, uint32(a)) }
func (a Meter) appendPayload(e *nla.Encoder)         { put32(e, uint32(a)) }
func (a Drop) appendPayload(e *nla.Encoder)          { put32(e, uint32(a)) }
func (a PopMPLS) appendPayload(e *nla.Encoder)       { putBE16(e, uint16(a)) }
func (a Clone) appendPayload(e *nla.Encoder)         { appendActionList(e, a) }
func (PopVLAN) appendPayload(*nla.Encoder)           {}
func (PopEth) appendPayload(*nla.Encoder)            {}
func (PopNSH) appendPayload(*nla.Encoder)            {}
func (CTClear) appendPayload(*nla.Encoder)           {}
func (a PushEth) appendPayload(e *nla.Encoder)       { Ethernet(a).appendPayload(e) }
func (a PushNSH) appendPayload(e *nla.Encoder)       { appendKey(e, NSH(a)) }
func (a UnknownAction) appendPayload(e *nla.Encoder) { e.B = append(e.B, a.Data...) }
func (a Set) appendPayload(e *nla.Encoder)           { appendKey(e, a.Key) }

func (a DecTTL) appendPayload(e *nla.Encoder) {
	m := e.Begin(decTTLAction)
	appendActionList(e, a)
	e.End(m)
}

func (a SetMasked) appendPayload(e *nla.Encoder) {
	value, err := keyPayload(a.value)
	if err != nil {
		e.Fail(err)
	}
	mask, err := keyPayload(a.mask)
	if err != nil {
		e.Fail(err)
	}
	if len(value) != len(mask) {
		e.Fail(&FlowError{Field: "action set", Reason: "value and mask differ in length"})
		return
	}
	m := e.Begin(a.value.keyType())
	e.B = append(append(e.B, value...), mask...)
	e.End(m)
}

func (a PushVLAN) appendPayload(e *nla.Encoder) {
	putBE16(e, uint16(a.Type), uint16(a.TCI|vlanPresent))
}

func (a PushMPLS) appendPayload(e *nla.Encoder) {
	e.B = binary.BigEndian.AppendUint32(e.B, uint32(a.Entry))
	putBE16(e, uint16(a.Type), 0)
}

func (a AddMPLS) appendPayload(e *nla.Encoder) {
	e.B = binary.BigEndian.AppendUint32(e.B, uint32(a.Entry))
	putBE16(e, uint16(a.Type))
	var flags uint16
	if a.Layer3 {
		flags = 1
	}
	put16(e, flags)
}

func (a Sample) appendPayload(e *nla.Encoder) {
	e.U32(sampleProb, a.Probability)
	appendActions(e, sampleAction, a.Actions)
}

func (a Hash) appendPayload(e *nla.Encoder) {
	put32(e, uint32(a.Algorithm))
	put32(e, a.Basis)
}

func (a CheckPktLen) appendPayload(e *nla.Encoder) {
	e.U16(pktLen, a.Len)
	appendActions(e, pktGreater, a.Greater)
	appendActions(e, pktLessEqual, a.LessEqual)
}

func (a PSample) appendPayload(e *nla.Encoder) {
	e.U32(psampleGroup, a.Group)
	if len(a.Cookie) > 0 {
		e.Bytes(psampleCooky, a.Cookie)
	}
}

func (a Userspace) appendPayload(e *nla.Encoder) {
	e.U32(userPID, a.PID)
	if len(a.Data) > 0 {
		e.Bytes(userData, a.Data)
	}
	if a.HasTunnel {
		e.U32(userTunPort, a.TunnelPort)
	}
	if a.Actions {
		e.Flag(userActions)
	}
	appendAttrs(e, a.Unknown)
}

func appendAttrs(e *nla.Encoder, attrs []Attr) {
	for _, a := range attrs {
		e.Bytes(a.Type, a.Data)
	}
}

// appendChecked appends a whole list of actions, unless the kernel would answer it with nothing but an errno.
func appendChecked(e *nla.Encoder, typ uint16, list []Action) {
	if err := checkActions(list, 0); err != nil {
		e.Fail(err)
		return
	}
	appendActions(e, typ, list)
}

// appendActions appends an attribute that is a list of actions.
func appendActions(e *nla.Encoder, typ uint16, list []Action) {
	m := e.Begin(typ)
	appendActionList(e, list)
	e.End(m)
}

func appendActionList(e *nla.Encoder, list []Action) {
	for _, a := range list {
		m := e.Begin(a.actionType())
		a.appendPayload(e)
		e.End(m)
	}
}

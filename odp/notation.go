package odp

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// Notation writes and reads flows as ovs-dpctl does. The zero value writes port numbers and leaves out what is wildcarded. It
// is safe for concurrent use if its functions are.
//
// What is written verbosely is read as it was, except masks of keys that the match does not have. Where ovs-dpctl would leave something
// out, more is written than it can read. It reads what ovs-dpctl writes, but for the data of ovs-vswitchd in an action userspace
// (slow_path(action) and so on), which are bytes that only the tool's own version knows: here they are userdata(0102).
type Notation struct {
	// Verbose also writes what is wildcarded, as value/0.
	Verbose bool
	// PortName names a port; "" or a nil function leaves the number.
	PortName func(number uint32) string
	// Now is the time on the monotonic clock (see [MonotonicTime]). If it is not 0, Flow writes how long ago a flow was used.
	Now time.Duration
	// PortNumber finds the port that a text names; nil knows only numbers.
	PortNumber func(name string) (uint32, bool)
}

// Match returns the text of a match, for instance in_port(1),eth(),eth_type(0x0806).
func (n Notation) Match(m Match) string {
	p := printer{Notation: n}
	p.match(m)
	return string(p.b)
}

// Actions returns the text of an action list, for instance 2,push_vlan(vid=5,pcp=0),3.
func (n Notation) Actions(list []Action) string {
	p := printer{Notation: n}
	p.actions(list)
	return string(p.b)
}

// Flow returns a flow on one line: identifier, match, counters and actions, "omitted" if the kernel left them out.
func (n Notation) Flow(f Flow) string {
	p := printer{Notation: n}
	if f.UFID != "" && n.Verbose {
		p.str(f.UFID.String() + ", ")
	}
	p.match(f.Match)
	p.printf(", packets:%d, bytes:%d", f.Stats.Packets, f.Stats.Bytes)
	if idle, used := f.Stats.Idle(n.Now); n.Now != 0 && used {
		p.printf(", used:%.3fs", idle.Seconds())
	} else if n.Now != 0 {
		p.str(", used:never")
	}
	if f.Stats.TCPFlags != 0 {
		p.str(", flags:" + f.Stats.TCPFlags.letters())
	}
	if f.ActionsOmitted && len(f.Actions) == 0 {
		p.str(", actions:omitted")
		return string(p.b)
	}
	p.str(", actions:" + n.Actions(f.Actions))
	return string(p.b)
}

// String returns the match in the notation of ovs-dpctl dump-flows.
func (m Match) String() string { return Notation{}.Match(m) }

// String returns the field in the notation of ovs-dpctl.
func (f Field) String() string {
	p := printer{Notation: Notation{Verbose: true}}
	p.field(f)
	return string(p.b)
}

// ParseMatch reads a match in the notation of ovs-dpctl.
func ParseMatch(s string) (Match, error) { return Notation{}.ParseMatch(s) }

// ParseActions reads an action list in the notation of ovs-dpctl. "drop" is an empty list.
func ParseActions(s string) ([]Action, error) { return Notation{}.ParseActions(s) }

func keyString(k Key) string {
	p := printer{Notation: Notation{Verbose: true}}
	p.key(k, nil, true)
	return string(p.b)
}

func actionString(a Action) string {
	var p printer
	p.action(a)
	return string(p.b)
}

// String implements Key for all keys; see there.
func (k Priority) String() string    { return keyString(k) }
func (k InPort) String() string      { return keyString(k) }
func (k SkbMark) String() string     { return keyString(k) }
func (k DPHash) String() string      { return keyString(k) }
func (k RecircID) String() string    { return keyString(k) }
func (k EtherType) String() string   { return keyString(k) }
func (k TCPFlags) String() string    { return keyString(k) }
func (k PacketType) String() string  { return keyString(k) }
func (k IPv6ExtHdrs) String() string { return keyString(k) }
func (k Ethernet) String() string    { return keyString(k) }
func (k VLAN) String() string        { return keyString(k) }
func (k IPv4) String() string        { return keyString(k) }
func (k IPv6) String() string        { return keyString(k) }
func (k TCP) String() string         { return keyString(k) }
func (k UDP) String() string         { return keyString(k) }
func (k SCTP) String() string        { return keyString(k) }
func (k ICMP) String() string        { return keyString(k) }
func (k ICMPv6) String() string      { return keyString(k) }
func (k ARP) String() string         { return keyString(k) }
func (k ND) String() string          { return keyString(k) }
func (k CTState) String() string     { return keyString(k) }
func (k CTZone) String() string      { return keyString(k) }
func (k CTMark) String() string      { return keyString(k) }
func (k CTLabels) String() string    { return keyString(k) }
func (k CTTupleIPv4) String() string { return keyString(k) }
func (k CTTupleIPv6) String() string { return keyString(k) }
func (k MPLS) String() string        { return keyString(k) }
func (k NSH) String() string         { return keyString(k) }
func (k Tunnel) String() string      { return keyString(k) }
func (k Encap) String() string       { return keyString(k) }
func (k UnknownKey) String() string  { return keyString(k) }

func (a Output) String() string        { return actionString(a) }
func (a Recirc) String() string        { return actionString(a) }
func (a Trunc) String() string         { return actionString(a) }
func (a Meter) String() string         { return actionString(a) }
func (a Drop) String() string          { return actionString(a) }
func (a PopMPLS) String() string       { return actionString(a) }
func (a Clone) String() string         { return actionString(a) }
func (a DecTTL) String() string        { return actionString(a) }
func (a PopVLAN) String() string       { return actionString(a) }
func (a PopEth) String() string        { return actionString(a) }
func (a PopNSH) String() string        { return actionString(a) }
func (a CTClear) String() string       { return actionString(a) }
func (a PushEth) String() string       { return actionString(a) }
func (a PushNSH) String() string       { return actionString(a) }
func (a UnknownAction) String() string { return actionString(a) }
func (a Userspace) String() string     { return actionString(a) }
func (a Set) String() string           { return actionString(a) }
func (a SetMasked) String() string     { return actionString(a) }
func (a PushVLAN) String() string      { return actionString(a) }
func (a PushMPLS) String() string      { return actionString(a) }
func (a AddMPLS) String() string       { return actionString(a) }
func (a Sample) String() string        { return actionString(a) }
func (a Hash) String() string          { return actionString(a) }
func (a CheckPktLen) String() string   { return actionString(a) }
func (a PSample) String() string       { return actionString(a) }
func (a CT) String() string            { return actionString(a) }

// UFID is a flow's unique identifier: up to 16 bytes, usually 16, chosen by whoever makes the flow; "" is none.
type UFID string

// String returns the identifier as ovs-dpctl writes it: one of 16 bytes as four numbers in this machine's byte order, with dashes in
// between, ufid:00112233-4455-6677-8899-aabbccddeeff; one of another length byte by byte; "" for none.
func (u UFID) String() string {
	if u == "" {
		return ""
	}
	h := hex.EncodeToString(u.numbers())
	if len(u) != 16 {
		return "ufid:" + h
	}
	return "ufid:" + strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// numbers changes an identifier of 16 bytes from this machine's byte order to that in which numbers are written, and back.
func (u UFID) numbers() []byte {
	if len(u) != 16 {
		return []byte(u)
	}
	var b []byte
	for i := 0; i < len(u); i += 4 {
		b = binary.BigEndian.AppendUint32(b, binary.NativeEndian.Uint32([]byte(u[i:i+4])))
	}
	return b
}

// ParseUFID reads what String writes, with or without "ufid:" and dashes.
func ParseUFID(s string) (UFID, error) {
	h := strings.ReplaceAll(strings.TrimPrefix(s, "ufid:"), "-", "")
	b, err := hex.DecodeString(h)
	if err != nil || len(b) > 16 {
		return "", &SyntaxError{Text: s, Reason: "not a flow identifier"}
	}
	return UFID(UFID(b).numbers()), nil
}

// flagName is the name of a bit.
type flagName struct {
	bit  uint32
	name string
}

func tcpFlagNames() []flagName {
	return []flagName{
		{1, "fin"}, {2, "syn"}, {4, "rst"}, {8, "psh"}, {0x10, "ack"}, {0x20, "urg"}, {0x40, "ece"}, {0x80, "cwr"},
		{0x100, "ns"}, {0x200, "[200]"}, {0x400, "[400]"}, {0x800, "[800]"},
	}
}

// letters writes flags as tools do that show packets.
func (k TCPFlags) letters() string {
	var b []byte
	for i, c := range []byte("FSRP.UECN") {
		if k&(1<<i) != 0 {
			b = append(b, c)
		}
	}
	return string(b)
}

func ctStateNames() []flagName {
	return []flagName{
		{1, "new"}, {2, "est"}, {4, "rel"}, {8, "rpl"}, {0x10, "inv"}, {0x20, "trk"}, {0x40, "snat"}, {0x80, "dnat"},
	}
}

func tunnelFlagNames() []flagName {
	return []flagName{
		{uint32(TunnelOAM), "oam"}, {uint32(TunnelDF), "df"}, {uint32(TunnelCSum), "csum"}, {uint32(TunnelKey), "key"},
	}
}

// appendHex appends v as 0x1f, and 0 as 0.
func appendHex(b []byte, v uint64) []byte {
	if v == 0 {
		return append(b, '0')
	}
	return strconv.AppendUint(append(b, "0x"...), v, 16)
}

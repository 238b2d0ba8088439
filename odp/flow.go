package odp

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Flow says what happens to the packets of a match. A flow made with a UFID is named by it, any other by its match: the values
// in it, also those that the masks ignore, so keep the match as it was given or listed.
//
// Flows have no priorities. A packet that two flows match is handled by either.
type Flow struct {
	UFID    UFID
	Match   Match
	Actions []Action // none: its packets are dropped
	Stats   FlowStats
	Unknown []Attr // of newer kernels

	// ActionsOmitted says that the kernel left the actions out, because it was told to or because they are too many for a listing.
	// [Conn.GetFlow] returns them. Such a flow is not put again before it has some.
	ActionsOmitted bool
}

// FlowStats tells of the packets that a flow has handled.
type FlowStats struct {
	Packets, Bytes uint64
	// Used is the time of the last packet on the machine's monotonic clock, since boot; 0 is never.
	Used time.Duration
	// TCPFlags are those seen in any of the packets.
	TCPFlags TCPFlags
}

// Idle returns how long a flow has not been used, given the monotonic clock (see [MonotonicTime]), and false if it never was.
func (s FlowStats) Idle(now time.Duration) (time.Duration, bool) {
	return max(now-s.Used, 0), s.Used != 0
}

// DumpOptions choose what a listing of flows leaves out. Flows without UFID always have their match.
type DumpOptions struct {
	OmitKey, OmitMask, OmitActions bool
}

const (
	omitKey     = 1
	omitMask    = 2
	omitActions = 4
)

// PutFlow makes a flow. If there is one of the same name, its actions are replaced, and its masks stay as they were; but if it is
// named by its UFID and does not match an EtherType, kernels do not find that it is the same, and answer syscall.ENOENT: use
// [Conn.ModifyFlow] for flows that are there. ENOENT is also an overlap with another flow that the kernel notices.
func (c *Conn) PutFlow(ctx context.Context, dp Index, f Flow) error {
	return c.writeFlow(ctx, "put a flow", dp, f, cmdNew, 0)
}

// CreateFlow makes a flow, and fails with syscall.EEXIST if there is one of the same name or one that overlaps.
func (c *Conn) CreateFlow(ctx context.Context, dp Index, f Flow) error {
	return c.writeFlow(ctx, "create a flow", dp, f, cmdNew, flagCreate)
}

// ModifyFlow replaces the actions of a flow, and fails with os.ErrNotExist if there is none of that name.
func (c *Conn) ModifyFlow(ctx context.Context, dp Index, f Flow) error {
	return c.writeFlow(ctx, "modify a flow", dp, f, cmdSet, 0)
}

func (c *Conn) writeFlow(ctx context.Context, op string, dp Index, f Flow, cmd uint8, flags uint16) error {
	r := request{family: c.families.flow, cmd: cmd, flags: flags, dp: dp, body: f.appendTo}
	err := c.do(ctx, op, r, nil)
	if refused(err) {
		err = c.explain(ctx, dp, f.features(), err)
	}
	return err
}

// appendTo appends all that makes a flow.
func (f Flow) appendTo(e *nla.Encoder) {
	if err := f.Match.appendTo(e); err != nil {
		e.Fail(err)
		return
	}
	if f.ActionsOmitted && len(f.Actions) == 0 {
		e.Fail(&FlowError{Field: "actions", Reason: "they were left out of the listing that the flow is from"})
		return
	}
	appendChecked(e, flowActions, f.Actions)
	f.UFID.appendTo(e)
}

func (u UFID) appendTo(e *nla.Encoder) {
	switch {
	case len(u) > 16:
		e.Fail(&FlowError{Field: "ufid", Reason: "longer than 16 bytes"})
	case u != "":
		e.Bytes(flowUFID, []byte(u))
	}
}

// appendName appends what names a flow.
func (f Flow) appendName(e *nla.Encoder) {
	if f.UFID != "" {
		f.UFID.appendTo(e)
		return
	}
	if len(f.Match) == 0 {
		// An empty name would mean all flows.
		e.Fail(&FlowError{Field: "flow", Reason: "neither UFID nor match name it"})
		return
	}
	if err := f.Match.appendTo(e); err != nil {
		e.Fail(err)
	}
}

// ClearFlow sets the statistics of a flow to zero. Only UFID, or else Match, of f are looked at.
func (c *Conn) ClearFlow(ctx context.Context, dp Index, f Flow) error {
	return c.do(ctx, "clear a flow", request{family: c.families.flow, cmd: cmdSet, dp: dp, body: func(e *nla.Encoder) {
		f.appendName(e)
		e.Flag(flowClear)
	}}, nil)
}

// GetFlow returns a flow. Only UFID, or else Match, of f are looked at. errors.Is(err, os.ErrNotExist) if there is none.
func (c *Conn) GetFlow(ctx context.Context, dp Index, f Flow) (Flow, error) {
	return c.flow(ctx, "get a flow", request{cmd: cmdGet, dp: dp, body: f.appendName})
}

// DeleteFlow removes a flow and returns it with its last statistics. Only UFID, or else Match, of f are looked at.
func (c *Conn) DeleteFlow(ctx context.Context, dp Index, f Flow) (Flow, error) {
	return c.flow(ctx, "delete a flow", request{cmd: cmdDel, flags: flagEcho, dp: dp, body: f.appendName})
}

// FlushFlows removes all flows of a datapath at once.
func (c *Conn) FlushFlows(ctx context.Context, dp Index) error {
	return c.do(ctx, "flush flows", request{family: c.families.flow, cmd: cmdDel, dp: dp}, nil)
}

// Flows lists the flows of a datapath. The list is complete before the loop begins; while the kernel writes it, flows that come
// and go may be missing or be there twice. A flow that makes no sense is yielded with a [DecodeError], and the
// loop can go on. Action lists of many kilobytes do not fit a listing: see ActionsOmitted.
func (c *Conn) Flows(ctx context.Context, dp Index, o DumpOptions) iter.Seq2[Flow, error] {
	flags := uint32(bit(o.OmitKey))*omitKey | uint32(bit(o.OmitMask))*omitMask | uint32(bit(o.OmitActions))*omitActions
	r := request{family: c.families.flow, cmd: cmdGet, dp: dp, body: func(e *nla.Encoder) {
		if flags != 0 {
			e.U32(flowUFIDFlags, flags)
		}
	}}
	return list(ctx, c, "list flows", r, func(_ Index, attrs []byte) (Flow, error) { return decodeFlow(attrs) })
}

func (c *Conn) flow(ctx context.Context, op string, r request) (f Flow, err error) {
	r.family = c.families.flow
	err = c.object(ctx, op, r, func(_ Index, attrs []byte) (err error) {
		f, err = decodeFlow(append([]byte(nil), attrs...))
		return err
	})
	return f, err
}

// decodeFlow keeps parts of b.
func decodeFlow(b []byte) (Flow, error) {
	f := Flow{ActionsOmitted: true}
	var values, masks []Key
	err := parts("flow", b, func(typ uint16, p []byte) (err error) {
		switch {
		case typ == flowKey:
			values, err = decodeKeys(p, 0)
		case typ == flowMask:
			masks, err = decodeKeys(p, 0)
		case typ == flowActions:
			f.ActionsOmitted = false
			f.Actions, err = decodeActions(p, 0)
		case typ == flowStats && len(p) >= 16:
			f.Stats.Packets, f.Stats.Bytes = he64(p), he64(p[8:])
		case typ == flowTCPFlags && len(p) == 1:
			f.Stats.TCPFlags = TCPFlags(p[0])
		case typ == flowUsed && len(p) == 8:
			f.Stats.Used = time.Duration(min(he64(p), 1<<42)) * time.Millisecond
		case typ == flowUFID:
			f.UFID = UFID(p)
		case typ == flowPad || typ == flowClear || typ == flowProbe || typ == flowUFIDFlags:
		case typ <= flowPad:
			err = short("flow", typ)
		default:
			f.Unknown = append(f.Unknown, Attr{Type: typ, Data: p})
		}
		return err
	})
	f.Match = layer3(pair(values, masks))
	return f, err
}

// layer3 marks a match that is for packets without an Ethernet header, so that none is added when it is sent again.
func layer3(m Match) Match {
	_, ethernet := m.field(keyEthernet)
	typ, ok := m.field(keyEtherType)
	if v, is := typ.value.(EtherType); ok && is && v != TypeLLC && !ethernet {
		return append(Match{Any(PacketType{Namespace: 1, ID: uint16(v)})}, m...)
	}
	return m
}

// checkActions finds what the kernel would answer with nothing but an errno.
func checkActions(list []Action, depth int) error {
	if depth > maxActionNesting {
		return &FlowError{Field: "actions", Reason: "nested more than 16 deep"}
	}
	for i, a := range list {
		var err error
		switch a := a.(type) {
		case nil:
			err = &FlowError{Field: "actions", Reason: "one of them is nil"}
		case Trunc:
			err = refuse(a < 14, "trunc", "less than 14 bytes")
		case Userspace:
			err = refuse(a.PID == 0, "userspace", "the socket must not be 0")
		case Drop:
			err = refuse(i != len(list)-1, "drop", "it must be the last action")
		case Set:
			err = checkSet(a.Key, false)
		case SetMasked:
			if err = refuse(a.mask == nil, "set", "no mask"); err == nil {
				err = checkSet(a.value, true)
			}
		case Sample:
			err = checkActions(a.Actions, depth+1)
		case Clone:
			err = checkActions(a, depth+1)
		case DecTTL:
			err = checkActions(a, depth+1)
		case CheckPktLen:
			if err = refuse(a.Len == 0, "check_pkt_len", "the length must not be 0"); err == nil {
				err = errors.Join(checkActions(a.Greater, depth+1), checkActions(a.LessEqual, depth+1))
			}
		case PSample:
			err = refuse(len(a.Cookie) > 16, "psample", "a cookie longer than 16 bytes")
		case CT:
			err = checkCT(a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func refuse(wrong bool, action, reason string) error {
	if !wrong {
		return nil
	}
	return &FlowError{Field: "action " + action, Reason: reason}
}

func checkSet(k Key, isMasked bool) error {
	switch k := k.(type) {
	case nil:
		return refuse(true, "set", "no key")
	case Tunnel:
		if isMasked {
			return refuse(true, "set", "a tunnel cannot be set in part")
		}
		return refuse(zeroAddr(k.Dst) && !k.InfoBridge, "set", "a tunnel needs a destination")
	case CTMark, CTLabels: // the kernel takes it, and then drops the packets
		return refuse(true, "set", keyName(k.keyType())+" is set by ct")
	case Encap, EtherType, InPort, VLAN, RecircID, DPHash, CTState, CTZone, PacketType, NSH, TCPFlags, ICMP, ICMPv6, ARP, ND:
		return refuse(true, "set", fmt.Sprintf("%s cannot be set", keyName(k.keyType())))
	}
	return nil
}

func checkCT(a CT) error {
	commit := a.Commit || a.ForceCommit
	switch n := a.NAT; {
	case !commit && (a.MarkMask != 0 || a.LabelsMask != CTLabels{}):
		return refuse(true, "ct", "mark and labels need commit")
	case len(a.Helper) > 15 || len(a.Timeout) > 31 || strings.ContainsRune(a.Helper+a.Timeout, 0):
		return refuse(true, "ct", "a name is too long")
	case n != nil && n.Src && n.Dst:
		return refuse(true, "ct", "nat of the source and of the destination at once")
	case n != nil && (n.Src || n.Dst) && !commit:
		return refuse(true, "ct", "nat of an address needs commit")
	case n != nil && !n.Src && !n.Dst && (n.MinIP.IsValid() || n.MinPort != 0):
		return refuse(true, "ct", "a range needs src or dst")
	}
	return nil
}

// String returns the flow as ovs-dpctl dump-flows prints it, but for the time of its last use.
func (f Flow) String() string { return Notation{}.Flow(f) }

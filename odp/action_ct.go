package odp

import (
	"bytes"
	"net/netip"

	"github.com/overweave/overweave/odp/internal/nla"
)

func (a CT) appendPayload(e *nla.Encoder) {
	if a.Commit && !a.ForceCommit {
		e.Flag(ctCommit)
	}
	if a.ForceCommit {
		e.Flag(ctForceCommit)
	}
	if a.Zone != 0 {
		e.U16(ctZone, a.Zone)
	}
	if a.MarkMask != 0 {
		m := e.Begin(ctMark)
		put32(e, uint32(a.Mark&a.MarkMask))
		put32(e, uint32(a.MarkMask))
		e.End(m)
	}
	if a.LabelsMask != (CTLabels{}) {
		m := e.Begin(ctLabels)
		clearOutside(a.Labels[:], a.LabelsMask[:])
		e.B = append(append(e.B, a.Labels[:]...), a.LabelsMask[:]...)
		e.End(m)
	}
	if a.Helper != "" {
		e.String(ctHelper, a.Helper)
	}
	if a.HasEvents {
		e.U32(ctEventMask, a.Events)
	}
	if a.Timeout != "" {
		e.String(ctTimeout, a.Timeout)
	}
	if a.NAT != nil {
		m := e.Begin(ctNAT)
		a.NAT.appendTo(e)
		e.End(m)
	}
	appendAttrs(e, a.Unknown)
}

func (n *NAT) appendTo(e *nla.Encoder) {
	flag := func(set bool, typ uint16) {
		if set {
			e.Flag(typ)
		}
	}
	flag(n.Src, natSrc)
	flag(n.Dst, natDst)
	appendAddr(e, natIPMin, natIPMin, n.MinIP)
	appendAddr(e, natIPMax, natIPMax, n.MaxIP)
	if n.MinPort != 0 {
		e.U16(natProtoMin, n.MinPort)
	}
	if n.MaxPort != 0 {
		e.U16(natProtoMax, n.MaxPort)
	}
	flag(n.Persistent, natPersistent)
	flag(n.Hash, natProtoHash)
	flag(n.Random, natProtoRandom)
	appendAttrs(e, n.Unknown)
}

func decodeCT(p []byte) (Action, error) {
	var a CT
	err := parts("action ct", p, a.decodePart)
	return a, err
}

func (a *CT) decodePart(typ uint16, d []byte) (err error) {
	want := map[uint16]int{ctZone: 2, ctMark: 8, ctLabels: 32, ctEventMask: 4}
	if n, ok := want[typ]; ok && len(d) != n {
		return short("action ct", typ)
	}
	switch typ {
	case ctCommit:
		a.Commit = true
	case ctForceCommit:
		a.Commit, a.ForceCommit = true, true
	case ctZone:
		a.Zone = he16(d)
	case ctMark:
		a.Mark, a.MarkMask = CTMark(he32(d)&he32(d[4:])), CTMark(he32(d[4:]))
	case ctLabels:
		a.Labels, a.LabelsMask = CTLabels(d[:16]), CTLabels(d[16:])
		clearOutside(a.Labels[:], a.LabelsMask[:])
	case ctHelper:
		a.Helper = cString(d)
	case ctEventMask:
		a.Events, a.HasEvents = he32(d), true
	case ctTimeout:
		a.Timeout = cString(d)
	case ctNAT:
		a.NAT = new(NAT)
		err = parts("action ct", d, a.NAT.decodePart)
	default:
		a.Unknown = append(a.Unknown, Attr{Type: typ, Data: d})
	}
	return err
}

func (n *NAT) decodePart(typ uint16, d []byte) error {
	switch typ {
	case natSrc:
		n.Src = true
	case natDst:
		n.Dst = true
	case natPersistent:
		n.Persistent = true
	case natProtoHash:
		n.Hash = true
	case natProtoRandom:
		n.Random = true
	case natIPMin, natIPMax:
		ip, ok := netip.AddrFromSlice(d)
		if !ok {
			return short("action ct nat", typ)
		}
		if typ == natIPMin {
			n.MinIP = ip
		} else {
			n.MaxIP = ip
		}
	case natProtoMin, natProtoMax:
		if len(d) != 2 {
			return short("action ct nat", typ)
		}
		if typ == natProtoMin {
			n.MinPort = he16(d)
		} else {
			n.MaxPort = he16(d)
		}
	default:
		n.Unknown = append(n.Unknown, Attr{Type: typ, Data: d})
	}
	return nil
}

// cString returns a string up to its NUL.
func cString(d []byte) string {
	if i := bytes.IndexByte(d, 0); i >= 0 {
		d = d[:i]
	}
	return string(d)
}

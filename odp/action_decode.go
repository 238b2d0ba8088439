package odp

import (
	"errors"
	"fmt"

	"github.com/overweave/overweave/odp/internal/nla"
)

// maxActionNesting is how deep actions may contain actions. The kernel allows 16.
const maxActionNesting = 16

// decodeActions returns the actions in a nest. Their data is part of b.
func decodeActions(b []byte, depth int) (list []Action, err error) {
	if depth > maxActionNesting {
		return nil, &DecodeError{What: "actions", Reason: "nested too deep"}
	}
	it := nla.Iterate(b)
	for it.Next() {
		a, err := decodeAction(it.Type(), it.Data(), depth)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	if it.Err() != nil {
		return nil, &DecodeError{What: "actions", Reason: it.Err().Error()}
	}
	return list, nil
}

// actionSize returns the length of the payload of actions that have but one.
func actionSize(typ uint16) (n int, fixed bool) {
	switch typ {
	case actOutput, actRecirc, actTrunc, actMeter, actDrop, actPushVLAN:
		return 4, true
	case actPopMPLS:
		return 2, true
	case actHash, actPushMPLS, actAddMPLS:
		return 8, true
	case actPushEth:
		return 12, true
	case actPopVLAN, actPopEth, actPopNSH, actCTClear:
		return 0, true
	}
	return 0, false
}

func decodeAction(typ uint16, p []byte, depth int) (Action, error) {
	if n, fixed := actionSize(typ); fixed {
		if len(p) != n {
			return nil, &DecodeError{What: fmt.Sprintf("action %d", typ), Reason: fmt.Sprintf("%d bytes instead of %d", len(p), n)}
		}
		return decodeFixedAction(typ, p), nil
	}
	a, err := decodeNestedAction(typ, p, depth)
	if errors.Is(err, errNewer) {
		return UnknownAction{Type: typ, Data: p}, nil
	}
	return a, err
}

// errNewer says that a newer kernel has put something into a nest that this package has no place for. The nest is carried as it is.
var errNewer = errors.New("odp: from a newer kernel")

func decodeNestedAction(typ uint16, p []byte, depth int) (Action, error) {
	switch typ {
	case actUserspace:
		return decodeUserspace(p)
	case actSet:
		return decodeSet(p)
	case actSetMasked:
		return decodeSetMasked(p)
	case actSample:
		return decodeSample(p, depth)
	case actCT:
		return decodeCT(p)
	case actPushNSH:
		return decodePushNSH(p)
	case actClone:
		list, err := decodeActions(p, depth+1)
		return Clone(list), err
	case actDecTTL:
		return decodeDecTTL(p, depth)
	case actCheckPktLen:
		return decodeCheckPktLen(p, depth)
	case actPSample:
		return decodePSample(p)
	}
	return UnknownAction{Type: typ, Data: p}, nil
}

func decodeFixedAction(typ uint16, p []byte) Action {
	switch typ {
	case actOutput:
		return Output(he32(p))
	case actRecirc:
		return Recirc(he32(p))
	case actTrunc:
		return Trunc(he32(p))
	case actMeter:
		return Meter(he32(p))
	case actDrop:
		return Drop(he32(p))
	case actPushVLAN:
		return PushVLAN{Type: EtherType(be16(p)), TCI: VLAN(be16(p[2:]))}
	case actPopMPLS:
		return PopMPLS(be16(p))
	case actHash:
		return Hash{Algorithm: HashAlgorithm(he32(p)), Basis: he32(p[4:])}
	case actPushMPLS:
		return PushMPLS{Entry: LSE(be32(p)), Type: EtherType(be16(p[4:]))}
	case actAddMPLS:
		return AddMPLS{Entry: LSE(be32(p)), Type: EtherType(be16(p[4:])), Layer3: he16(p[6:])&1 != 0}
	case actPushEth:
		return PushEth(decodeEthernet(p))
	case actPopVLAN:
		return PopVLAN{}
	case actPopEth:
		return PopEth{}
	case actPopNSH:
		return PopNSH{}
	}
	return CTClear{}
}

// parts calls f for the attributes of a nest, until it returns an error.
func parts(what string, p []byte, f func(typ uint16, d []byte) error) error {
	it := nla.Iterate(p)
	for it.Next() {
		if err := f(it.Type(), it.Data()); err != nil {
			return err
		}
	}
	if it.Err() != nil {
		return &DecodeError{What: what, Reason: it.Err().Error()}
	}
	return nil
}

// short is the error for a part of a wrong length.
func short(what string, typ uint16) error {
	return &DecodeError{What: what, Reason: fmt.Sprintf("attribute %d has a wrong length", typ)}
}

// unexpected is the error for a part that is of a wrong length or, beyond the last known, new.
func unexpected(what string, typ, last uint16) error {
	if typ > last {
		return errNewer
	}
	return short(what, typ)
}

func decodeUserspace(p []byte) (Action, error) {
	var a Userspace
	err := parts("action userspace", p, func(typ uint16, d []byte) error {
		switch typ {
		case userPID, userTunPort:
			if len(d) != 4 {
				return short("action userspace", typ)
			}
			if typ == userPID {
				a.PID = he32(d)
			} else {
				a.TunnelPort, a.HasTunnel = he32(d), true
			}
		case userData:
			a.Data = d
		case userActions:
			a.Actions = true
		default:
			a.Unknown = append(a.Unknown, Attr{Type: typ, Data: d})
		}
		return nil
	})
	return a, err
}

func decodeSet(p []byte) (Action, error) {
	var a Set
	err := parts("action set", p, func(typ uint16, d []byte) (err error) {
		if a.Key != nil {
			return &DecodeError{What: "action set", Reason: "more than one key"}
		}
		a.Key, err = decodeKey(typ, d, 0)
		return err
	})
	if err == nil && a.Key == nil {
		err = &DecodeError{What: "action set", Reason: "no key"}
	}
	return a, err
}

func decodeSetMasked(p []byte) (Action, error) {
	var a SetMasked
	err := parts("action set", p, func(typ uint16, d []byte) error {
		if typ == keyEncap || typ == keyTunnel || typ == keyNSH { // nests do not consist of a value and a mask
			return errNewer
		}
		if a.value != nil || len(d)%2 != 0 {
			return &DecodeError{What: "action set", Reason: "not one key with its mask"}
		}
		value, err := decodeKey(typ, d[:len(d)/2], 0)
		if err != nil {
			return err
		}
		mask, err := decodeKey(typ, d[len(d)/2:], 0)
		a = setMasked(value, mask)
		return err
	})
	if err == nil && a.value == nil {
		err = &DecodeError{What: "action set", Reason: "no key"}
	}
	return a, err
}

func decodeSample(p []byte, depth int) (Action, error) {
	var a Sample
	err := parts("action sample", p, func(typ uint16, d []byte) (err error) {
		switch {
		case typ == sampleProb && len(d) == 4:
			a.Probability = he32(d)
		case typ == sampleAction:
			a.Actions, err = decodeActions(d, depth+1)
		default:
			err = unexpected("action sample", typ, sampleAction)
		}
		return err
	})
	return a, err
}

func decodePushNSH(p []byte) (a Action, err error) {
	err = parts("action push_nsh", p, func(typ uint16, d []byte) error {
		k, err := decodeKey(typ, d, 0)
		if nsh, ok := k.(NSH); ok && err == nil {
			a = PushNSH(nsh)
		} else if err == nil {
			err = errNewer
		}
		return err
	})
	if err == nil && a == nil {
		err = &DecodeError{What: "action push_nsh", Reason: "no key"}
	}
	return a, err
}

func decodeDecTTL(p []byte, depth int) (Action, error) {
	var a DecTTL
	err := parts("action dec_ttl", p, func(typ uint16, d []byte) error {
		if typ != decTTLAction {
			return unexpected("action dec_ttl", typ, decTTLAction)
		}
		list, err := decodeActions(d, depth+1)
		a = list
		return err
	})
	return a, err
}

func decodeCheckPktLen(p []byte, depth int) (Action, error) {
	var a CheckPktLen
	err := parts("action check_pkt_len", p, func(typ uint16, d []byte) (err error) {
		switch {
		case typ == pktLen && len(d) == 2:
			a.Len = he16(d)
		case typ == pktGreater:
			a.Greater, err = decodeActions(d, depth+1)
		case typ == pktLessEqual:
			a.LessEqual, err = decodeActions(d, depth+1)
		default:
			err = unexpected("action check_pkt_len", typ, pktLessEqual)
		}
		return err
	})
	return a, err
}

func decodePSample(p []byte) (Action, error) {
	var a PSample
	err := parts("action psample", p, func(typ uint16, d []byte) error {
		switch {
		case typ == psampleGroup && len(d) == 4:
			a.Group = he32(d)
		case typ == psampleCooky:
			a.Cookie = d
		default:
			return unexpected("action psample", typ, psampleCooky)
		}
		return nil
	})
	return a, err
}

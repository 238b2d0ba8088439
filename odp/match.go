package odp

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Field is one key of a [Match] with its mask. It is made by [Exact], [Masked] and [Any], which see to it that value and mask
// are of one type.
type Field struct {
	value, mask Key // a nil mask is a wildcard; a nil value has been seen with a mask only
}

// Exact matches all of a key.
func Exact[K Key](value K) Field { return Field{value, exactMask(value)} }

// Masked matches the bits of a key that are 1 in the mask.
func Masked[K Key](value, mask K) Field {
	if isZero(mask) {
		return Field{value, nil}
	}
	return Field{value, mask}
}

// Any matches whatever the key is, but the header must be there.
func Any[K Key](value K) Field { return Field{value, nil} }

// Inside matches what follows a VLAN tag.
func Inside(m Match) Field {
	var values, masks Encap
	for _, f := range m {
		if f.travels() {
			values = append(values, f.value)
		}
		if f.mask != nil {
			masks = append(masks, f.mask)
		}
	}
	if masks == nil {
		return Field{values, nil}
	}
	return Field{values, masks}
}

// Value returns the key's value; nil in a flow of the kernel that has a mask for a key that it does not have.
func (f Field) Value() Key { return f.value }

// Mask returns the key's mask, nil if all of it is wildcarded.
func (f Field) Mask() Key { return f.mask }

// noKey is the type of a field that is empty. No attribute has it.
const noKey = 0xffff

func (f Field) keyType() uint16 {
	switch {
	case f.value != nil:
		return f.value.keyType()
	case f.mask != nil:
		return f.mask.keyType()
	}
	return noKey
}

// travels reports whether the key has a value that is sent.
func (f Field) travels() bool { return f.value != nil && f.value != Key(TypeLLC) }

// Inner returns what an [Encap] field matches.
func (f Field) Inner() (Match, bool) {
	values, ok := f.value.(Encap)
	if !ok {
		return nil, false
	}
	masks, _ := f.mask.(Encap)
	return pair(values, masks), true
}

// Match says which packets a flow is for. It holds at most one field of each key type, in any order. Metadata that it does not
// mention is not matched. Headers that the kernel wants to be mentioned (every packet's Ethernet header; the IPv4 header
// of an EtherType 0x0800; the ports of protocol 6) are added as wildcards where they are missing, so only what
// matters needs to be said:
//
//	odp.Match{odp.Exact(odp.InPort(1)), odp.Exact(odp.TypeIPv4), odp.Masked(odp.IPv4{Proto: 6}, odp.IPv4{Proto: 0xff})}
//
// A packet with a VLAN tag matches only if the match has [VLAN], one without only if it has not.
type Match []Field

// pair joins keys and masks by their types, in the order of the keys.
func pair(values, masks []Key) Match {
	m := make(Match, 0, len(values))
	for _, v := range values {
		f := Field{value: v}
		for _, mask := range masks {
			if mask.keyType() == v.keyType() && !isZero(mask) {
				f.mask = mask
			}
		}
		m = append(m, f)
	}
	for _, mask := range masks {
		if _, ok := find(values, mask.keyType()); ok || isZero(mask) {
			continue
		}
		f := Field{mask: mask}
		if _, ok := mask.(EtherType); ok {
			f.value = TypeLLC
		}
		m = append(m, f)
	}
	return m
}

func find(keys []Key, typ uint16) (Key, bool) {
	for _, k := range keys {
		if k.keyType() == typ {
			return k, true
		}
	}
	return nil, false
}

// field returns the field of a type.
func (m Match) field(typ uint16) (Field, bool) {
	for _, f := range m {
		if f.keyType() == typ {
			return f, true
		}
	}
	return Field{}, false
}

// Get returns the value and the mask of the key of type K in a match, and whether it is there. The mask of a wildcard is zero.
func Get[K Key](m Match) (value, mask K, ok bool) {
	for _, f := range m {
		if v, is := f.value.(K); is {
			mask, _ = f.mask.(K)
			return v, mask, true
		}
	}
	return value, mask, false
}

// UFID returns an identifier for the flow with this match: a hash of what the kernel identifies it by.
func (m Match) UFID() (UFID, error) {
	var e nla.Encoder
	if err := m.appendTo(&e); err != nil {
		return "", err
	}
	h := fnv.New128a()
	h.Write(e.B)
	return UFID(h.Sum(nil)), nil
}

// appendTo appends the attributes KEY and MASK.
func (m Match) appendTo(e *nla.Encoder) error {
	all, err := m.Complete()
	if err != nil {
		return err
	}
	mark := e.Begin(flowKey)
	for _, f := range all {
		if f.travels() {
			appendKey(e, f.value)
		}
	}
	e.End(mark)
	mark = e.Begin(flowMask)
	for _, f := range all {
		if f.mask != nil {
			appendKey(e, f.mask)
		}
	}
	e.End(mark)
	return e.Err
}

// Complete returns the match as it is sent: sorted, with the headers added that the kernel wants to be mentioned. The error is
// a [FlowError] if the kernel would refuse it: a key twice, or a header matched that the rest does not prove to be there.
func (m Match) Complete() (Match, error) {
	_, layer3 := m.field(keyPacketType)
	return m.complete(!layer3)
}

func (m Match) complete(ethernet bool) (Match, error) {
	all := slices.Clone(m)
	all = slices.DeleteFunc(all, func(f Field) bool { return f.keyType() == keyPacketType })
	if _, ok := all.field(keyEthernet); !ok && ethernet {
		all = append(all, Any(Ethernet{}))
	}
	for i := 0; i < len(all); i++ { // what is added may have more behind it
		header, flags := missing(all[i].value)
		for _, k := range [...]Key{header, flags} {
			if k == nil {
				continue
			}
			if _, ok := all.field(k.keyType()); !ok {
				all = append(all, Any(k))
			}
		}
	}
	for i, f := range all {
		if mask, ok := f.mask.(VLAN); ok || f.keyType() == keyVLAN {
			all[i].mask = mask | vlanPresent // the kernel matches the presence of a tag in any case
		}
		if inner, ok := f.Inner(); ok {
			done, err := inner.complete(false)
			if err != nil {
				return nil, err
			}
			if all[i] = Inside(done); all[i].mask == nil {
				// Beside the mask of a tag the kernel wants one of what follows it, and takes one of no bytes for none.
				all[i].mask = Encap{EtherType(0)}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Field) int { return cmp.Compare(a.keyType(), b.keyType()) })
	return all, all.check()
}

// check finds what the kernel would answer with nothing but EINVAL.
func (m Match) check() error {
	for i, f := range m {
		if f.keyType() == noKey {
			return &FlowError{Field: "match", Reason: "one of its fields is empty"}
		}
		if i > 0 && f.keyType() == m[i-1].keyType() {
			return &FlowError{Field: keyName(f.keyType()), Reason: "it is there twice"}
		}
		if needs := m.lacks(f); needs != "" {
			return &FlowError{Field: keyName(f.keyType()), Reason: "it needs " + needs}
		}
		if reason := f.mismatch(); reason != "" {
			return &FlowError{Field: keyName(f.keyType()), Reason: reason}
		}
	}
	return nil
}

// mismatch returns what is wrong with a value and its mask, "" if nothing is.
func (f Field) mismatch() string {
	alike := f.mask == nil
	switch v := f.value.(type) {
	case Tunnel:
		m, ok := f.mask.(Tunnel)
		if alike = alike || ok; alike {
			return v.mismatch(m)
		}
	case NSH:
		m, ok := f.mask.(NSH)
		alike = alike || ok
		if none := [4]uint32{}; v.MDType != 1 && (v.Context != none || m.Context != none) {
			return "a context needs mdtype 1"
		}
		if len(v.MD2)+len(m.MD2) > 0 {
			return "variable metadata cannot be matched"
		}
	case MPLS:
		m, ok := f.mask.(MPLS)
		alike = alike || ok && len(m) == len(v)
	case UnknownKey:
		m, ok := f.mask.(UnknownKey)
		alike = alike || ok && len(m.Data) == len(v.Data)
	default:
		return ""
	}
	if !alike {
		return "its mask is of another length"
	}
	return ""
}

// lacks returns what must be matched for f to be allowed, "" if nothing is missing.
func (m Match) lacks(f Field) (needs string) {
	if f.value == nil {
		return ""
	}
	a, b, why := parents(f.keyType())
	for _, typ := range [...]uint16{a, b} {
		parent, has := m.field(typ)
		if has && parent.value != nil && admits(parent.value, f.keyType()) && (f.mask == nil || certain(parent.mask)) {
			return ""
		}
	}
	return why
}

func keyName(typ uint16) string {
	if l, ok := layoutOf(typ); ok {
		return l.name
	}
	switch typ {
	case keyEncap:
		return "encap"
	case keyTunnel:
		return "tunnel"
	case keyMPLS:
		return "mpls"
	case keyNSH:
		return "nsh"
	}
	return UnknownKey{Type: typ}.String()
}

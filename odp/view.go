package odp

import "github.com/overweave/overweave/odp/internal/nla"

// KeyData is a key as the kernel sent it. Its methods find single parts without decoding the rest, and allocate nothing.
type KeyData []byte

// find returns the payload of an attribute that must have a length.
func (d KeyData) find(typ uint16, size int) ([]byte, bool) {
	for it := nla.Iterate(d); it.Next(); {
		if it.Type() == typ && (size < 0 || len(it.Data()) == size) {
			return it.Data(), true
		}
	}
	return nil, false
}

func (d KeyData) u32(typ uint16) (uint32, bool) {
	p, ok := d.find(typ, 4)
	if !ok {
		return 0, false
	}
	return he32(p), true
}

// InPort returns the port by which the packet came in.
func (d KeyData) InPort() (uint32, bool) { return d.u32(keyInPort) }

// RecircID returns the recirculation id.
func (d KeyData) RecircID() (uint32, bool) { return d.u32(keyRecircID) }

// SkbMark returns the packet's mark.
func (d KeyData) SkbMark() (uint32, bool) { return d.u32(keySkbMark) }

// CTState returns what connection tracking knows.
func (d KeyData) CTState() (CTState, bool) {
	v, ok := d.u32(keyCTState)
	return CTState(v), ok
}

// Ethernet returns the Ethernet addresses.
func (d KeyData) Ethernet() (Ethernet, bool) {
	p, ok := d.find(keyEthernet, 12)
	if !ok {
		return Ethernet{}, false
	}
	return decodeEthernet(p), true
}

// EtherType returns the outermost EtherType.
func (d KeyData) EtherType() (EtherType, bool) {
	p, ok := d.find(keyEtherType, 2)
	if !ok {
		return 0, false
	}
	return EtherType(be16(p)), true
}

// VLAN returns the outermost VLAN tag.
func (d KeyData) VLAN() (VLAN, bool) {
	p, ok := d.find(keyVLAN, 2)
	if !ok {
		return 0, false
	}
	return VLAN(be16(p)), true
}

// Encap returns the key of what follows the VLAN tag.
func (d KeyData) Encap() (KeyData, bool) {
	p, ok := d.find(keyEncap, -1)
	return p, ok
}

// IPv4 returns the IPv4 header.
func (d KeyData) IPv4() (IPv4, bool) {
	p, ok := d.find(keyIPv4, 12)
	if !ok {
		return IPv4{}, false
	}
	return decodeIPv4(p), true
}

// IPv6 returns the IPv6 header.
func (d KeyData) IPv6() (IPv6, bool) {
	p, ok := d.find(keyIPv6, 40)
	if !ok {
		return IPv6{}, false
	}
	return decodeIPv6(p), true
}

// Tunnel sets t to the tunnel that the packet came through, and reports whether there was one. Options are parts of d.
func (d KeyData) Tunnel(t *Tunnel) (bool, error) {
	p, ok := d.find(keyTunnel, -1)
	if !ok {
		return false, nil
	}
	return true, t.decode(p)
}

// Keys decodes everything. Options and unknown keys are parts of d.
func (d KeyData) Keys() ([]Key, error) { return decodeKeys(d, 0) }

// Match returns the match for exactly this packet's headers and metadata. It shares memory with d. Fewer fields, chosen from it
// with [Get], make flows that more packets use.
func (d KeyData) Match() (Match, error) {
	keys, err := decodeKeys(d, 0)
	if err != nil {
		return nil, err
	}
	_, ethernet := find(keys, keyEthernet)
	return layer3(pair(keys, exactMasks(keys, ethernet))), nil
}

// exactMasks returns the masks that have every bit of a packet's keys match; with llc, of an EtherType too if there is none.
func exactMasks(keys []Key, llc bool) (masks []Key) {
	tagged := false
	for _, k := range keys {
		mask := exactMask(k)
		switch k := k.(type) {
		case EtherType:
			llc = false
		case VLAN:
			tagged = k&vlanPresent != 0
		case Encap:
			mask = Encap(exactMasks(k, tagged))
		}
		masks = append(masks, mask)
	}
	if llc {
		masks = append(masks, EtherType(0xffff))
	}
	return masks
}

// ActionData is an action list as the kernel sent it.
type ActionData []byte

// Actions decodes the list. Data of actions is part of d.
func (d ActionData) Actions() ([]Action, error) { return decodeActions(d, 0) }

// EncodeKeys returns the values of a match as the bytes of a key, without adding anything: for tests that make upcalls, and for
// the metadata of an [Execute]. Values that cannot be encoded are left out.
func EncodeKeys(m Match) KeyData {
	var e nla.Encoder
	for _, f := range m {
		if !f.travels() {
			continue
		}
		mark := len(e.B)
		if appendKey(&e, f.value); e.Err != nil {
			e.B, e.Err = e.B[:mark], nil
		}
	}
	return append(KeyData{}, e.B...)
}

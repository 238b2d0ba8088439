package odp

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Key is one attribute of what the datapath knows of a packet: a header, or metadata such as the port it came in by. The set
// of implementations is closed. The same types serve as values, as masks (a bit that is 1 must match) and in [Set] actions.
// Numbers are plain numbers: this package knows which of them travel in which byte order.
type Key interface {
	keyType() uint16
	appendPayload(e *nla.Encoder)
	// String returns the key in the notation of ovs-dpctl, as an exact match.
	String() string
}

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast returns the Ethernet address ff:ff:ff:ff:ff:ff, which is also the mask that matches a whole address.
func Broadcast() MAC { return MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// ParseMAC reads an address written 00:11:22:33:44:55.
func ParseMAC(s string) (m MAC, err error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(m) {
		return m, fmt.Errorf("%w: %q is not an Ethernet address", ErrMalformed, s)
	}
	return MAC(hw), nil
}

// String writes the address as 00:11:22:33:44:55.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Attr is an attribute that this package does not know, from a newer kernel. It is carried as it is.
type Attr struct {
	Type uint16
	Data []byte
}

// UnknownKey is a key attribute that this package does not know. It is carried as it is, and printed as key99(0102).
type UnknownKey Attr

func (k UnknownKey) keyType() uint16              { return k.Type }
func (k UnknownKey) appendPayload(e *nla.Encoder) { e.B = append(e.B, k.Data...) }

// Encap holds the keys of what follows a VLAN tag. In a match it is made by [Inside].
type Encap []Key

func (k Encap) keyType() uint16 { return keyEncap }
func (k Encap) appendPayload(e *nla.Encoder) {
	for _, inner := range k {
		appendKey(e, inner)
	}
}

// appendKey appends a key with its header.
func appendKey(e *nla.Encoder, k Key) {
	m := e.Begin(k.keyType())
	k.appendPayload(e)
	e.End(m)
}

// keyPayload returns the bytes of a key without its header.
func keyPayload(k Key) ([]byte, error) {
	var e nla.Encoder
	k.appendPayload(&e)
	return e.B, e.Err
}

// maxKeyNesting is how many VLAN tags a key may hide behind; the kernel knows two.
const maxKeyNesting = 4

// decodeKeys returns all keys of a nest. Data of unknown keys and of options is part of b.
func decodeKeys(b []byte, depth int) (keys []Key, err error) {
	it := nla.Iterate(b)
	for it.Next() {
		k, err := decodeKey(it.Type(), it.Data(), depth)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if it.Err() != nil {
		return nil, &DecodeError{What: "keys", Reason: it.Err().Error()}
	}
	return keys, nil
}

// decodeKey returns one key of which the type and the payload are given.
func decodeKey(typ uint16, p []byte, depth int) (Key, error) {
	l, fixed := layoutOf(typ)
	if fixed {
		if len(p) != l.size {
			return nil, &DecodeError{What: "key " + l.name, Reason: fmt.Sprintf("%d bytes instead of %d", len(p), l.size)}
		}
		return l.decode(p), nil
	}
	switch typ {
	case keyEncap:
		if depth >= maxKeyNesting {
			return nil, &DecodeError{What: "key encap", Reason: "nested too deep"}
		}
		inner, err := decodeKeys(p, depth+1)
		return Encap(inner), err
	case keyTunnel:
		var t Tunnel
		err := t.decode(p)
		return t, err
	case keyMPLS:
		return decodeMPLS(p)
	case keyNSH:
		return decodeNSH(p)
	}
	return UnknownKey{Type: typ, Data: p}, nil
}

// exactMask returns the mask that has every bit of k match.
func exactMask(k Key) Key {
	switch k := k.(type) { // the commonest first, without going by way of their bytes
	case InPort:
		return InPort(math.MaxUint32)
	case RecircID:
		return RecircID(math.MaxUint32)
	case EtherType:
		return EtherType(math.MaxUint16)
	case Ethernet:
		return Ethernet{Broadcast(), Broadcast()}
	case Tunnel:
		return k.exactMask()
	case NSH:
		return k.exactMask()
	case Encap:
		masks := make(Encap, len(k))
		for i := range k {
			masks[i] = exactMask(k[i])
		}
		return masks
	case CTState:
		return ctStateAll
	}
	p, _ := keyPayload(k)
	for i := range p {
		p[i] = 0xff
	}
	mask, err := decodeKey(k.keyType(), p, 0)
	if err != nil { // k itself is malformed: encoding it will say so
		return UnknownKey{Type: k.keyType(), Data: p}
	}
	return mask
}

// isZero reports whether a mask has no bit that must match.
func isZero(k Key) bool {
	switch k := k.(type) { // the commonest first, without going by way of their bytes
	case InPort:
		return k&0xffff == 0 // the kernel sets the upper half of every mask that it lists
	case RecircID:
		return k == 0
	case EtherType:
		return k == 0
	case Ethernet:
		return k == Ethernet{}
	case IPv4:
		return k.Proto|k.TOS|k.TTL|uint8(k.Frag) == 0 && zeroAddr(k.Src) && zeroAddr(k.Dst)
	case Tunnel:
		return k.isZero()
	case Encap:
		for _, inner := range k {
			if !isZero(inner) {
				return false
			}
		}
		return true
	case NSH:
		return k.Flags|k.TTL|k.MDType|k.NextProto|k.SI == 0 && k.SPI == 0 && k.Context == [4]uint32{} && allZero(k.MD2)
	}
	p, err := keyPayload(k)
	return err == nil && allZero(p)
}

// within returns the value with those bits cleared that are 0 in the mask. If one of them is malformed the value is returned as it
// is: encoding them will say so.
func within(value, mask Key) Key {
	if value == nil || mask == nil {
		return value
	}
	p, err := keyPayload(value)
	m, merr := keyPayload(mask)
	if err != nil || merr != nil || !clearOutside(p, m) {
		return value
	}
	if k, err := decodeKey(value.keyType(), p, 0); err == nil {
		return k
	}
	return value
}

// clearOutside clears the bits of p that are 0 in the mask. It reports false if they differ in length.
func clearOutside(p, mask []byte) bool {
	if len(p) != len(mask) {
		return false
	}
	for i := range p {
		p[i] &= mask[i]
	}
	return true
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

func be16(p []byte) uint16 { return binary.BigEndian.Uint16(p) }
func be32(p []byte) uint32 { return binary.BigEndian.Uint32(p) }
func he16(p []byte) uint16 { return binary.NativeEndian.Uint16(p) }
func he32(p []byte) uint32 { return binary.NativeEndian.Uint32(p) }
func he64(p []byte) uint64 { return binary.NativeEndian.Uint64(p) }

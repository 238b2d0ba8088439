// Package nla reads and writes netlink attributes: the length-type-value records that every message of the datapath is made of.
package nla

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// HeaderLen is the length of the header before an attribute's payload.
const HeaderLen = 4

// typeMask removes the two flag bits (nested, network byte order) from a type.
const typeMask = 0x3fff

// ErrMalformed is wrapped by all errors of an Iterator.
var ErrMalformed = errors.New("malformed netlink attributes")

// ErrTooLong is the error of an Encoder when a payload does not fit the 16 bits of an attribute's length.
var ErrTooLong = errors.New("netlink attribute longer than 65535 bytes")

// Align returns n rounded up to the alignment of attributes and messages.
func Align(n int) int { return (n + 3) &^ 3 }

// Iterator walks over the attributes in a slice. The payloads it returns are parts of that slice. The first error ends the
// walk and is kept.
type Iterator struct {
	rest []byte
	typ  uint16
	data []byte
	err  error
}

// Iterate returns an iterator over the attributes in b.
func Iterate(b []byte) Iterator { return Iterator{rest: b} }

// Next advances to the next attribute and reports whether there is one.
func (it *Iterator) Next() bool {
	if it.err != nil || len(it.rest) == 0 {
		return false
	}
	if len(it.rest) < HeaderLen {
		it.err = fmt.Errorf("%w: %d bytes are left", ErrMalformed, len(it.rest))
		return false
	}
	n := int(binary.NativeEndian.Uint16(it.rest))
	if n < HeaderLen || n > len(it.rest) {
		it.err = fmt.Errorf("%w: length %d with %d bytes left", ErrMalformed, n, len(it.rest))
		return false
	}
	it.typ = binary.NativeEndian.Uint16(it.rest[2:]) & typeMask
	it.data = it.rest[HeaderLen:n:n]
	it.rest = it.rest[min(Align(n), len(it.rest)):]
	return true
}

// Type returns the current attribute's type without its flag bits.
func (it *Iterator) Type() uint16 { return it.typ }

// Data returns the current attribute's payload.
func (it *Iterator) Data() []byte { return it.data }

// Err returns what ended the walk too early, or nil.
func (it *Iterator) Err() error { return it.err }

// Encoder appends attributes to B. The first error is kept in Err; what is appended after it is of no use.
type Encoder struct {
	B   []byte
	Err error
}

// Fail keeps err if it is the first.
func (e *Encoder) Fail(err error) {
	if e.Err == nil {
		e.Err = err
	}
}

// Begin appends the header of an attribute whose payload follows, until End is called with the same mark.
func (e *Encoder) Begin(typ uint16) (mark int) {
	mark = len(e.B)
	e.B = binary.NativeEndian.AppendUint16(e.B, 0)
	e.B = binary.NativeEndian.AppendUint16(e.B, typ)
	return mark
}

// End ends the attribute begun at mark.
func (e *Encoder) End(mark int) {
	n := len(e.B) - mark
	if n > math.MaxUint16 {
		e.Fail(ErrTooLong)
		return
	}
	binary.NativeEndian.PutUint16(e.B[mark:], uint16(n))
	for ; n%4 != 0; n++ {
		e.B = append(e.B, 0)
	}
}

// Bytes appends an attribute with the given payload.
func (e *Encoder) Bytes(typ uint16, p []byte) {
	m := e.Begin(typ)
	e.B = append(e.B, p...)
	e.End(m)
}

// String appends a string with the NUL that ends it.
func (e *Encoder) String(typ uint16, s string) {
	m := e.Begin(typ)
	e.B = append(e.B, s...)
	e.B = append(e.B, 0)
	e.End(m)
}

// Flag appends an attribute without payload.
func (e *Encoder) Flag(typ uint16) { e.End(e.Begin(typ)) }

// U8 appends one byte.
func (e *Encoder) U8(typ uint16, v uint8) {
	m := e.Begin(typ)
	e.B = append(e.B, v)
	e.End(m)
}

// U16 appends a value in the machine's byte order.
func (e *Encoder) U16(typ, v uint16) {
	m := e.Begin(typ)
	e.B = binary.NativeEndian.AppendUint16(e.B, v)
	e.End(m)
}

// U32 appends a value in the machine's byte order.
func (e *Encoder) U32(typ uint16, v uint32) {
	m := e.Begin(typ)
	e.B = binary.NativeEndian.AppendUint32(e.B, v)
	e.End(m)
}

// U64 appends a value in the machine's byte order.
func (e *Encoder) U64(typ uint16, v uint64) {
	m := e.Begin(typ)
	e.B = binary.NativeEndian.AppendUint64(e.B, v)
	e.End(m)
}

// U32s appends an array in the machine's byte order.
func (e *Encoder) U32s(typ uint16, vs []uint32) {
	m := e.Begin(typ)
	for _, v := range vs {
		e.B = binary.NativeEndian.AppendUint32(e.B, v)
	}
	e.End(m)
}

// BE16 appends a value in network byte order.
func (e *Encoder) BE16(typ, v uint16) {
	m := e.Begin(typ)
	e.B = binary.BigEndian.AppendUint16(e.B, v)
	e.End(m)
}

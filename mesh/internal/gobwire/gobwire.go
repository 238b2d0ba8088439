// Package gobwire reads and writes the few elements of the encoding/gob stream format that the mesh's wire is made of
// (section 0.1 of the mesh specification), so that messages need no reflection and are bounded by the bytes at hand.
package gobwire

import "math/bits"

// Type numbers of values that need no definition.
const (
	Bool   = 1
	Int    = 2
	Uint   = 3
	Float  = 4
	Bytes  = 5
	String = 6
)

// AppendUint appends an unsigned integer.
func AppendUint(b []byte, v uint64) []byte {
	if v < 128 {
		return append(b, byte(v))
	}
	n := (bits.Len64(v) + 7) / 8
	b = append(b, byte(-n))
	for i := n - 1; i >= 0; i-- {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

// UintLen returns how many bytes AppendUint appends.
func UintLen(v uint64) int {
	if v < 128 {
		return 1
	}
	return 1 + (bits.Len64(v)+7)/8
}

// AppendInt appends a signed integer.
func AppendInt(b []byte, v int64) []byte {
	u := uint64(v) << 1
	if v < 0 {
		u = ^u
	}
	return AppendUint(b, u)
}

// AppendBytesItem appends a top-level byte slice.
func AppendBytesItem(b, v []byte) []byte {
	b = appendItemHead(b, 2*Bytes, UintLen(uint64(len(v)))+len(v))
	b = AppendUint(b, uint64(len(v)))
	return append(b, v...)
}

// BytesItemLen returns how many bytes AppendBytesItem puts before n bytes of content.
func BytesItemLen(n int) int {
	inner := UintLen(uint64(n)) + 2
	return UintLen(uint64(inner+n)) + inner
}

// AppendStringItem appends a top-level string.
func AppendStringItem(b []byte, v string) []byte {
	b = appendItemHead(b, 2*String, UintLen(uint64(len(v)))+len(v))
	b = AppendUint(b, uint64(len(v)))
	return append(b, v...)
}

// AppendUintItem appends a top-level unsigned integer.
func AppendUintItem(b []byte, v uint64) []byte {
	b = appendItemHead(b, 2*Uint, UintLen(v))
	return AppendUint(b, v)
}

func appendItemHead(b []byte, typ byte, n int) []byte {
	b = AppendUint(b, uint64(n+2))
	return append(b, typ, 0)
}

// Reader takes elements from the front of a slice. After the first defect every call returns zero and Bad is true. The
// zero Reader is at its end.
type Reader struct {
	b   []byte
	bad bool
}

// NewReader reads b, and hands out parts of it.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Bad reports whether something could not be read.
func (r *Reader) Bad() bool { return r.bad }

// Len returns the number of bytes left.
func (r *Reader) Len() int { return len(r.b) }

// Fail marks the reader bad.
func (r *Reader) Fail() { r.b, r.bad = nil, true }

// Uint reads an unsigned integer.
func (r *Reader) Uint() uint64 {
	if len(r.b) == 0 {
		r.Fail()
		return 0
	}
	c := r.b[0]
	if c < 128 {
		r.b = r.b[1:]
		return uint64(c)
	}
	n := 256 - int(c)
	if n > 8 || len(r.b) < 1+n {
		r.Fail()
		return 0
	}
	var v uint64
	for _, x := range r.b[1 : 1+n] {
		v = v<<8 | uint64(x)
	}
	r.b = r.b[1+n:]
	return v
}

// Int reads a signed integer.
func (r *Reader) Int() int64 {
	u := r.Uint()
	if u&1 != 0 {
		return int64(^(u >> 1))
	}
	return int64(u >> 1)
}

// Next reads n bytes.
func (r *Reader) Next(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.Fail()
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

// Bytes reads a length and as many bytes.
func (r *Reader) Bytes() []byte { return r.Next(r.Uint()) }

// Item reads a length and returns a reader of the item it leads.
func (r *Reader) Item() Reader {
	b := r.Next(r.Uint())
	return Reader{b: b, bad: r.bad}
}

// Value reads a top-level item of a builtin type and returns a reader of its value.
func (r *Reader) Value(typ int64) Reader {
	item := r.Item()
	if item.Int() != typ || item.Uint() != 0 {
		item.Fail()
	}
	if item.bad {
		r.Fail()
	}
	return item
}

// BytesItem reads a top-level byte slice.
func (r *Reader) BytesItem() []byte {
	item := r.Value(Bytes)
	out := item.Bytes()
	if item.bad {
		r.Fail()
	}
	return out
}

// StringItem reads a top-level string, as bytes.
func (r *Reader) StringItem() []byte {
	item := r.Value(String)
	out := item.Bytes()
	if item.bad {
		r.Fail()
	}
	return out
}

// UintItem reads a top-level unsigned integer.
func (r *Reader) UintItem() uint64 {
	item := r.Value(Uint)
	out := item.Uint()
	if item.bad {
		r.Fail()
	}
	return out
}

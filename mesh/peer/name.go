package peer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// NameSize is the length of a Name in its raw form, in bytes.
const NameSize = 6

// Name identifies a peer for as long as its host keeps it, over restarts. It holds 48 bits and is written like a MAC
// address. Names are ordered as numbers, which is also the order of their raw forms. The zero Name is nobody: routing
// tables use it for "no peer", and of the decoders only UnmarshalText, which reads reports, takes it.
type Name uint64

// ErrInvalidName is wrapped by every error about a name that does not parse or may not be used.
var ErrInvalidName = errors.New("invalid peer name")

// Parse reads the text form: six groups of one or two hex digits with ':' between them, or fewer groups and one "::"
// that stands for at least two groups of zeros ("12::9a:bc").
//
// Nobody's name (all zeros) parses in no form: it is refused here rather than by each caller.
func Parse(s string) (Name, error) {
	n, ok := parse(s)
	if !ok {
		return 0, fmt.Errorf("%w %q: want six hex groups such as 0a:00:00:00:00:01", ErrInvalidName, s)
	}
	if n == 0 {
		return 0, fmt.Errorf("%w %q: all zeros means no peer", ErrInvalidName, s)
	}
	return n, nil
}

// MustParse is Parse for names that are known to be good; it panics on others.
func MustParse(s string) Name {
	n, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return n
}

func parse(s string) (Name, bool) {
	head, tail, short := strings.Cut(s, "::")
	if !short {
		v, n, ok := parseGroups(s)
		return v, ok && n == NameSize
	}
	left, nl, okl := parseGroups(head)
	right, nr, okr := parseGroups(tail)
	if !okl || !okr || nl+nr < 1 || nl+nr > NameSize-2 {
		return 0, false
	}
	return left<<(8*(NameSize-nl)) | right, true
}

// parseGroups reads groups of hex digits and says how many there were; the empty text has none.
func parseGroups(s string) (v Name, n int, ok bool) {
	if s == "" {
		return 0, 0, true
	}
	for group := range strings.SplitSeq(s, ":") {
		if len(group) < 1 || len(group) > 2 || n == NameSize {
			return 0, 0, false
		}
		b, err := strconv.ParseUint(group, 16, 8)
		if err != nil {
			return 0, 0, false
		}
		v, n = v<<8|Name(b), n+1
	}
	return v, n, true
}

// FromBytes reads the raw form: six bytes, big-endian, not all zero. A MAC address is such a form.
func FromBytes(b []byte) (Name, error) {
	if len(b) != NameSize {
		return 0, fmt.Errorf("%w: %d raw bytes, want %d", ErrInvalidName, len(b), NameSize)
	}
	n := Name(binary.BigEndian.Uint16(b))<<32 | Name(binary.BigEndian.Uint32(b[2:]))
	if n == 0 {
		return 0, fmt.Errorf("%w: all zeros means no peer", ErrInvalidName)
	}
	return n, nil
}

// FromUint64 reads the numeric form of the gob messages, refusing nobody and what has more than 48 bits.
func FromUint64(v uint64) (Name, error) {
	n := Name(v)
	if !n.IsValid() {
		return 0, fmt.Errorf("%w: %#x has no place in 48 bits, or is zero", ErrInvalidName, v)
	}
	return n, nil
}

// Random returns a name that is very likely unique: locally administered and not a group address.
func Random() Name {
	var b [NameSize]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process first
	return local(b)
}

// IsValid reports whether n may name a peer: not zero, and no more than 48 bits.
func (n Name) IsValid() bool { return n != 0 && n < 1<<48 }

// Bytes returns the raw form.
func (n Name) Bytes() [NameSize]byte {
	var b [NameSize]byte
	binary.BigEndian.PutUint16(b[:], uint16(n>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(n))
	return b
}

// AppendBytes appends the raw form to b.
func (n Name) AppendBytes(b []byte) []byte {
	raw := n.Bytes()
	return append(b, raw[:]...)
}

// AppendText appends the full text form to b. It never fails.
func (n Name) AppendText(b []byte) ([]byte, error) { return n.appendTo(b), nil }

func (n Name) appendTo(b []byte) []byte {
	const digits = "0123456789abcdef"
	for i, c := range n.Bytes() {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// String returns the full text form, "0a:00:00:00:00:01".
func (n Name) String() string { return string(n.appendTo(make([]byte, 0, 17))) }

// MarshalText implements [encoding.TextMarshaler].
func (n Name) MarshalText() ([]byte, error) { return n.AppendText(nil) }

// UnmarshalText implements [encoding.TextUnmarshaler]. Unlike Parse it takes the all-zero text and the empty one for
// nobody, so that reports, which show routes to ourselves that way, can be read back.
func (n *Name) UnmarshalText(text []byte) error {
	if s := string(text); s == "" || s == Name(0).String() {
		*n = 0
		return nil
	}
	v, err := Parse(string(text))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

package mesh

import (
	"errors"
	"fmt"

	"github.com/overweave/overweave/mesh/internal/gobwire"
	"github.com/overweave/overweave/mesh/peer"
)

// errOddShape is for streams that are no defect as such: encoding/gob has to look at them.
var errOddShape = errors.New("unusual gob stream")

// updateDecoder reads the usual streams of topology updates.
type updateDecoder struct {
	r      gobwire.Reader
	shapes map[int64]*gobShape
	known  func(peer.Name) *entry
	fresh  []*entry
	old    []stamp
}

// gobShape is a type definition: of a struct, or of a slice.
type gobShape struct {
	fields []gobField
	slice  bool
	elem   int64
}

type gobField struct {
	code fieldCode
	kind int64
}

// fieldCode is a field that means something to us; 0 is any other.
type fieldCode uint8

const (
	fieldName fieldCode = iota + 1
	fieldNickname
	fieldUID
	fieldVersion
	fieldShortID
	fieldHasShortID
	fieldAddress
	fieldOutbound
	fieldEstablished
	numFieldCodes
)

// fieldKnown has names and kinds of the fields that we know.
var fieldKnown = [numFieldCodes]struct {
	name string
	kind int64
}{
	fieldName:        {"NameByte", gobwire.Bytes},
	fieldNickname:    {"NickName", gobwire.String},
	fieldUID:         {"UID", gobwire.Uint},
	fieldVersion:     {"Version", gobwire.Uint},
	fieldShortID:     {"ShortID", gobwire.Uint},
	fieldHasShortID:  {"HasShortID", gobwire.Bool},
	fieldAddress:     {"RemoteTCPAddr", gobwire.String},
	fieldOutbound:    {"Outbound", gobwire.Bool},
	fieldEstablished: {"Established", gobwire.Bool},
}

func (d *updateDecoder) decode() error {
	for {
		summary, shape, err := d.value()
		if err != nil || shape == nil {
			return err
		}
		if shape.slice {
			return errOddShape
		}
		var f fieldValues
		if err := f.read(&summary, shape); err != nil {
			return err
		}
		list, shape, err := d.value()
		if err != nil || shape == nil { // a summary at the end of the stream is dropped
			return err
		}
		if err := d.add(&f, &list, shape); err != nil {
			return err
		}
	}
}

// add takes a peer in, with its list of connections unless it is old.
func (d *updateDecoder) add(f *fieldValues, list *gobwire.Reader, shape *gobShape) error {
	if len(d.fresh)+len(d.old) == maxPeers {
		return errTooMany
	}
	e, err := f.entry()
	if err != nil {
		return err
	}
	if have := d.known(e.name); have != nil && !e.supersedes(have) {
		d.old = append(d.old, stamp{e.name, e.uid, e.version})
		return nil
	}
	if e.conns, err = d.conns(list, shape); err != nil {
		return err
	}
	d.fresh = append(d.fresh, e)
	return nil
}

// value returns the next value and its shape, taking in definitions on the way; nil at the end of the stream.
func (d *updateDecoder) value() (gobwire.Reader, *gobShape, error) {
	for d.r.Len() > 0 {
		item := d.r.Item()
		typ := item.Int()
		if item.Bad() {
			return item, nil, fmt.Errorf("%w: topology is cut", errMalformed)
		}
		if typ < 0 {
			shape, err := parseShape(&item)
			if err != nil {
				return item, nil, err
			}
			d.shapes[-typ] = shape
			continue
		}
		shape := d.shapes[typ]
		if shape == nil || shape.slice && item.Uint() != 0 {
			return item, nil, errOddShape
		}
		return item, shape, nil
	}
	return gobwire.Reader{}, nil, nil
}

// conns reads a list of connections.
func (d *updateDecoder) conns(r *gobwire.Reader, shape *gobShape) (connList, error) {
	elem := d.shapes[shape.elem]
	if !shape.slice || elem == nil || elem.slice {
		return "", errOddShape
	}
	n := r.Uint()
	if n > uint64(r.Len()) || n > maxPeers {
		return "", fmt.Errorf("%w: topology: %d connections in %d bytes", errMalformed, n, r.Len())
	}
	list := make([]byte, 0, usualConnSize*n)
	for range n {
		var f fieldValues
		if err := f.read(r, elem); err != nil {
			return "", err
		}
		name, err := peer.FromBytes(f.name)
		if err != nil {
			return "", fmt.Errorf("%w: topology: %w", errMalformed, err)
		}
		addr, err := parseAddress(f.text)
		if err != nil {
			return "", err
		}
		list = appendConn(list, conn{remote: name, outbound: f.flags&1 != 0, established: f.flags&2 != 0, address: addr})
	}
	if r.Bad() || r.Len() != 0 {
		return "", fmt.Errorf("%w: topology: connection list", errMalformed)
	}
	conns := connList(list)
	return conns, conns.check()
}

// fieldValues holds the fields of either struct.
type fieldValues struct {
	name, text   []byte
	uid, version uint64
	shortID      uint64
	flags        byte // 1 outbound, 2 established, 4 has a short id
}

// read reads a struct: pairs of field delta and value, up to a delta of 0.
func (f *fieldValues) read(r *gobwire.Reader, shape *gobShape) error {
	at := -1
	for {
		delta := r.Uint()
		if r.Bad() {
			return fmt.Errorf("%w: topology is cut", errMalformed)
		}
		if delta == 0 {
			return nil
		}
		if delta > uint64(len(shape.fields)) || at+int(delta) >= len(shape.fields) {
			return fmt.Errorf("%w: topology: no such field", errMalformed)
		}
		at += int(delta)
		if err := f.set(r, shape.fields[at]); err != nil {
			return err
		}
	}
}

func (f *fieldValues) set(r *gobwire.Reader, field gobField) error {
	switch field.code {
	case fieldName:
		f.name = r.Bytes()
	case fieldNickname, fieldAddress:
		f.text = r.Bytes()
	case fieldUID:
		f.uid = r.Uint()
	case fieldVersion:
		f.version = r.Uint()
	case fieldShortID:
		f.shortID = r.Uint()
		if f.shortID > 1<<16-1 {
			return fmt.Errorf("%w: short id of more than 16 bits", errMalformed)
		}
	case fieldOutbound:
		f.setFlag(r, 1)
	case fieldEstablished:
		f.setFlag(r, 2)
	case fieldHasShortID:
		f.setFlag(r, 4)
	default:
		return skip(r, field.kind)
	}
	return nil
}

func (f *fieldValues) setFlag(r *gobwire.Reader, bit byte) {
	if r.Uint() != 0 {
		f.flags |= bit
	}
}

// skip passes over a value of a builtin type.
func skip(r *gobwire.Reader, kind int64) error {
	switch kind {
	case gobwire.Bool, gobwire.Int, gobwire.Uint, gobwire.Float:
		r.Uint()
	case gobwire.Bytes, gobwire.String:
		r.Bytes()
	default:
		return errOddShape
	}
	return nil
}

// entry makes an entry without connections.
func (f *fieldValues) entry() (*entry, error) {
	name, err := peer.FromBytes(f.name)
	if err != nil {
		return nil, fmt.Errorf("%w: topology: %w", errMalformed, err)
	}
	e := &entry{
		name: name, uid: peer.UID(f.uid), version: f.version, nickname: string(f.text),
		shortID: peer.ShortID(f.shortID), hasShortID: f.flags&4 != 0 && f.shortID <= uint64(peer.MaxShortID),
	}
	e.tidy()
	return e, nil
}

// parseShape reads the definition of a struct or of a slice.
func parseShape(r *gobwire.Reader) (*gobShape, error) {
	const sliceType, structType = 2, 3
	shape := &gobShape{}
	switch kind := r.Uint(); kind {
	case sliceType:
		shape.slice = true
	case structType:
	default:
		return nil, errOddShape
	}
	if r.Uint() != 1 || !skipCommon(r) { // name and number of the type
		return nil, errOddShape
	}
	if r.Uint() != 1 {
		return nil, errOddShape
	}
	if shape.slice {
		shape.elem = r.Int()
	} else if err := shape.parseFields(r); err != nil {
		return nil, err
	}
	endOfKind, end := r.Uint(), r.Uint()
	if endOfKind != 0 || end != 0 || r.Bad() || r.Len() != 0 {
		return nil, errOddShape
	}
	return shape, nil
}

// skipCommon passes over {Name string; Id int}.
func skipCommon(r *gobwire.Reader) bool {
	at := uint64(0)
	for {
		delta := r.Uint()
		if delta == 0 || r.Bad() {
			return !r.Bad()
		}
		switch at += delta; at {
		case 1:
			r.Bytes()
		case 2:
			r.Int()
		default:
			return false
		}
	}
}

func (s *gobShape) parseFields(r *gobwire.Reader) error {
	n := r.Uint()
	if n > uint64(r.Len()) {
		return errOddShape
	}
	for range n {
		if r.Uint() != 1 {
			return errOddShape
		}
		name := r.Bytes()
		if r.Uint() != 1 {
			return errOddShape
		}
		f := gobField{kind: r.Int()}
		if r.Uint() != 0 || r.Bad() {
			return errOddShape
		}
		for code := fieldCode(1); code < numFieldCodes; code++ {
			if string(name) == fieldKnown[code].name {
				f.code = code
				if f.kind != fieldKnown[code].kind {
					return errOddShape
				}
			}
		}
		s.fields = append(s.fields, f)
	}
	return nil
}

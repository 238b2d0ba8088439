package mesh

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"

	"github.com/overweave/overweave/mesh/internal/gobwire"
	"github.com/overweave/overweave/mesh/peer"
)

// The encoding of topology updates (section 4.1 of the mesh specification) is a gob stream of two struct shapes, in turn.
// Both are read and written here by hand: a general decoder spends most of its time on the type definitions that every
// update repeats. Streams with other shapes go to encoding/gob, which can read whatever the reference can.

// gobPeer and gobConn are the shapes. gob knows fields by name.
type gobPeer struct {
	NameByte   []byte
	NickName   string
	UID        uint64
	Version    uint64
	ShortID    uint16
	HasShortID bool
}

type gobConn struct {
	NameByte      []byte
	RemoteTCPAddr string
	Outbound      bool
	Established   bool
}

// What encoding/gob writes before the first value of each shape, with these type numbers.
const (
	peerDefinition = "\x62\xff\x81\x03\x01\x01\x0bpeerSummary\x01\xff\x82\x00\x01\x06\x01\x08NameByte\x01\x0a\x00\x01\x08NickName\x01\x0c\x00" +
		"\x01\x03UID\x01\x06\x00\x01\x07Version\x01\x06\x00\x01\x07ShortID\x01\x06\x00\x01\x0aHasShortID\x01\x02\x00\x00\x00"
	connDefinition = "\x0d\xff\x85\x02\x01\x02\xff\x86\x00\x01\xff\x84\x00\x00" +
		"\x5b\xff\x83\x03\x01\x01\x11connectionSummary\x01\xff\x84\x00\x01\x04\x01\x08NameByte\x01\x0a\x00\x01\x0dRemoteTCPAddr\x01\x0c\x00" +
		"\x01\x08Outbound\x01\x02\x00\x01\x0bEstablished\x01\x02\x00\x00\x00"
	peerTypeNumber  = 65
	connsTypeNumber = 67
)

// encodeUpdate returns the update that holds the entries, with no bytes if there are none.
func encodeUpdate(entries []*entry) []byte {
	if len(entries) == 0 {
		return nil
	}
	size := len(peerDefinition) + len(connDefinition)
	for _, e := range entries {
		size += len(e.encoded())
	}
	out := append(make([]byte, 0, size), peerDefinition...)
	for i, e := range entries {
		value := e.encoded()
		if i == 0 { // the first list comes after its definition
			r := gobwire.NewReader(value)
			r.Item()
			summary := len(value) - r.Len()
			out = append(append(out, value[:summary]...), connDefinition...)
			value = value[summary:]
		}
		out = append(out, value...)
	}
	return out
}

// encoded returns the two values of an entry, without definitions.
func (e *entry) encoded() []byte {
	if b := e.gob.Load(); b != nil {
		return *b
	}
	summary := gobwire.AppendInt(nil, peerTypeNumber)
	f := gobFields{b: summary}
	f.bytes(1, string(e.name.AppendBytes(nil)))
	f.bytes(2, e.nickname)
	f.uint(3, uint64(e.uid))
	f.uint(4, e.version)
	f.uint(5, uint64(e.shortID))
	f.bool(6, e.hasShortID)
	b := appendItem(nil, append(f.b, 0))
	b = appendItem(b, e.encodedConns())
	e.gob.Store(&b)
	return b
}

func (e *entry) encodedConns() []byte {
	list := gobwire.AppendInt(nil, connsTypeNumber)
	list = append(list, 0)
	list = gobwire.AppendUint(list, uint64(e.conns.len()))
	for c := range e.conns.all() {
		f := gobFields{b: list}
		f.bytes(1, string(c.remote.AppendBytes(nil)))
		f.bytes(2, c.address.String())
		f.bool(3, c.outbound)
		f.bool(4, c.established)
		list = append(f.b, 0)
	}
	return list
}

func appendItem(b, item []byte) []byte {
	return append(gobwire.AppendUint(b, uint64(len(item))), item...)
}

// gobFields appends the fields of a struct, leaving zero values out.
type gobFields struct {
	b    []byte
	last int
}

func (f *gobFields) field(n int) {
	f.b = gobwire.AppendUint(f.b, uint64(n-f.last))
	f.last = n
}

func (f *gobFields) bytes(n int, v string) {
	if v != "" {
		f.field(n)
		f.b = append(gobwire.AppendUint(f.b, uint64(len(v))), v...)
	}
}

func (f *gobFields) uint(n int, v uint64) {
	if v != 0 {
		f.field(n)
		f.b = gobwire.AppendUint(f.b, v)
	}
}

func (f *gobFields) bool(n int, v bool) {
	if v {
		f.uint(n, 1)
	}
}

// decodeUpdate reads an update. known returns the entry we have of a peer, or nil; entries that do not supersede it are
// passed over and returned as old. The result shares no memory with b.
func decodeUpdate(b []byte, known func(peer.Name) *entry) (fresh []*entry, old []stamp, err error) {
	d := updateDecoder{r: gobwire.NewReader(b), shapes: map[int64]*gobShape{}, known: known}
	if err = d.decode(); errors.Is(err, errOddShape) {
		fresh, err = decodeOddUpdate(b)
		return fresh, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	return d.fresh, d.old, nil
}

// maxOddUpdate bounds, in bytes, the updates that are left to encoding/gob: of one byte it may make hundreds.
const maxOddUpdate = 256 << 10

// decodeOddUpdate is decodeUpdate for every shape that encoding/gob can read.
func decodeOddUpdate(b []byte) ([]*entry, error) {
	if len(b) > maxOddUpdate {
		return nil, fmt.Errorf("%w: topology: %d bytes of unusual shape, limit %d", errMalformed, len(b), maxOddUpdate)
	}
	var entries []*entry
	dec := gob.NewDecoder(bytes.NewReader(b))
	for {
		var p gobPeer
		var conns []gobConn
		if err := dec.Decode(&p); err == io.EOF {
			return entries, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: topology: %w", errMalformed, err)
		}
		if err := dec.Decode(&conns); err == io.EOF {
			return entries, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: topology: %w", errMalformed, err)
		}
		list, err := oddList(conns)
		if err != nil {
			return nil, err
		}
		e, err := p.entry(list)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

func oddList(conns []gobConn) (list connList, err error) {
	var b []byte
	for i := range conns {
		if b, err = conns[i].append(b); err != nil {
			return "", err
		}
	}
	list = connList(b)
	return list, list.check()
}

func (p *gobPeer) entry(conns connList) (*entry, error) {
	name, err := peer.FromBytes(p.NameByte)
	if err != nil {
		return nil, fmt.Errorf("%w: topology: %w", errMalformed, err)
	}
	e := &entry{
		name: name, uid: peer.UID(p.UID), version: p.Version, nickname: p.NickName, conns: conns,
		shortID: peer.ShortID(p.ShortID), hasShortID: p.HasShortID && peer.ShortID(p.ShortID) <= peer.MaxShortID,
	}
	e.tidy()
	return e, nil
}

// tidy cuts what may be of any length, and forgets a short id that cannot be one.
func (e *entry) tidy() {
	if len(e.nickname) > maxNickname {
		e.nickname = e.nickname[:maxNickname]
	}
	if !e.hasShortID {
		e.shortID = 0
	}
}

func (c *gobConn) append(list []byte) ([]byte, error) {
	name, err := peer.FromBytes(c.NameByte)
	if err != nil {
		return nil, fmt.Errorf("%w: topology: %w", errMalformed, err)
	}
	addr, err := parseAddress([]byte(c.RemoteTCPAddr))
	if err != nil {
		return nil, err
	}
	return appendConn(list, conn{remote: name, outbound: c.Outbound, established: c.Established, address: addr}), nil
}

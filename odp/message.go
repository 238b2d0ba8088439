package odp

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Index names a datapath: the interface index of its local port.
type Index int32

// Netlink's own message types and flags.
const (
	msgError = 2
	msgDone  = 3

	flagRequest     = 1
	flagAck         = 4
	flagEcho        = 8
	flagInterrupted = 0x10
	flagDump        = 0x300
	flagCreate      = 0x400

	flagCapped  = 0x100 // of an acknowledgement: the request is not repeated in it
	flagAckTLVs = 0x200 // of an acknowledgement: attributes follow

	ackMessage = 1
	ackOffset  = 2

	// errnoNotSupp is what the kernel calls ENOTSUPP, and means EOPNOTSUPP by: some parts of it forget that it has no name outside.
	errnoNotSupp = 524

	netlinkHeader = 16
	ovsHeader     = 24
)

// message is one netlink message.
type message struct {
	typ, flags uint16
	seq, pid   uint32
	body       []byte // all after netlink's own header
}

// nextMessage cuts the first message off b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < netlinkHeader {
		return m, nil, &DecodeError{What: "message", Reason: fmt.Sprintf("%d bytes are left", len(b))}
	}
	n := int(he32(b))
	if n < netlinkHeader || n > len(b) {
		return m, nil, &DecodeError{What: "message", Reason: fmt.Sprintf("length %d with %d bytes left", n, len(b))}
	}
	m = message{typ: he16(b[4:]), flags: he16(b[6:]), seq: he32(b[8:]), pid: he32(b[12:]), body: b[netlinkHeader:n:n]}
	return m, b[min(nla.Align(n), len(b)):], nil
}

// ovs returns the parts of a message of the datapath's families.
func (m message) ovs() (cmd uint8, dp Index, attrs []byte, err error) {
	if len(m.body) < ovsHeader-netlinkHeader {
		return 0, 0, nil, &DecodeError{What: "message", Reason: "too short for its headers"}
	}
	return m.body[0], Index(he32(m.body[4:])), m.body[8:], nil
}

// status returns the errno in an ERROR or DONE message, with the kernel's words on it.
func (m message) status() (text string, offset int, err error) {
	if len(m.body) < 4 {
		return "", 0, nil
	}
	code := int32(he32(m.body))
	if code >= 0 {
		return "", 0, nil
	}
	if m.typ == msgError && m.flags&flagAckTLVs != 0 {
		text, offset = m.explanation()
	}
	errno := syscall.Errno(-code)
	if errno == errnoNotSupp {
		errno = syscall.EOPNOTSUPP
	}
	return text, offset, errno
}

// explanation returns the extended acknowledgement.
func (m message) explanation() (text string, offset int) {
	skip := 4 + netlinkHeader
	if m.flags&flagCapped == 0 && len(m.body) >= 8 {
		skip = 4 + nla.Align(max(int(he32(m.body[4:])), netlinkHeader))
	}
	if skip < 0 || skip > len(m.body) {
		return "", 0
	}
	for it := nla.Iterate(m.body[skip:]); it.Next(); {
		switch {
		case it.Type() == ackMessage:
			text = cString(it.Data())
		case it.Type() == ackOffset && len(it.Data()) == 4:
			offset = int(he32(it.Data()))
		}
	}
	return text, offset
}

// request is a message to be sent.
type request struct {
	family  family
	cmd     uint8
	flags   uint16
	dp      Index
	version uint8
	body    func(e *nla.Encoder)
}

// appendRequest appends a message to e; it has to be ended by endRequest.
func appendRequest(e *nla.Encoder, r request, seq uint32) (mark int) {
	for len(e.B)%4 != 0 {
		e.B = append(e.B, 0)
	}
	mark = len(e.B)
	e.B = binary.NativeEndian.AppendUint32(e.B, 0)
	e.B = binary.NativeEndian.AppendUint16(e.B, r.family.id)
	e.B = binary.NativeEndian.AppendUint16(e.B, r.flags|flagRequest)
	e.B = binary.NativeEndian.AppendUint32(e.B, seq)
	e.B = binary.NativeEndian.AppendUint32(e.B, 0)
	if r.version == 0 {
		r.version = r.family.version
	}
	e.B = append(e.B, r.cmd, r.version, 0, 0)
	e.B = binary.NativeEndian.AppendUint32(e.B, uint32(r.dp))
	return mark
}

// endRequest sets the length of the message that begins at mark.
func endRequest(e *nla.Encoder, mark int) {
	binary.NativeEndian.PutUint32(e.B[mark:], uint32(len(e.B)-mark))
}

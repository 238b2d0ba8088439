package odp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

const (
	maxAttempts = 6        // of a listing
	chunkSize   = 32 << 10 // of the memory that listed objects are kept in
)

// listing is what the kernel listed: chunks of objects, each after its length and its datapath.
type listing [][]byte

const objectHeader = 8

func (l *listing) add(dp Index, attrs []byte) {
	last := len(*l) - 1
	if last < 0 || cap((*l)[last])-len((*l)[last]) < objectHeader+len(attrs) {
		*l = append(*l, make([]byte, 0, max(chunkSize, objectHeader+len(attrs))))
		last++
	}
	chunk := binary.NativeEndian.AppendUint32((*l)[last], uint32(len(attrs)))
	(*l)[last] = append(binary.NativeEndian.AppendUint32(chunk, uint32(dp)), attrs...)
}

// each calls f for the objects until it returns false. Their attributes are parts of the listing.
func (l listing) each(f func(dp Index, attrs []byte) bool) {
	for _, chunk := range l {
		for len(chunk) > 0 {
			end := objectHeader + int(he32(chunk))
			if !f(Index(he32(chunk[4:])), chunk[objectHeader:end:end]) {
				return
			}
			chunk = chunk[end:]
		}
	}
}

// dump sends a request to list and returns what the kernel has of the request's family. A listing during which the table changed, or
// of which a part was lost, is repeated.
func (c *Conn) dump(ctx context.Context, op string, r request) (listing, error) {
	end, err := c.begin(ctx)
	if err != nil {
		return nil, opError(op, err)
	}
	defer end()
	r.flags |= flagDump
	for attempts := 0; attempts < maxAttempts; {
		list, err := c.dumpOnce(ctx, op, r)
		switch {
		case err == nil:
			return list, nil
		case errors.Is(err, syscall.EBUSY):
			err = c.finishDump(ctx)
		case errors.Is(err, syscall.ENOBUFS):
			attempts++
			err = c.arm(ctx) // emptying the queue has changed it
		case errors.Is(err, ErrDumpInterrupted):
			attempts++
			err = nil
		}
		if err != nil {
			return nil, opError(op, err)
		}
	}
	return nil, opError(op, ErrDumpInterrupted)
}

func (c *Conn) dumpOnce(ctx context.Context, op string, r request) (list listing, err error) {
	if err := c.send(ctx, r); err != nil {
		return nil, err
	}
	size, interrupted := 0, false
	err = c.receive(ctx, func(m message) (last bool, err error) {
		if m.seq != c.seq {
			return false, nil
		}
		interrupted = interrupted || m.flags&flagInterrupted != 0
		if m.typ == msgDone || m.typ == msgError {
			return true, refusal(op, m)
		}
		if m.typ != r.family.id {
			return false, nil
		}
		_, dp, attrs, err := m.ovs()
		if err != nil {
			return false, err
		}
		if size += len(attrs); size > c.cfg.MaxDump {
			return false, fmt.Errorf("listing longer than %d bytes", c.cfg.MaxDump)
		}
		list.add(dp, attrs)
		return false, nil
	})
	if err == nil && interrupted {
		err = ErrDumpInterrupted
	}
	return list, err
}

// finishDump receives the rest of a listing that was given up: the kernel does not begin another on the same socket before.
func (c *Conn) finishDump(ctx context.Context) error {
	return c.receive(ctx, func(m message) (last bool, err error) { return m.typ == msgDone, nil })
}

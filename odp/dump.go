package odp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/overweave/overweave/odp/internal/nla"
)

const maxAttempts = 6 // of a listing

// dump sends a request to list and returns the datagrams of the answer. A listing during which the table changed, or of which
// a part was lost, is repeated.
func (c *Conn) dump(ctx context.Context, op string, r request) ([][]byte, error) {
	r.flags |= flagDump
	for range maxAttempts {
		parts, again, err := c.dumpOnce(ctx, op, r)
		if err != nil {
			return nil, opError(op, err)
		}
		if !again {
			return parts, nil
		}
	}
	return nil, opError(op, ErrDumpInterrupted)
}

func (c *Conn) dumpOnce(ctx context.Context, op string, r request) (parts [][]byte, again bool, err error) {
	end, err := c.begin(ctx)
	if err != nil {
		return nil, false, err
	}
	defer end()
	c.seq++
	c.enc = nla.Encoder{B: c.enc.B[:0]}
	mark := appendRequest(&c.enc, r, c.seq)
	if r.body != nil {
		r.body(&c.enc)
	}
	endRequest(&c.enc, mark)
	if err := c.sock.Send(c.enc.B); err != nil {
		return nil, false, c.cause(ctx, err)
	}
	size := 0
	for {
		n, err := c.sock.Receive(c.bufs, c.lens)
		if errors.Is(err, syscall.ENOBUFS) {
			drain(c.sock, c.bufs, c.lens)
			return nil, true, nil
		}
		if err != nil {
			return nil, false, c.cause(ctx, err)
		}
		for i := range n {
			part, last, interrupted, err := c.dumpPart(op, c.bufs[i], c.lens[i])
			if errors.Is(err, syscall.EBUSY) { // an abandoned listing of this socket is still running
				return nil, true, nil
			}
			if err != nil {
				return nil, false, err
			}
			again = again || interrupted
			if size += len(part); size > c.cfg.MaxDump {
				return nil, false, fmt.Errorf("listing longer than %d bytes", c.cfg.MaxDump)
			}
			if parts = append(parts, part); last {
				return parts, again, nil
			}
		}
	}
}

// dumpPart returns a copy of those messages of a datagram that answer the current listing.
func (c *Conn) dumpPart(op string, buf []byte, n int) (part []byte, last, interrupted bool, err error) {
	if n > len(buf) {
		return nil, false, false, fmt.Errorf("%w: an answer of %d bytes", ErrUnknownOutcome, n)
	}
	start := -1
	for at := 0; at < n; {
		m, rest, err := nextMessage(buf[at:n])
		if err != nil {
			return nil, false, false, err
		}
		next := n - len(rest)
		if m.seq != c.seq {
			at = next
			continue
		}
		interrupted = interrupted || m.flags&flagInterrupted != 0
		if m.typ == msgDone || m.typ == msgError {
			last, err = true, refusal(op, m)
			if err != nil {
				return nil, true, interrupted, err
			}
		} else if start < 0 {
			start = at
		}
		at = next
	}
	if start >= 0 {
		part = bytes.Clone(buf[start:n])
	}
	return part, last, interrupted, nil
}

// each calls f for the messages of a listing that are of a family, until it returns false.
func each(parts [][]byte, fam family, f func(dp Index, attrs []byte) bool) error {
	for _, part := range parts {
		for len(part) > 0 {
			m, rest, err := nextMessage(part)
			if err != nil {
				return err
			}
			part = rest
			if m.typ != fam.id {
				continue
			}
			_, dp, attrs, err := m.ovs()
			if err != nil {
				return err
			}
			if !f(dp, attrs) {
				return nil
			}
		}
	}
	return nil
}

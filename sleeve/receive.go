package sleeve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	readErrorsMax = 100                   // in a row, until reading is given up
	readPause     = 10 * time.Millisecond // after an error that comes again, longer by this each time
)

// reader receives the datagrams of one queue. Frames of one link that arrive together are handed over together.
type reader struct {
	overlay  *Overlay
	messages []Message
	take     func(netip.AddrPort, []byte) // datagram

	second *reader2 // takes what is not for sleeve

	link  *link    // whose frames are waiting; inside its gate
	in    incoming // frames point into messages, or into arena
	arena []byte
	join  *coalescer
}

func newReader(o *Overlay) *reader {
	r := &reader{overlay: o, messages: make([]Message, readMessages), arena: make([]byte, 0, readArena), join: newCoalescer()}
	for i := range r.messages {
		r.messages[i].Data = make([]byte, MaxDatagram)
	}
	r.take = r.datagram
	r.second = newReader2(o.second)
	return r
}

// run reads until the socket is closed, or has nothing but errors for most of a minute. A system that is short of memory has
// time to recover.
func (r *reader) run(ctx context.Context, queue int) error {
	failures := 0
	for {
		n, err := r.overlay.conn.ReadBatch(queue, r.messages)
		switch {
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			r.overlay.readErrors.Add(1)
			failures++
			if failures == readErrorsMax {
				return fmt.Errorf("sleeve: read: %w", err)
			}
			pause(ctx, time.Duration(failures-1)*readPause)
			continue
		}
		failures = 0
		for i := range r.messages[:n] {
			r.second.class = r.messages[i].Class
			r.messages[i].each(r.take)
		}
		r.flush()
		r.second.flush()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// datagram takes one datagram. Section 6 of the sleeve specification.
func (r *reader) datagram(from netip.AddrPort, b []byte) {
	if len(b) < peer.NameSize {
		r.overlay.short.Add(1)
		return
	}
	if b[0]&1 != 0 { // a group: nobody's name
		r.second.datagram(from, b)
		return
	}
	if !r.choose(readName(b)) {
		r.overlay.strangers.Add(1)
		return
	}
	body, ok := r.open(b[peer.NameSize:])
	if !ok {
		return
	}
	walk := records{rest: body}
	for f, ok := walk.next(); ok; f, ok = walk.next() {
		r.frame(from, f)
	}
	if walk.err != nil {
		r.link.drops.add(dropTruncated, 1)
	}
}

// choose makes the link to name the one that frames are for; false if there is none.
func (r *reader) choose(name peer.Name) bool {
	if r.link != nil && r.link.params.Remote == name {
		return true
	}
	r.flush()
	l := r.overlay.links.get(name)
	if l == nil || !l.inside.enter() {
		return false
	}
	r.link = l
	return true
}

// open returns the records of a datagram.
func (r *reader) open(body []byte) ([]byte, bool) {
	opener := r.link.opener
	if opener == nil {
		return body, true
	}
	if cap(r.arena)-len(r.arena) < len(body) {
		r.handOver()
		r.arena = r.arena[:0]
	}
	start := len(r.arena)
	out, _, err := opener.Open(r.arena, body)
	switch {
	case errors.Is(err, crypto.ErrReplay):
		r.link.drops.add(dropReplay, 1)
		return nil, false
	case err != nil:
		r.link.drops.add(dropSealed, 1)
		return nil, false
	}
	r.arena = out
	return out[start:], true
}

// frame takes one record.
func (r *reader) frame(from netip.AddrPort, f overlay.Frame) {
	l := r.link
	switch {
	case !r.in.valid(&l.life, &f):
	case !isSpecial(f.Data):
		if len(r.in.frames) == readFrames || r.in.bytes >= coalesceBytes {
			r.handOver()
		}
		r.in.add(&l.life, f)
	case f.Src == l.params.Remote && f.Dst == l.params.Self:
		l.step(func(m *machine, now time.Time) { m.special(now, from, f.Data) })
	default:
		l.drops.add(dropSpecial, 1)
	}
}

// handOver gives the waiting frames to the switch, which forwards them, segments joined if all are for stations of this host.
func (r *reader) handOver() {
	if len(r.in.frames) > 1 && !r.in.relay {
		r.in.frames = r.join.join(r.in.frames)
	}
	r.in.give(&r.link.life)
}

// flush hands over what is waiting and leaves the link.
func (r *reader) flush() {
	if r.link == nil {
		return
	}
	r.handOver()
	r.arena = r.arena[:0]
	r.link.inside.leave()
	r.link = nil
}

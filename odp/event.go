package odp

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Change says what happened to an object.
type Change uint8

// Changes. Kernels before Linux 4.20 say Created of datapaths and vports that are changed.
const (
	Created Change = cmdNew
	Deleted Change = cmdDel
	Changed Change = cmdSet
)

// String names the change.
func (c Change) String() string {
	switch c {
	case Created:
		return "created"
	case Deleted:
		return "deleted"
	case Changed:
		return "changed"
	}
	return "?"
}

// Event is a change that some process made, this one included. One of Datapath, Vport and Flow is set. The deletion of a datapath
// is told, but not that of its vports and flows; a flush of flows is not told at all.
type Event struct {
	Change   Change
	Index    Index // the datapath that it is about
	Datapath *Datapath
	Vport    *Vport
	Flow     *Flow
}

// Topics choose what an [EventReader] is told of.
type Topics uint8

// Topics. Flows are many: the kernel writes a message for each change while somebody listens.
const (
	DatapathEvents Topics = 1 << iota
	VportEvents
	FlowEvents
)

// EventReader receives notifications. Read may not be called concurrently with itself.
type EventReader struct {
	sock     Socket
	families families
	bufs     [][]byte
	lens     []int
	queue    []Event
	behind   bool // events were lost, and those after them have not been emptied out yet
	closed   atomic.Bool
}

// Subscribe opens a socket for notifications. What happens after it returns is told; so subscribe first and list then.
func (c *Conn) Subscribe(topics Topics) (*EventReader, error) {
	sock, err := c.dial(SocketOptions{Protocol: ProtocolGeneric, ReceiveBuffer: c.cfg.ReceiveBuffer})
	if err != nil {
		return nil, opError("open a notification socket", err)
	}
	for _, g := range [...]struct {
		topic  Topics
		family family
	}{{DatapathEvents, c.families.datapath}, {VportEvents, c.families.vport}, {FlowEvents, c.families.flow}} {
		if topics&g.topic == 0 {
			continue
		}
		if err := sock.Join(g.family.groups[g.family.name]); err != nil {
			return nil, errors.Join(opError("subscribe to "+g.family.name, err), sock.Close())
		}
	}
	r := &EventReader{sock: sock, families: c.families, lens: make([]int, receiveCount)}
	for range receiveCount {
		r.bufs = append(r.bufs, make([]byte, receiveSize))
	}
	return r, nil
}

// Close ends Read with net.ErrClosed. It is idempotent.
func (r *EventReader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	return r.sock.Close()
}

// Read waits for the next event. [ErrEventsLost] says that some were lost: list anew, then go on reading. What happens after it has
// returned is told again, or said to be lost again.
func (r *EventReader) Read(ctx context.Context) (Event, error) {
	if len(r.queue) == 0 {
		if err := r.fill(ctx); err != nil {
			return Event{}, err
		}
	}
	e := r.queue[0]
	r.queue = r.queue[1:]
	return e, nil
}

func (r *EventReader) fill(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.closed.Load() {
		return net.ErrClosed
	}
	if err := r.sock.SetDeadline(time.Time{}); err != nil {
		return opError("read notifications", err)
	}
	defer interruptOn(ctx, r.sock)()
	r.queue = r.queue[:0]
	for len(r.queue) == 0 && ctx.Err() == nil {
		if r.behind {
			r.behind = !drain(r.sock, r.bufs, r.lens)
			return ErrEventsLost
		}
		n, err := r.sock.Receive(r.bufs, r.lens)
		switch {
		case r.closed.Load():
			return net.ErrClosed
		case errors.Is(err, syscall.ENOBUFS):
			r.behind = true
			continue
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return opError("read notifications", err)
		}
		for i := range n {
			if _, err := eachMessage(r.bufs[i], r.lens[i], r.add); err != nil {
				return errors.Join(ErrEventsLost, err)
			}
		}
	}
	if len(r.queue) == 0 {
		return ctx.Err()
	}
	return nil
}

// add decodes a notification into the queue.
func (r *EventReader) add(m message) (bool, error) {
	cmd, dp, attrs, err := m.ovs()
	if err != nil {
		return false, err
	}
	e := Event{Change: Change(cmd), Index: dp}
	switch m.typ {
	case r.families.datapath.id:
		d, derr := decodeDatapath(dp, attrs)
		e.Datapath, err = &d, derr
	case r.families.vport.id:
		v, verr := decodeVport(dp, attrs)
		e.Vport, err = &v, verr
	case r.families.flow.id:
		f, ferr := decodeFlow(append([]byte(nil), attrs...))
		e.Flow, err = &f, ferr
	default:
		return false, nil
	}
	if err == nil {
		r.queue = append(r.queue, e)
	}
	return false, err
}

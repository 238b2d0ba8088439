package odp

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Batch is a list of requests that [Conn.Run] sends together, which saves most of the system calls. The zero value is an empty
// batch. A batch that is reset keeps its memory. It is not safe for concurrent use.
type Batch struct {
	enc   nla.Encoder
	items []batchItem
}

// batchItem is a request of a batch: where its message begins.
type batchItem struct {
	at int
	op string
	// The family is known when the batch is run.
	packet bool
	err    error // of encoding
}

// Reset empties the batch.
func (b *Batch) Reset() {
	b.enc.B = b.enc.B[:0]
	b.items = b.items[:0]
}

// Len returns the number of requests.
func (b *Batch) Len() int { return len(b.items) }

// PutFlow adds what [Conn.PutFlow] does.
func (b *Batch) PutFlow(dp Index, f Flow) { b.add("put a flow", dp, cmdNew, 0, f.appendTo) }

// CreateFlow adds what [Conn.CreateFlow] does.
func (b *Batch) CreateFlow(dp Index, f Flow) {
	b.add("create a flow", dp, cmdNew, flagCreate, f.appendTo)
}

// ModifyFlow adds what [Conn.ModifyFlow] does.
func (b *Batch) ModifyFlow(dp Index, f Flow) { b.add("modify a flow", dp, cmdSet, 0, f.appendTo) }

// DeleteFlow adds what [Conn.DeleteFlow] does, without an answer.
func (b *Batch) DeleteFlow(dp Index, f Flow) { b.add("delete a flow", dp, cmdDel, 0, f.appendName) }

// Execute adds what [Conn.Execute] does.
func (b *Batch) Execute(dp Index, x Execute) {
	b.add("execute a packet", dp, cmdExecute, 0, x.appendTo)
	b.items[len(b.items)-1].packet = true
}

func (b *Batch) add(op string, dp Index, cmd uint8, flags uint16, body func(*nla.Encoder)) {
	b.enc.Err = nil
	mark := appendRequest(&b.enc, request{family: family{version: 1}, cmd: cmd, flags: flags, dp: dp}, 0)
	body(&b.enc)
	if b.enc.Err != nil {
		b.enc.B = b.enc.B[:mark]
	} else {
		endRequest(&b.enc, mark)
	}
	b.items = append(b.items, batchItem{at: mark, op: op, err: b.enc.Err})
}

// BatchError says which requests of a batch failed. errors.Is and errors.As look at all of them.
type BatchError struct {
	Failed []RequestError
}

// RequestError is the failure of one request of a batch.
type RequestError struct {
	Request int // counted from 0
	Err     error
}

// Error implements error.
func (e *BatchError) Error() string {
	first := e.Failed[0]
	return fmt.Sprintf("odp: %d requests of a batch failed, first number %d: %v", len(e.Failed), first.Request, first.Err)
}

// Unwrap returns the errors of the requests.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}

// BrokenBatchError says how far a batch got before its answers were lost. Requests before From have been done, but for those in Failed; of
// the others it is not known.
type BrokenBatchError struct {
	From   int
	Failed []RequestError // refusals that came in
	Err    error
}

// Error implements error.
func (e *BrokenBatchError) Error() string {
	return fmt.Sprintf("%v (from request %d on, %d are known to have failed)", e.Err, e.From, len(e.Failed))
}

// Unwrap returns what broke the batch, not the errors of the requests.
func (e *BrokenBatchError) Unwrap() error { return e.Err }

const (
	maxSend      = 128 << 10 // bytes in one system call, below the default of net.core.wmem_default
	maxSendCount = 1024      // requests in one system call: their refusals must fit the receive buffer
)

// Run sends all requests of a batch, in their order, and waits until the kernel has done them. A request that fails does not
// keep the others from being done: the error is then a [BatchError]. A [BrokenBatchError] says that the rest of the batch may or may not
// have been done; any other error, that nothing has. The batch can be run again.
func (c *Conn) Run(ctx context.Context, b *Batch) error {
	end, err := c.begin(ctx)
	if err != nil {
		return opError("run a batch", err)
	}
	defer end()
	var failed []RequestError
	for first := 0; first < len(b.items); {
		last := b.chunk(first)
		if first > 0 {
			c.deadline = c.until(ctx)
			err = c.arm(ctx)
		}
		if err == nil {
			failed, err = c.runChunk(ctx, b, first, last, failed)
		}
		if err != nil {
			return &BrokenBatchError{From: first, Failed: failed, Err: opError("run a batch", err)}
		}
		first = last
	}
	if failed != nil {
		return &BatchError{Failed: failed}
	}
	return nil
}

// chunk returns the end of the requests from first that fit one system call.
func (b *Batch) chunk(first int) (last int) {
	last = first
	for last < len(b.items) && last-first < maxSendCount {
		if last > first && b.end(last)-b.items[first].at > maxSend {
			break
		}
		last++
	}
	return last
}

// end returns where the message of a request ends, with its padding.
func (b *Batch) end(i int) int {
	if i+1 < len(b.items) {
		return b.items[i+1].at
	}
	return nla.Align(len(b.enc.B))
}

// runChunk asks for an acknowledgement of the last request only. The kernel handles them in order and reports every refusal, so
// that one acknowledgement tells that all others succeeded.
func (c *Conn) runChunk(ctx context.Context, b *Batch, first, last int, failed []RequestError) ([]RequestError, error) {
	for len(b.enc.B)%4 != 0 {
		b.enc.B = append(b.enc.B, 0)
	}
	base := c.seq + 1
	final := -1
	for i := first; i < last; i++ {
		it := &b.items[i]
		if it.err != nil {
			failed = append(failed, RequestError{i, opError(it.op, it.err)})
			continue
		}
		h := b.enc.B[it.at:]
		id := c.families.flow.id
		if it.packet {
			id = c.families.packet.id
		}
		binary.NativeEndian.PutUint16(h[4:], id)
		binary.NativeEndian.PutUint16(h[6:], he16(h[6:])&^flagAck)
		binary.NativeEndian.PutUint32(h[8:], base+uint32(i-first))
		final = i
	}
	c.seq = base + uint32(last-first)
	if final < 0 {
		return failed, nil
	}
	h := b.enc.B[b.items[final].at:]
	binary.NativeEndian.PutUint16(h[6:], he16(h[6:])|flagAck)
	if err := c.sock.Send(b.enc.B[b.items[first].at:b.end(last-1)]); err != nil {
		return failed, c.cause(ctx, err)
	}
	err := c.receive(ctx, func(m message) (bool, error) {
		i := first + int(m.seq-base)
		if m.typ != msgError || m.seq-base >= uint32(last-first) {
			return false, nil
		}
		if err := refusal(b.items[i].op, m); err != nil {
			failed = append(failed, RequestError{i, err})
		}
		return i == final, nil
	})
	return failed, err
}

package odp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overweave/overweave/odp/internal/nla"
)

// UpcallKind says why a packet came to user space.
type UpcallKind uint8

// Kinds of upcalls.
const (
	MissUpcall   UpcallKind = cmdMiss   // no flow matched it
	ActionUpcall UpcallKind = cmdAction // an action Userspace sent it
)

// Upcall is a packet that the datapath gave to user space. The packet is gone from the kernel: who wants it to go on executes
// it. Its slices are parts of the reader's memory, valid until the next Read.
type Upcall struct {
	Datapath Index
	Kind     UpcallKind
	Packet   []byte // the frame, with its VLAN tag
	Key      KeyData
	Actions  ActionData // ActionUpcall: of the flow, if asked for
	Userdata []byte     // ActionUpcall: as given to the action
	Tunnel   []byte     // ActionUpcall: the tunnel of the egress port, if asked for: see EgressTunnel
	Hash     uint64     // since Linux 5.5, to be given to Execute; 0 if there is none
	Len      uint32     // length of the packet before it was truncated, 0 if it was not
	MRU      uint16     // largest fragment that Packet was put together from, 0 if it was not
}

// EgressTunnel decodes the tunnel of the egress port that an [Userspace] action asked for.
func (u *Upcall) EgressTunnel() (t Tunnel, ok bool, err error) {
	if u.Tunnel == nil {
		return t, false, nil
	}
	err = t.decode(u.Tunnel)
	return t, err == nil, err
}

// decode sets u to what a message holds. Unknown attributes are left out.
func (u *Upcall) decode(m message) error {
	cmd, dp, attrs, err := m.ovs()
	if err != nil {
		return err
	}
	*u = Upcall{Datapath: dp, Kind: UpcallKind(cmd)}
	it := nla.Iterate(attrs)
	for it.Next() {
		d := it.Data()
		switch it.Type() {
		case pktPacket:
			u.Packet = d
		case pktKey:
			u.Key = d
		case pktActions:
			u.Actions = d
		case pktUserdata:
			u.Userdata = d
		case pktEgressTun:
			u.Tunnel = d
		case pktHash:
			if len(d) == 8 {
				u.Hash = he64(d)
			}
		case pktOrigLen:
			if len(d) == 4 {
				u.Len = he32(d)
			}
		case pktMRU:
			if len(d) == 2 {
				u.MRU = he16(d)
			}
		}
	}
	if it.Err() != nil {
		return &DecodeError{What: "upcall", Reason: it.Err().Error()}
	}
	if u.Packet == nil || u.Key == nil {
		return &DecodeError{What: "upcall", Reason: "no packet or no key"}
	}
	return nil
}

// UpcallConfig configures [Conn.OpenUpcalls]. Its zero value is ready to use.
type UpcallConfig struct {
	// Batch is the largest number of upcalls of one Read, at most 64; 0 means 64. Each takes 68 KiB of memory.
	Batch int
	// ReceiveBuffer is the number of bytes that the kernel may queue; 0 means what the Conn's sockets have.
	ReceiveBuffer int
	// KeepQueueing has the kernel not report losses to this reader. Otherwise it also stops queueing after a loss, until the
	// queue has been emptied. The datapath's statistics count losses in any case.
	KeepQueueing bool
}

// UpcallReader receives upcalls from one socket. Give its PID to vports ([VportSpec], [Conn.SetUpcallPIDs]), to CPUs
// ([Conn.SetFeatures] with PerCPU) or to actions. Use one reader for each goroutine that reads: Read may not be called
// concurrently with itself. It starts no goroutines and allocates nothing once warm.
type UpcallReader struct {
	sock   Socket
	packet uint16
	bufs   [][]byte
	lens   []int

	mu     sync.Mutex
	ctx    context.Context // of the last Read, to which disarm belongs
	disarm func()

	closed   atomic.Bool
	received atomic.Uint64
	overruns atomic.Uint64
	dropped  atomic.Uint64
}

// ReaderStats counts what an [UpcallReader] saw.
type ReaderStats struct {
	Received uint64 // upcalls read
	Overruns uint64 // times that the queue ran over; how many packets were lost, the datapath's statistics tell
	Dropped  uint64 // datagrams that made no sense or were cut off
}

// OpenUpcalls opens a socket for upcalls.
func (c *Conn) OpenUpcalls(cfg UpcallConfig) (*UpcallReader, error) {
	if cfg.Batch <= 0 || cfg.Batch > 64 {
		cfg.Batch = 64
	}
	if cfg.ReceiveBuffer <= 0 {
		cfg.ReceiveBuffer = c.cfg.ReceiveBuffer
	}
	sock, err := c.dial(SocketOptions{Protocol: ProtocolGeneric, ReceiveBuffer: cfg.ReceiveBuffer, Silent: cfg.KeepQueueing})
	if err != nil {
		return nil, opError("open an upcall socket", err)
	}
	r := &UpcallReader{sock: sock, packet: c.families.packet.id, lens: make([]int, cfg.Batch)}
	for range cfg.Batch {
		r.bufs = append(r.bufs, make([]byte, receiveSize))
	}
	return r, nil
}

// PID returns the number by which the kernel knows the reader's socket. Take it out of vports before Close: the kernel may give
// it to another socket.
func (r *UpcallReader) PID() uint32 { return r.sock.Port() }

// Stats returns counters since the reader was opened. It may be called at any time.
func (r *UpcallReader) Stats() ReaderStats {
	return ReaderStats{Received: r.received.Load(), Overruns: r.overruns.Load(), Dropped: r.dropped.Load()}
}

// Close ends Read with net.ErrClosed. It is idempotent.
func (r *UpcallReader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget() // a context that lives on would keep the reader's memory
	return r.sock.Close()
}

// Read waits for upcalls and fills ups with those that there are. It returns after the first, so n is 1 at least unless there
// is an error: the context's, net.ErrClosed, io.ErrShortBuffer if ups is empty, or one of the socket. Losses and nonsense are counted,
// not returned: see Stats. Passing the same context each time is what makes it cheap.
func (r *UpcallReader) Read(ctx context.Context, ups []Upcall) (n int, err error) {
	if len(ups) == 0 {
		return 0, opError("read upcalls", io.ErrShortBuffer)
	}
	if err := r.arm(ctx); err != nil {
		return 0, err
	}
	for n == 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		got, err := r.sock.Receive(r.bufs[:min(len(r.bufs), len(ups))], r.lens)
		switch {
		case err == nil:
		case errors.Is(err, syscall.ENOBUFS):
			r.overruns.Add(1)
			continue
		default:
			return 0, r.cause(ctx, err)
		}
		for i := range got {
			if r.decode(r.bufs[i], r.lens[i], &ups[n]) {
				n++
			} else {
				r.dropped.Add(1)
			}
		}
	}
	r.received.Add(uint64(n))
	return n, nil
}

func (r *UpcallReader) decode(buf []byte, n int, u *Upcall) bool {
	if n > len(buf) {
		return false
	}
	m, _, err := nextMessage(buf[:n])
	return err == nil && m.typ == r.packet && u.decode(m) == nil
}

// arm has the end of ctx end Read. It does so once for a context that is used again and again.
func (r *UpcallReader) arm(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return net.ErrClosed
	}
	if r.ctx == ctx {
		return nil
	}
	r.forget()
	if err := r.sock.SetDeadline(time.Time{}); err != nil {
		return r.cause(ctx, err)
	}
	r.ctx, r.disarm = ctx, interruptOn(ctx, r.sock)
	return nil
}

// forget undoes what arm did. The caller holds mu.
func (r *UpcallReader) forget() {
	if r.disarm != nil {
		r.disarm()
	}
	r.ctx, r.disarm = nil, nil
}

func (r *UpcallReader) cause(ctx context.Context, err error) error {
	if r.closed.Load() {
		return net.ErrClosed
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	return opError("read upcalls", err)
}

// Package odptest is a kernel for tests: it answers package odp with the bytes of netlink messages, keeps datapaths, vports and
// flows in memory, and can misbehave on request. It needs no privileges and no Linux. It does not switch packets: a test says which
// packets are missed, and looks at those that were executed.
//
//	k := odptest.New()
//	c, err := odp.Open(ctx, odp.Config{Dial: k.Dial})
package odptest

import (
	"encoding/binary"
	"sync"
	"syscall"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/internal/nla"
)

// Families have these numbers, multicast groups the same plus 16.
const (
	famDatapath = 0x21 + iota
	famVport
	famFlow
	famPacket
	controller = 16
)

// Commands.
const (
	cmdNew = 1 + iota
	cmdDel
	cmdGet
	cmdSet

	cmdMiss    = 1
	cmdExecute = 3
)

// Kernel is the fake. Its methods are safe for concurrent use.
type Kernel struct {
	mu       sync.Mutex
	absent   bool
	nextPort uint32
	nextDP   int32
	sockets  map[uint32]*socket
	dps      map[int32]*datapath
	executed []Packet

	refusals   []syscall.Errno
	lost       int
	stale      int
	interrupts int
	unknown    bool
	requests   int
}

// Packet is a packet that was executed.
type Packet struct {
	Datapath odp.Index
	Packet   []byte
	Key      odp.KeyData
	Actions  odp.ActionData
}

type datapath struct {
	index    int32
	name     string
	features uint32
	cpuPIDs  []byte
	ports    map[uint32]*vport
	flows    map[string]*flow
	order    []string
	missed   uint64
	lost     uint64
}

type vport struct {
	number uint32
	typ    uint32
	name   string
	pids   []byte
	opts   []byte
}

type flow struct {
	key, mask, actions, ufid []byte
	packets, bytes           uint64
}

// New returns a kernel without datapaths.
func New() *Kernel {
	return &Kernel{nextPort: 1000, nextDP: 5, sockets: make(map[uint32]*socket), dps: make(map[int32]*datapath)}
}

// Dial opens a socket; it is for odp.Config.
func (k *Kernel) Dial(o odp.SocketOptions) (odp.Socket, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nextPort++
	s := newSocket(k, k.nextPort, o.ReceiveBuffer, o.Silent)
	k.sockets[s.port] = s
	return s, nil
}

// RemoveModule makes the kernel one without Open vSwitch.
func (k *Kernel) RemoveModule() { k.with(func() { k.absent = true }) }

// Refuse has the next requests fail with these errors, one each; 0 lets one pass.
func (k *Kernel) Refuse(errs ...syscall.Errno) {
	k.with(func() { k.refusals = append(k.refusals, errs...) })
}

// LoseReplies loses all that answers the next n requests, as if the receive buffer were full but without saying so.
func (k *Kernel) LoseReplies(n int) { k.with(func() { k.lost += n }) }

// SendStale answers each of the next n requests with the acknowledgement of an earlier one first.
func (k *Kernel) SendStale(n int) { k.with(func() { k.stale += n }) }

// InterruptDumps marks the next n listings as interrupted by a change.
func (k *Kernel) InterruptDumps(n int) { k.with(func() { k.interrupts += n }) }

// SendUnknown has all objects contain an attribute of type 99 that nobody knows.
func (k *Kernel) SendUnknown() { k.with(func() { k.unknown = true }) }

// Requests returns how many requests have been handled.
func (k *Kernel) Requests() (n int) {
	k.with(func() { n = k.requests })
	return n
}

// Executed returns the packets executed so far.
func (k *Kernel) Executed() (out []Packet) {
	k.with(func() { out = append(out, k.executed...) })
	return out
}

// Hit counts a packet for the flow of this name, as if it had matched; it reports whether there is such a flow.
func (k *Kernel) Hit(dp odp.Index, id odp.UFID, bytes int) (ok bool) {
	k.with(func() {
		d := k.dps[int32(dp)]
		if d == nil {
			return
		}
		f := d.flows[string(id)]
		if ok = f != nil; ok {
			f.packets++
			f.bytes += uint64(bytes)
		}
	})
	return ok
}

// Miss has a packet with this key missed on a port. It reports whether there was a socket with room for it.
func (k *Kernel) Miss(dp odp.Index, port uint32, packet []byte, key odp.KeyData) (delivered bool) {
	k.with(func() {
		d := k.dps[int32(dp)]
		if d == nil {
			return
		}
		d.missed++
		delivered = k.upcall(d, port, packet, key)
		if !delivered {
			d.lost++
		}
	})
	return delivered
}

func (k *Kernel) upcall(d *datapath, port uint32, packet []byte, key odp.KeyData) bool {
	pids := d.cpuPIDs
	if d.features&uint32(odp.PerCPU) == 0 {
		v := d.ports[port]
		if v == nil {
			return false
		}
		pids = v.pids
	}
	if len(pids) < 4 {
		return false
	}
	s := k.sockets[binary.NativeEndian.Uint32(pids)]
	if s == nil {
		return false
	}
	m := begin(famPacket, 0, 0, 0, cmdMiss, d.index)
	m.Bytes(2, key)
	m.Bytes(1, packet)
	return s.deliver(finish(m))
}

// Key returns the bytes of keys, to be given to Miss.
func Key(keys ...odp.Key) odp.KeyData {
	var m odp.Match
	for _, k := range keys {
		m = append(m, odp.Any(k))
	}
	return odp.EncodeKeys(m)
}

func (k *Kernel) with(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// begin begins a message of the datapath's families.
func begin(typ uint16, flags uint16, seq, pid uint32, cmd uint8, dp int32) *nla.Encoder {
	e := &nla.Encoder{}
	e.B = binary.NativeEndian.AppendUint32(e.B, 0)
	e.B = binary.NativeEndian.AppendUint16(e.B, typ)
	e.B = binary.NativeEndian.AppendUint16(e.B, flags)
	e.B = binary.NativeEndian.AppendUint32(e.B, seq)
	e.B = binary.NativeEndian.AppendUint32(e.B, pid)
	e.B = append(e.B, cmd, 1, 0, 0)
	e.B = binary.NativeEndian.AppendUint32(e.B, uint32(dp))
	return e
}

func finish(e *nla.Encoder) []byte {
	binary.NativeEndian.PutUint32(e.B, uint32(len(e.B)))
	for len(e.B)%4 != 0 {
		e.B = append(e.B, 0)
	}
	return e.B
}

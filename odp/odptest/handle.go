package odptest

import (
	"encoding/binary"
	"syscall"

	"github.com/overweave/overweave/odp/internal/nla"
)

// request is what came in.
type request struct {
	sock         *socket
	typ, flags   uint16
	seq          uint32
	cmd          uint8
	dp           int32
	raw          []byte // after the controller's or the datapath's header
	attrs        map[uint16][]byte
	dump, create bool
}

// handle answers all messages of a datagram.
func (k *Kernel) handle(s *socket, b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(b) > 0 {
		if len(b) < 20 {
			return syscall.EINVAL
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < 20 || n > len(b) {
			return syscall.EINVAL
		}
		k.one(s, b[:n])
		b = b[min(nla.Align(n), len(b)):]
	}
	return nil
}

func (k *Kernel) one(s *socket, b []byte) {
	r := request{
		sock: s, typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
		seq: binary.NativeEndian.Uint32(b[8:]), cmd: b[16], raw: b[20:], attrs: make(map[uint16][]byte),
	}
	if r.typ != controller && len(b) >= 24 {
		r.dp, r.raw = int32(binary.NativeEndian.Uint32(b[20:])), b[24:]
	}
	it := nla.Iterate(r.raw)
	for it.Next() {
		r.attrs[it.Type()] = it.Data()
	}
	r.dump, r.create = r.flags&0x300 == 0x300, r.flags&0x400 != 0
	k.requests++
	if k.stale > 0 {
		k.stale--
		s.deliver(ack(s.port, r.seq-1, 0))
	}
	var out [][]byte
	errno := syscall.Errno(0)
	if it.Err() != nil {
		errno = syscall.EINVAL
	}
	if r.typ != controller && len(k.refusals) > 0 && errno == 0 {
		errno, k.refusals = k.refusals[0], k.refusals[1:]
	}
	if errno == 0 {
		out, errno = k.answer(r)
	}
	if k.lost > 0 {
		k.lost--
		return
	}
	k.reply(r, out, errno)
}

// reply sends objects and the end.
func (k *Kernel) reply(r request, out [][]byte, errno syscall.Errno) {
	switch {
	case errno != 0:
		r.sock.deliver(ack(r.sock.port, r.seq, errno))
	case r.dump:
		flags := uint16(2)
		if k.interrupts > 0 {
			k.interrupts--
			flags |= 0x10
		}
		out = append(out, done(r.sock.port, r.seq))
		for _, m := range out {
			binary.NativeEndian.PutUint16(m[6:], flags)
		}
		if !r.sock.list(out) {
			r.sock.deliver(ack(r.sock.port, r.seq, syscall.EBUSY))
		}
	default:
		for _, m := range out {
			r.sock.deliver(m)
		}
		if r.flags&4 != 0 {
			r.sock.deliver(ack(r.sock.port, r.seq, 0))
		}
	}
}

func ack(pid, seq uint32, errno syscall.Errno) []byte {
	return status(2, pid, seq, errno, 16)
}

func done(pid, seq uint32) []byte { return status(3, pid, seq, 0, 0) }

func status(typ uint16, pid, seq uint32, errno syscall.Errno, extra int) []byte {
	b := make([]byte, 20+extra)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	if extra > 0 {
		binary.NativeEndian.PutUint16(b[6:], 0x100)
	}
	binary.NativeEndian.PutUint32(b[8:], seq)
	binary.NativeEndian.PutUint32(b[12:], pid)
	binary.NativeEndian.PutUint32(b[16:], uint32(-int32(errno)))
	return b
}

func (k *Kernel) answer(r request) ([][]byte, syscall.Errno) {
	switch r.typ {
	case controller:
		return k.controller(r)
	case famDatapath:
		return k.datapath(r)
	case famVport:
		return k.vport(r)
	case famFlow:
		return k.flow(r)
	case famPacket:
		return k.execute(r)
	}
	return nil, syscall.EOPNOTSUPP
}

func (k *Kernel) controller(r request) ([][]byte, syscall.Errno) {
	name := text(r.attrs[2])
	id, ok := map[string]uint16{"ovs_datapath": famDatapath, "ovs_vport": famVport, "ovs_flow": famFlow, "ovs_packet": famPacket}[name]
	if !ok || k.absent {
		return nil, syscall.ENOENT
	}
	m := begin(controller, 0, r.seq, r.sock.port, 1, 0)
	m.B = m.B[:20]
	m.U16(1, id)
	m.String(2, name)
	groups := m.Begin(7)
	group := m.Begin(1)
	m.String(1, name)
	m.U32(2, uint32(id)+16)
	m.End(group)
	m.End(groups)
	return [][]byte{finish(m)}, 0
}

func (k *Kernel) execute(r request) ([][]byte, syscall.Errno) {
	if k.dps[r.dp] == nil {
		return nil, syscall.ENODEV
	}
	packet, has := r.attrs[1]
	key, hasKey := r.attrs[2]
	actions, hasActions := r.attrs[3]
	if r.cmd != cmdExecute || !has || !hasKey || !hasActions {
		return nil, syscall.EINVAL
	}
	k.executed = append(k.executed, Packet{indexOf(r.dp), packet, key, actions})
	return nil, 0
}

// object sends an object to whoever listens and returns it as the answer.
func (k *Kernel) object(r request, build func(m *nla.Encoder), dp int32) []byte {
	m := begin(r.typ, 0, r.seq, r.sock.port, r.cmd, dp)
	build(m)
	if k.unknown {
		m.U32(99, 1)
	}
	b := finish(m)
	if r.cmd != cmdGet {
		for _, s := range k.sockets {
			if s.joined(uint32(r.typ) + 16) {
				s.deliver(append([]byte(nil), b...))
			}
		}
	}
	return b
}

// echoed returns an object if it was asked for.
func (r request) echoed(b []byte) ([][]byte, syscall.Errno) {
	if r.cmd == cmdGet || r.flags&8 != 0 {
		return [][]byte{b}, 0
	}
	return nil, 0
}

func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

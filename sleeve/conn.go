package sleeve

import "net/netip"

// MaxDatagram is the largest UDP payload over IPv4, in bytes.
const MaxDatagram = 65507

// Message is one datagram with where it comes from or goes to.
type Message struct {
	// Data is the UDP payload. To read it is a buffer: its capacity is used, its length set.
	Data []byte
	// Remote is the other end. The zone of an IPv6 address is the number of an interface.
	Remote netip.AddrPort
	// Local is the source address for sending. The zero Addr leaves it to the routing table. Reading does not set it.
	Local netip.Addr
	// DontFragment: the datagram is not to be fragmented, here or on its way. Reading does not set it.
	DontFragment bool
	// Class is the traffic class of IPv6, the TOS of IPv4: DSCP and ECN. Reading sets it if the Conn is a [ClassConn].
	Class uint8
	// Segment is set by reading. If it is not zero, Data is several datagrams of one remote, each of this many bytes but the
	// last, which may be shorter. Sending ignores it.
	Segment int
}

// each calls f with the datagrams of a message that was read.
func (m *Message) each(f func(netip.AddrPort, []byte)) {
	rest := m.Data
	for size := m.Segment; size > 0 && len(rest) > size; rest = rest[size:] {
		f(m.Remote, rest[:size:size])
	}
	f(m.Remote, rest)
}

// Conn sends and receives datagrams from one local port. [Socket] is the real one, package sleevetest has one in memory.
// It is safe for concurrent use, with one reader for each queue.
type Conn interface {
	// Queues is the number of queues to read from, at least one. It is constant. Datagrams of one remote come from one
	// queue, in the order they arrived.
	Queues() int

	// ReadBatch waits for datagrams in a queue and fills msgs with as many as are there; it returns how many, at least one
	// if err is nil. Buffers should have a capacity of MaxDatagram; what does not fit is cut off. After Close the error
	// wraps [net.ErrClosed]; any other is of the moment, and the Conn stays usable.
	ReadBatch(queue int, msgs []Message) (int, error)

	// WriteBatch sends datagrams and returns how many it sent, from the start of msgs; fewer than all without an error is
	// usual. The error is about the first that was not sent and wraps [syscall.EMSGSIZE] if that is too big not to be
	// fragmented; the others may be tried again. It may wait for room in the socket's buffer. Data is borrowed for the
	// time of the call.
	WriteBatch(msgs []Message) (int, error)

	// PathMTU returns the largest IP packet in bytes that the system believes to reach remote in one piece.
	PathMTU(remote netip.Addr) (int, error)

	// LocalAddr is where the Conn listens. The address may be unspecified: the IPv6 one if it takes both families.
	LocalAddr() netip.AddrPort

	// Close unblocks readers and writers and gives the port back. It is idempotent.
	Close() error
}

// ClassConn is a Conn that may read the traffic class of datagrams. Those of others are sent without ECN, since nobody would
// heed the network's marks.
type ClassConn interface {
	Conn
	// ReadsClass reports whether ReadBatch sets the Class of messages. It is constant.
	ReadsClass() bool
}

package fastdp

import (
	"errors"
	"net/netip"

	"github.com/overweave/overweave/mesh/peer"
)

// ErrNewConnection is wrapped by errors of a [Protector] about a tunnel that cannot be protected again within its connection:
// the link fails, and there is one again with the next connection. After other errors the link is on hold, and it is tried
// again.
var ErrNewConnection = errors.New("it takes a new connection")

// Tunnel is what there is to know of the tunnel of one link, for whoever protects it. It is constant.
type Tunnel struct {
	Self, Remote peer.Name
	// Local and RemoteAddr are the outer addresses, of one family. They do not change during the life of the link.
	Local, RemoteAddr netip.Addr
	// Port is the UDP port to which both ends send. Source ports are arbitrary.
	Port uint16
	// Outbound is true at the end that dialled the connection.
	Outbound bool
	// ConnUID is the same at both ends and different for each connection.
	ConnUID uint64
	// Key is the session key of the connection; nil if the tunnel is in the clear.
	Key *[32]byte
	// Rekeys is true if the remote is a new peer (overlay fastdp2): it accepts and begins new keys at any time.
	Rekeys bool
	// Again is true if the connection had a Protection before, which failed: the other end has said what it had to say.
	Again bool
}

// Protector guards the tunnel ports of a datapath and encrypts tunnels below it, in the kernel. Package fastdp/ipsec has one.
// It is safe for concurrent use; its methods may take as long as some requests to the kernel do.
//
// With a Protector nothing passes a tunnel port in either direction but what a Protection in force lets through.
type Protector interface {
	// Guard closes a tunnel port, in both directions and for every address, before it is opened for the first time. What
	// Protections in force let through keeps passing. It is repeated for the same port without harm. It stays in force when
	// the datapath ends, since flows stay too.
	Guard(port uint16) error

	// Protect sets up the near end of an encrypted tunnel: what t.RemoteAddr may send to us must be in place before it
	// returns, or before it calls send. send passes a payload of 64 bytes to the Protection at the other end, through the
	// control connection; it queues and does not wait. report is called with nil as soon as what we send is protected: the
	// first heartbeat goes out only then; and with an error if the Protection is of no more use. Both may be called from within
	// Protect and from any goroutine until Close returns, but not from within Control, Status and Close.
	//
	// There may be two tunnels to one remote for a while, when a new connection takes the place of an old one: the younger
	// one counts, and closing the older takes nothing away from it.
	Protect(t Tunnel, send func(payload []byte) error, report func(error)) (Protection, error)

	// Allow lets a tunnel pass in the clear. t.Key is nil.
	Allow(t Tunnel) (Protection, error)
}

// Protection is the protection of one tunnel, for the life of its link. It is safe for concurrent use.
type Protection interface {
	// Control takes a payload from the other end. It comes from the network and may be anything; it is borrowed.
	Control(payload []byte)
	// Status says how things stand.
	Status() ProtectionStatus
	// Close takes the tunnel's rights away, now or after a hold, and returns when send and report are not called any more.
	// It is idempotent.
	Close()
}

// ProtectionStatus describes a Protection for people.
type ProtectionStatus struct {
	Encrypted bool   `json:"encrypted"` // as the kernel has it
	Cipher    string `json:"cipher,omitempty"`
	Rekeys    uint64 `json:"rekeys,omitempty"` // how often keys were changed since the beginning
	Reason    string `json:"reason,omitempty"` // what is wrong
}

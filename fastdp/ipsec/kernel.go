package ipsec

import (
	"context"
	"fmt"
	"net/netip"
)

// Kernel is what the package needs of the policy and association databases of a network namespace. [OpenKernel] opens the
// kernel's, package ipsectest has them in memory. All methods but Watch are called by one goroutine at a time and have
// deadlines of their own.
type Kernel interface {
	// PutPolicy adds a policy, or replaces the one with the same selector and direction, in one step.
	PutPolicy(Policy) error
	// DeletePolicy deletes the policy with that selector and direction, whatever else it says. The error wraps
	// [os.ErrNotExist] if there is none.
	DeletePolicy(Policy) error
	// AddAssociation adds an association. The error wraps [os.ErrExist] if there is one with that destination and SPI.
	AddAssociation(Association) error
	// DeleteAssociation deletes the association with that destination and SPI. The error wraps [os.ErrNotExist] if there is
	// none.
	DeleteAssociation(Association) error
	// List returns the policies and associations that are made like ours: all users of UDP ports by their shape, not ours alone.
	List() ([]Policy, []Association, error)
	// Watch calls changed, from its own goroutine, for what anybody changes, ourselves included, until ctx ends; then it
	// returns nil. Other errors mean that changes were missed; it can be called again.
	Watch(ctx context.Context, changed func(Event)) error
}

// Direction is a direction of packets, seen from this host.
type Direction uint8

// The directions that policies are for.
const (
	In Direction = iota
	Out
)

// String returns "in" or "out".
func (d Direction) String() string {
	if d == In {
		return "in"
	}
	return "out"
}

// Action is what becomes of packets that a policy is for.
type Action uint8

// The actions of policies.
const (
	// Block drops them.
	Block Action = iota
	// Clear lets them pass as they are.
	Clear
	// ESP lets them pass encrypted: on the way in those that came so, on the way out by an association, without which they are
	// dropped.
	ESP
)

// String returns the action in lower case.
func (a Action) String() string {
	if int(a) >= len(priorities) {
		return fmt.Sprintf("action %d", uint8(a))
	}
	return [...]string{"block", "clear", "esp"}[a]
}

// priorities of our policies; the lowest wins. They are unusual, so as to recognize them.
var priorities = [...]uint32{Block: 783900, Clear: 783200, ESP: 783100}

// Selector says which UDP packets something is for: from a prefix, to a prefix and a port, from any port.
type Selector struct {
	Src, Dst netip.Prefix
	Port     uint16
}

// Policy says what becomes of the packets that its selector has.
type Policy struct {
	Selector
	Direction Direction
	Action    Action
	// Request id of the associations that do for it, and the SPI of the one that has to, 0 for any. With ESP only.
	ReqID, SPI uint32
}

// Association is a key, and who sends with it to whom.
type Association struct {
	Selector        // with prefixes of one address each
	SPI      uint32 // chosen by the receiver
	ReqID    uint32
	Key      Key // List leaves it out

	Packets, Bytes uint64 // carried so far; by List only
}

// Event says that a policy or an association changed, or some of them.
type Event struct {
	// Port is that of the policy, 0 if it is not about a policy.
	Port uint16
	// SPI is that of the association that is gone, 0 if it is not about an association.
	SPI uint32
	// All means that a database was flushed.
	All bool
}

// policyID is what there is one policy of.
type policyID struct {
	Selector
	Direction Direction
}

func (p Policy) id() policyID { return policyID{p.Selector, p.Direction} }

// associationID is what there is one association of.
type associationID struct {
	dst netip.Addr
	spi uint32
}

func (a Association) id() associationID { return associationID{a.Dst.Addr(), a.SPI} }

// Request ids of ours are in this range.
const (
	firstReqID = 0x4f57_0000
	reqIDs     = 0x1_0000
)

func ownReqID(id uint32) bool { return id-firstReqID < reqIDs }

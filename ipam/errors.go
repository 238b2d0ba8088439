package ipam

import "errors"

// Errors are always wrapped, with what they are about; test for them with [errors.Is].
var (
	// ErrInvalidSubnet is returned for subnets and ranges with host bits set, with fewer than four addresses, or of the
	// wrong family.
	ErrInvalidSubnet = errors.New("invalid subnet")
	// ErrInvalidOwner is returned for an empty owner and for one that is too long.
	ErrInvalidOwner = errors.New("invalid owner")
	// ErrOutOfRange is returned for subnets that share no address with the universe.
	ErrOutOfRange = errors.New("out of bounds")
	// ErrExhausted tells why an allocation was still waiting when its context ended: no address of the subnet is free
	// here, and no peer has given any. The context's error is wrapped beside it.
	ErrExhausted = errors.New("no free address in the subnet")
	// ErrNotGiving tells why an allocation was still waiting when its context ended: nothing new is given out here for now,
	// as Status.NotGiving says. The context's error is wrapped beside it.
	ErrNotGiving = errors.New("no new addresses are given out")
	// ErrNoRing tells why a call was still waiting when its context ended: the peers have not agreed on a ring yet. The
	// context's error is wrapped beside it.
	ErrNoRing = errors.New("waiting for the peers to agree on a ring")
	// ErrConflict is returned for the claim of an address that another owner or another peer has.
	ErrConflict = errors.New("address conflict")
	// ErrNotOwned is returned when an owner frees what it does not have.
	ErrNotOwned = errors.New("address not owned")
	// ErrReachable is returned for the takeover of a peer that takes part in the mesh.
	ErrReachable = errors.New("peer is alive")
	// ErrAmbiguous is returned for a nickname that several peers carry.
	ErrAmbiguous = errors.New("ambiguous nickname")
	// ErrReleased is returned by allocations and claims after [Allocator.Release].
	ErrReleased = errors.New("address space was released")
	// ErrBusy is returned when too many calls wait already.
	ErrBusy = errors.New("too many waiting requests")
	// ErrStore is returned when a change was not stored. It holds in memory and is stored later, or lost with the process:
	// repeat the call.
	ErrStore = errors.New("not stored")
	// ErrCorrupt is returned for a store whose contents cannot be read.
	ErrCorrupt = errors.New("corrupt store")
	// ErrNotRunning is returned to the carrier of gossip for what arrives while Run does not run.
	ErrNotRunning = errors.New("allocator is not running")
	// ErrClosed is returned when Run has ended.
	ErrClosed = errors.New("allocator is closed")
)

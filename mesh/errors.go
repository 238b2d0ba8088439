package mesh

import (
	"errors"
	"fmt"
)

var (
	// ErrPassword is wrapped by the reason of a connection whose ends do not use the same password, or of which only one
	// uses any.
	ErrPassword = errors.New("password does not match")
	// ErrNameTaken is wrapped by the reason of a connection to a peer with our own name, or with that of another peer
	// that is still there. The text names both addresses.
	ErrNameTaken = errors.New("peer name is taken")
	// ErrIncompatible is wrapped by the reason of a connection to something that speaks another protocol, or another
	// version of it.
	ErrIncompatible = errors.New("not a compatible peer")
	// ErrLimit is wrapped by the reason of a connection that was closed to stay within the connection limit.
	ErrLimit = errors.New("connection limit")
	// ErrClosed is wrapped by errors of calls on a router that does not run any more.
	ErrClosed = errors.New("router is not running")
	// ErrReceiver is wrapped by the error of Run if a receiver did not return from a call.
	ErrReceiver = errors.New("the receiver does not return")

	// errOurName is wrapped, besides, if the name is our own: that does not change by waiting.
	errOurName = fmt.Errorf("our %w", ErrNameTaken)

	errMalformed  = errors.New("malformed message")
	errSelf       = errors.New("connected to ourselves")
	errDuplicate  = errors.New("another connection to the same peer was kept")
	errUnknown    = errors.New("a learned address led to a peer that is not known")
	errSilence    = errors.New("nothing heard for too long")
	errTooLong    = errors.New("message too long")
	errTooMany    = errors.New("more peers than this one takes")
	errStopped    = errors.New("router stops")
	errReplaced   = errors.New("the peer has restarted and connected anew")
	errQueueFull  = errors.New("queue to the peer is full")
	errPeerClosed = errors.New("closed by the other end")
	errEnding     = errors.New("the connection ends")
)

// joined wraps all of errs, as errors.Join does, but in one line: status reports have a line for each connection.
func joined(errs []error) (all error) {
	for _, err := range errs {
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

package odp

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Errors that the errors of this package wrap.
var (
	// ErrNotSupported means that the kernel, or the system this program was built for, lacks something: see [UnsupportedError].
	ErrNotSupported = errors.New("not supported")

	// ErrMalformed means that bytes or text do not describe what they should: see [DecodeError] and [SyntaxError].
	ErrMalformed = errors.New("malformed")

	// ErrInvalidFlow means that no kernel would take a match or an action list: see [FlowError].
	ErrInvalidFlow = errors.New("invalid flow")

	// ErrDumpInterrupted means that a table changed during each of several attempts to list it.
	ErrDumpInterrupted = errors.New("listing interrupted by changes each time")

	// ErrEventsLost means that notifications were lost because they were not read in time. What they told of must be listed
	// anew. The subscription goes on.
	ErrEventsLost = errors.New("notifications lost")

	// ErrUnknownOutcome means that answers were lost: what was asked for may or may not have been done.
	ErrUnknownOutcome = errors.New("answers lost, the outcome is unknown")
)

// OpError is the kernel's refusal of a request, or the failure to ask. errors.Is finds the errno (syscall.EBUSY and so on), and
// os.ErrNotExist, os.ErrExist and os.ErrPermission where an errno has that meaning; no such datapath, port or device (ENODEV)
// counts as os.ErrNotExist.
type OpError struct {
	Op      string // what was asked for: "create vport vxlan0"
	Err     error  // a syscall.Errno if the kernel refused
	Message string // the kernel's explanation, if it gave one (extended acknowledgement)
	Offset  int    // the byte of the request that it is about, if it is not 0
}

// Error implements error.
func (e *OpError) Error() string {
	s := "odp: " + e.Op + ": " + e.Err.Error()
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Offset != 0 {
		s += fmt.Sprintf(" (at byte %d of the request)", e.Offset)
	}
	return s
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Is reports whether the errno has the meaning of target.
func (e *OpError) Is(target error) bool {
	return target == os.ErrNotExist && e.Err == syscall.ENODEV
}

// opError returns nil for a nil cause, and err itself if it says already what was asked for.
func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	if o := (*OpError)(nil); errors.As(err, &o) {
		return err
	}
	return &OpError{Op: op, Err: err}
}

// UnsupportedError says what this kernel lacks. It is [ErrNotSupported] to errors.Is, and also what the kernel answered.
type UnsupportedError struct {
	Feature string // for instance "action ct"
	Since   string // the first kernel that has it, "" if that is not known
	Kernel  string // the running kernel's release, "" if that is not known
	Hint    string // how to get it, or ""
	Err     error  // what the kernel answered, or nil
}

// Error implements error.
func (e *UnsupportedError) Error() string {
	s := "odp: " + e.Feature + " is not supported"
	if e.Kernel != "" {
		s += " by this kernel (" + e.Kernel + ")"
	}
	if e.Since != "" {
		s += ", it came with Linux " + e.Since
	}
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// Unwrap returns ErrNotSupported and the kernel's answer.
func (e *UnsupportedError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrNotSupported}
	}
	return []error{ErrNotSupported, e.Err}
}

// DecodeError says which part of a message could not be understood. It is [ErrMalformed] to errors.Is.
type DecodeError struct {
	What   string // "key ipv4", "action ct"
	Reason string
}

// Error implements error.
func (e *DecodeError) Error() string { return "odp: malformed " + e.What + ": " + e.Reason }

// Unwrap returns ErrMalformed.
func (e *DecodeError) Unwrap() error { return ErrMalformed }

// FlowError says which rule of the kernel a match or an action breaks. It is [ErrInvalidFlow] to errors.Is.
type FlowError struct {
	Field  string // "tcp", "action trunc"
	Reason string
}

// Error implements error.
func (e *FlowError) Error() string { return "odp: invalid flow: " + e.Field + ": " + e.Reason }

// Unwrap returns ErrInvalidFlow.
func (e *FlowError) Unwrap() error { return ErrInvalidFlow }

// SyntaxError says where text is not in the notation of flows. It is [ErrMalformed] to errors.Is.
type SyntaxError struct {
	Text   string // all of the text
	Offset int    // the byte at which reading ended
	Reason string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	rest := e.Text[min(e.Offset, len(e.Text)):]
	if len(rest) > 30 {
		rest = rest[:30] + "..."
	}
	return fmt.Sprintf("odp: syntax error at byte %d (%q): %s", e.Offset, rest, e.Reason)
}

// Unwrap returns ErrMalformed.
func (e *SyntaxError) Unwrap() error { return ErrMalformed }

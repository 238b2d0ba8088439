//go:build !linux

package sleeve

import (
	"errors"
	"fmt"
	"net/netip"
)

// Socket is the UDP socket of an overlay. There is none for this system yet.
type Socket struct{}

// Listen returns an error that wraps [errors.ErrUnsupported].
func Listen(netip.AddrPort) (*Socket, error) {
	return nil, fmt.Errorf("sleeve: listen: %w", errors.ErrUnsupported)
}

// Queues implements [Conn].
func (*Socket) Queues() int { return 1 }

// ReadBatch implements [Conn].
func (*Socket) ReadBatch(int, []Message) (int, error) { return 0, errors.ErrUnsupported }

// WriteBatch implements [Conn].
func (*Socket) WriteBatch([]Message) (int, error) { return 0, errors.ErrUnsupported }

// PathMTU implements [Conn].
func (*Socket) PathMTU(netip.Addr) (int, error) { return 0, errors.ErrUnsupported }

// LocalAddr implements [Conn].
func (*Socket) LocalAddr() netip.AddrPort { return netip.AddrPort{} }

// Close implements [Conn].
func (*Socket) Close() error { return nil }

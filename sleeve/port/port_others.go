//go:build !linux

package port

import (
	"errors"
	"fmt"

	"github.com/overweave/overweave/mesh/overlay"
)

// TAP is a TAP device. There is none for this system yet.
type TAP struct{ none }

// OpenTAP returns an error that wraps [errors.ErrUnsupported].
func OpenTAP(TAPConfig) (*TAP, error) { return nil, errUnsupported("TAP device") }

// Queues returns the number of queues.
func (*TAP) Queues() int { return 1 }

// ReadQueue returns [errors.ErrUnsupported].
func (*TAP) ReadQueue(int, []overlay.Frame) (int, error) { return 0, errors.ErrUnsupported }

// Packet is a packet socket. There is none for this system yet.
type Packet struct{ none }

// OpenPacket returns an error that wraps [errors.ErrUnsupported].
func OpenPacket(PacketConfig) (*Packet, error) { return nil, errUnsupported("packet socket") }

func errUnsupported(what string) error {
	return fmt.Errorf("port: %s: %w", what, errors.ErrUnsupported)
}

// none has the methods of a port, so that programs build.
type none struct{ counters counters }

func (*none) Name() string                      { return "" }
func (*none) Read([][]byte, []int) (int, error) { return 0, errors.ErrUnsupported }
func (*none) Write([][]byte) error              { return errors.ErrUnsupported }
func (*none) MTU() int                          { return 0 }
func (*none) Close() error                      { return nil }

// Status is empty.
func (n *none) Status() Status { return n.counters.status() }

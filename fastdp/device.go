package fastdp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/overweave/overweave/odp"
)

// Of rtnetlink: requests about one device, by its number.
const (
	rtmNewLink = 16
	rtmGetLink = 18

	linkRequestLen = 32 // header, family, type, number, flags, mask of flags
	nlmsgError     = 2
	nlmRequest     = 1
	nlmAck         = 4
	linkFlagUp     = 1

	deviceTimeout = time.Second
	deviceAnswers = 8 // messages that are read for an answer
)

// raiseTunnels sets tunnel devices up that others have set down: frames for them would be lost without a word.
func (s *session) raiseTunnels(ctx context.Context) error {
	var r route
	defer r.close()
	for _, number := range s.table.ports.Load().tunnels {
		p := s.table.ports.Load().byNumber[number]
		if p.ifindex <= 0 {
			continue
		}
		if r.socket == nil {
			if err := r.open(ctx, s.cfg.ODP); err != nil {
				return fmt.Errorf("look at tunnel devices: %w", err)
			}
		}
		up, err := r.isUp(p.ifindex)
		switch {
		case errors.Is(err, syscall.ENODEV):
			continue // its port is looked at elsewhere
		case err != nil:
			return fmt.Errorf("look at %s: %w", p.name, err)
		case up:
			continue
		}
		s.stats.repairs.Add(1)
		s.log.Warn("fastdp: a tunnel device is set up again, somebody set it down", "device", p.name)
		if err := r.setUp(p.ifindex); err != nil {
			return fmt.Errorf("set %s up: %w", p.name, err)
		}
	}
	return nil
}

// route asks the kernel about devices.
type route struct {
	socket odp.Socket
	seq    uint32
	buf    [32 << 10]byte
}

func (r *route) open(ctx context.Context, c odp.Config) (err error) {
	dial := c.Dial
	if dial == nil {
		dial = odp.DialKernel
	}
	if r.socket, err = dial(odp.SocketOptions{Protocol: odp.ProtocolRoute, ReceiveBuffer: 1 << 18, NetNS: c.NetNS}); err != nil {
		return err
	}
	deadline := time.Now().Add(deviceTimeout)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	return r.socket.SetDeadline(deadline)
}

func (r *route) close() {
	if r.socket != nil {
		_ = r.socket.Close()
	}
}

func (r *route) isUp(ifindex int32) (bool, error) {
	a, err := r.ask(rtmGetLink, 0, ifindex, 0)
	return a.flags&linkFlagUp != 0, err
}

func (r *route) setUp(ifindex int32) error {
	_, err := r.ask(rtmNewLink, nlmAck, ifindex, linkFlagUp)
	return err
}

// ask sends a request and reads its answer.
func (r *route) ask(typ, flags uint16, ifindex int32, set uint32) (a linkAnswer, err error) {
	r.seq++
	if err := r.socket.Send(appendLinkRequest(nil, typ, flags|nlmRequest, r.seq, ifindex, set)); err != nil {
		return a, err
	}
	for range deviceAnswers {
		lengths := make([]int, 1)
		if _, err := r.socket.Receive([][]byte{r.buf[:]}, lengths); err != nil {
			return a, err
		}
		if a, ok := parseLinkAnswer(r.buf[:min(lengths[0], len(r.buf))]); ok && a.seq == r.seq {
			return a, a.err
		}
	}
	return a, errors.New("no answer")
}

func appendLinkRequest(b []byte, typ, flags uint16, seq uint32, ifindex int32, set uint32) []byte {
	order := binary.NativeEndian
	b = order.AppendUint32(b, linkRequestLen)
	b = order.AppendUint16(order.AppendUint16(b, typ), flags)
	b = order.AppendUint32(order.AppendUint32(b, seq), 0)
	b = order.AppendUint32(b, 0) // any family, any type
	b = order.AppendUint32(b, uint32(ifindex))
	return order.AppendUint32(order.AppendUint32(b, set), set)
}

// linkAnswer is what the kernel says of a device.
type linkAnswer struct {
	seq   uint32
	flags uint32 // of the device
	err   error  // of the request
}

// parseLinkAnswer reads the first message of an answer; ok is false if it is something else.
func parseLinkAnswer(b []byte) (a linkAnswer, ok bool) {
	order := binary.NativeEndian
	if len(b) < 20 {
		return a, false
	}
	a.seq = order.Uint32(b[8:])
	switch typ := order.Uint16(b[4:]); {
	case typ == nlmsgError:
		if code := int32(order.Uint32(b[16:])); code != 0 {
			a.err = syscall.Errno(-code)
		}
		return a, true
	case typ == rtmNewLink && len(b) >= linkRequestLen:
		a.flags = order.Uint32(b[24:])
		return a, true
	}
	return a, false
}

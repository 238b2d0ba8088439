package fastdp

import (
	"context"
	"errors"
	"os"
)

// tendTunnels sets tunnel devices up that others have set down, since frames for them would be lost without a word, and keeps
// their offloads off where they have to be.
func (s *session) tendTunnels(ctx context.Context) (err error) {
	ports := s.table.ports.Load()
	for _, number := range ports.tunnels {
		p := ports.byNumber[number]
		if p.ifindex <= 0 {
			continue // the kernel does not say that it has a device
		}
		raised, errUp := s.kernel.conn.RaiseDevice(ctx, p.name)
		if errUp != nil && !errors.Is(errUp, os.ErrNotExist) { // a port that is gone is looked at elsewhere
			err = errors.Join(err, errUp)
		}
		if raised {
			s.stats.repairs.Add(1)
			s.log.Warn("fastdp: a tunnel device is set up again, somebody set it down", "device", p.name)
		}
		if errUp == nil {
			s.keepSafe(p.udp)
		}
	}
	return err
}

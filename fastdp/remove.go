package fastdp

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/overweave/overweave/odp"
)

// TunnelPorts returns the UDP ports of the tunnels that a datapath has.
func TunnelPorts(ctx context.Context, conn *odp.Conn, dp odp.Index) (udp []uint16, err error) {
	err = eachTunnel(ctx, conn, dp, func(_ odp.Vport, port uint16) { udp = append(udp, port) })
	return udp, err
}

func eachTunnel(ctx context.Context, conn *odp.Conn, dp odp.Index, f func(v odp.Vport, udp uint16)) error {
	for v, err := range conn.Vports(ctx, dp) {
		if err != nil {
			return err
		}
		if r, udp := roleOf(v, "", false); r == roleTunnel {
			f(v, udp)
		}
	}
	return nil
}

// RemoveTunnels removes the tunnels of a datapath and then all its flows, so that nothing is sent to other peers any more. It
// is for a datapath on which no [Datapath] runs, before what protected its tunnels is taken away: flows outlive the program,
// and the next one adopts them, but what they sent encrypted must not go on in the clear.
func RemoveTunnels(ctx context.Context, conn *odp.Conn, dp odp.Index) error {
	var tunnels []odp.Vport
	if err := eachTunnel(ctx, conn, dp, func(v odp.Vport, _ uint16) { tunnels = append(tunnels, v) }); err != nil {
		return err
	}
	for _, v := range tunnels {
		if err := removeTunnel(ctx, conn, v); err != nil {
			return err
		}
	}
	return conn.FlushFlows(ctx, dp) // a port that is made later may get the number of one of these
}

func removeTunnel(ctx context.Context, conn *odp.Conn, v odp.Vport) error {
	err := conn.DeleteVport(ctx, v.Datapath, v.Number)
	if err == nil && v.Type == odp.Netdev {
		err = conn.DeleteDevice(ctx, v.Name)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// endTunnels removes tunnels that no link has had for the hold: those of peers with another port, in this run or a former
// one. The ports stay guarded.
func (s *session) endTunnels(ctx context.Context, now time.Time) error {
	wanted, unused, over := s.wantedTunnels(), map[uint16]time.Time{}, false
	for udp := range s.table.ports.Load().tunnels {
		if slices.Contains(wanted, udp) {
			continue
		}
		since, known := s.unused[udp]
		if !known {
			since = now
		}
		unused[udp], over = since, over || now.Sub(since) >= s.cfg.Hold
	}
	s.unused = unused
	if !over {
		return nil
	}
	s.portsMu.Lock()
	defer s.portsMu.Unlock()
	var ended []odp.Vport
	err := eachTunnel(ctx, s.kernel.conn, s.kernel.dp, func(v odp.Vport, udp uint16) {
		if since, known := unused[udp]; known && now.Sub(since) >= s.cfg.Hold {
			ended = append(ended, v)
		}
	})
	for _, v := range ended {
		err = errors.Join(err, removeTunnel(ctx, s.kernel.conn, v))
		s.log.Debug("fastdp: a tunnel that nobody used is removed", "device", v.Name)
	}
	return errors.Join(err, s.readPorts(ctx, s.kernel))
}

package fastdp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

const (
	busyTries = 5
	busyWait  = 10 * time.Millisecond
)

// ensurePorts makes the ports that are wanted and missing, as far as that is possible now, and looks at those that there are.
func (d *Datapath) ensurePorts(ctx context.Context, k *kernel) error {
	d.portsMu.Lock()
	defer d.portsMu.Unlock()
	have := map[string]bool{}
	for v, err := range k.conn.Vports(ctx, k.dp) {
		if err != nil {
			return err
		}
		have[v.Name] = true
	}
	var errs []error
	for _, udp := range d.wantedTunnels() {
		if !have[tunnelName(udp)] {
			errs = append(errs, d.addTunnel(ctx, k, udp))
		}
	}
	for _, name := range d.wantedDevices() {
		if !have[name] {
			errs = append(errs, d.addDevice(ctx, k, name))
		}
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			d.log.Warn("fastdp: port not added", "err", err)
			d.stats.portErrors.Add(1)
		}
	}
	return d.readPorts(ctx, k)
}

// addTunnel makes a tunnel port.
func (d *Datapath) addTunnel(ctx context.Context, k *kernel, udp uint16) (err error) {
	if p := d.cfg.Protector; p != nil {
		if err := p.Guard(udp); err != nil {
			return fmt.Errorf("guard tunnel port %d: %w", udp, err)
		}
	}
	spec := odp.VportSpec{Name: tunnelName(udp), Type: odp.VXLAN, DstPort: udp, UpcallPIDs: k.sockets.Load().of(roleTunnel)}
	for try := 0; ; try++ {
		_, err = k.conn.CreateVport(ctx, k.dp, spec)
		if !errors.Is(err, syscall.EADDRINUSE) || try == busyTries {
			break
		}
		select { // a port that was just deleted is given back later by some kernels
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(busyWait):
		}
	}
	if !errors.Is(err, odp.ErrNotSupported) {
		return err
	}
	if err := k.conn.CreateTunnelDevice(ctx, odp.TunnelDevice{Name: spec.Name, Kind: odp.VXLAN, Port: udp}); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	spec.Type = odp.Netdev
	_, err = k.conn.CreateVport(ctx, k.dp, spec)
	return err
}

// addDevice attaches a device.
func (d *Datapath) addDevice(ctx context.Context, k *kernel, name string) error {
	spec := odp.VportSpec{Name: name, Type: odp.Netdev, UpcallPIDs: k.sockets.Load().of(roleLocal)}
	if name == d.cfg.UserPort {
		spec.Number = userNumber
	}
	_, err := k.conn.CreateVport(ctx, k.dp, spec)
	return err
}

// readPorts looks at the ports that there are. The caller holds portsMu.
func (d *Datapath) readPorts(ctx context.Context, k *kernel) error {
	var ports []portInfo
	for v, err := range k.conn.Vports(ctx, k.dp) {
		if err != nil {
			return err
		}
		r, udp := roleOf(v, d.cfg.UserPort, d.cfg.HostPort)
		ports = append(ports, portInfo{number: v.Number, name: v.Name, role: r, udp: udp, ifindex: v.Ifindex})
		if pids := k.sockets.Load().of(r); !slices.Equal(v.UpcallPIDs, pids) {
			if _, err := k.conn.SetUpcallPIDs(ctx, k.dp, v.Number, pids...); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	now := newPortMap(ports)
	before := d.table.ports.Load()
	if now.equal(before) {
		return nil
	}
	d.table.ports.Store(now)
	d.forgetPorts(k, before.changed(now))
	return nil
}

// forgetPorts forgets what was known of ports that are gone, or are others by the same number now.
func (d *Datapath) forgetPorts(k *kernel, numbers []uint32) {
	d.table.stations.removeIf(func(_ overlay.MAC, e portEntry) bool { return slices.Contains(numbers, e.port) })
	d.forgetFlows(k, func(k flowKey) bool { return k.shape.matchesPort() && slices.Contains(numbers, k.port) })
	d.changed(overlay.Change{})
}

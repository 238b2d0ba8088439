package fastdp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/overweave/overweave/mesh/overlay"
)

// AddPort attaches a device, such as the host's end of a container's veth pair, as a port for stations of this host. While the
// datapath runs it returns when frames flow; before, the device is attached as soon as it runs. A device that is taken out by
// others, or comes back under its name, is attached again, until RemovePort. Frames that the device gives and takes are no longer
// than the MTU. errors.Is(err, os.ErrNotExist) if there is no such device, syscall.EBUSY if it belongs to a bridge.
func (d *Datapath) AddPort(ctx context.Context, device string) error {
	if device == "" || len(device) > 15 || device == d.cfg.Name {
		return fmt.Errorf("fastdp: add port: %q cannot be one", device)
	}
	d.want(device, true)
	k := d.kernel.Load()
	if k == nil {
		return nil
	}
	d.portsMu.Lock()
	defer d.portsMu.Unlock()
	v, err := k.conn.Vport(ctx, device)
	if errors.Is(err, os.ErrNotExist) {
		err = d.addDevice(ctx, k, device)
	} else if err == nil && v.Datapath != k.dp {
		err = fmt.Errorf("add port %s: it belongs to another datapath", device)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		d.want(device, false)
		return err
	}
	return d.readPorts(ctx, k)
}

// RemovePort takes a device out of the datapath. Removing one that is not there is not an error.
func (d *Datapath) RemovePort(ctx context.Context, device string) error {
	d.want(device, false)
	k := d.kernel.Load()
	if k == nil {
		return nil
	}
	d.portsMu.Lock()
	defer d.portsMu.Unlock()
	v, err := k.conn.Vport(ctx, device)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case v.Datapath != k.dp:
		return nil
	}
	if err := k.conn.DeleteVport(ctx, k.dp, v.Number); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return d.readPorts(ctx, k)
}

func (d *Datapath) want(device string, yes bool) {
	d.wantMu.Lock()
	defer d.wantMu.Unlock()
	if yes {
		d.wanted[device] = true
	} else {
		delete(d.wanted, device)
	}
}

// wantTunnel has a tunnel port made for a link.
func (d *Datapath) wantTunnel(udp uint16) {
	d.wantMu.Lock()
	d.udp[udp]++
	first := d.udp[udp] == 1
	d.wantMu.Unlock()
	if first {
		d.touch()
	}
}

// leaveTunnel says that a link does not need its tunnel port any more.
func (d *Datapath) leaveTunnel(udp uint16) {
	d.wantMu.Lock()
	defer d.wantMu.Unlock()
	d.udp[udp]--
	if d.udp[udp] <= 0 {
		delete(d.udp, udp)
	}
}

func (d *Datapath) wantedDevices() []string {
	d.wantMu.Lock()
	defer d.wantMu.Unlock()
	names := slices.Collect(maps.Keys(d.wanted))
	if d.cfg.UserPort != "" {
		names = append(names, d.cfg.UserPort)
	}
	slices.Sort(names)
	return names
}

func (d *Datapath) wantedTunnels() []uint16 {
	d.wantMu.Lock()
	defer d.wantMu.Unlock()
	return slices.Sorted(maps.Keys(d.udp))
}

// forgetFlows removes flows from the kernel. Errors are left to the next sweep.
func (d *Datapath) forgetFlows(k *kernel, which func(flowKey) bool) {
	w := newWork(d, k.conn, k.dp)
	for _, key := range d.index.keys(overlay.MAC{}, true) {
		if which(key) {
			w.remove(key)
		}
	}
	if err := w.run(context.Background()); err != nil {
		d.log.Warn("fastdp: flows not removed", "err", err)
	}
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

// datapathTimeout bounds what is asked of the kernel at the start and at the end.
const datapathTimeout = 5 * time.Second

// buildDatapath makes the part that runs the kernel's datapath, with ESP below it if there is a password and the kernel can.
func (d *daemon) buildDatapath(f *overlay.Forwarder) (err error) {
	b := d.bridge
	if b.datapath == "" {
		return nil
	}
	c := fastdp.Config{
		Self: d.cfg.Name, Forwarder: f, Name: b.datapath, Port: d.cfg.tunnelPort(), MTU: b.mtu, UserPort: tapName,
		HostPort: b.mode == ModeDirect, Log: d.log,
	}
	if err := d.buildProtector(); err != nil {
		return err
	}
	if d.protector != nil {
		c.Protector = d.protector
	}
	if d.datapath, err = fastdp.New(c); err != nil {
		return err
	}
	if b.mode == ModeBridged {
		return d.datapath.AddPort(context.Background(), dpOuterName) // it does not run yet, so this waits for nothing
	}
	return nil
}

// buildProtector makes what encrypts tunnels. Where the kernel has no ESP, encrypted links are left to user space. Without a
// password nothing must be left of a run that had one.
func (d *daemon) buildProtector() error {
	if len(d.cfg.Password) == 0 {
		return endEncryption(d.bridge.datapath, d.cfg.tunnelPort())
	}
	kernel, err := ipsec.OpenKernel()
	if err == nil {
		d.xfrm = kernel
		err = ipsec.Probe()
	}
	if err != nil {
		d.log.Warn("tunnels of the kernel's datapath cannot be encrypted, links use sleeve", "err", err)
		if d.xfrm == nil {
			return nil
		}
		return endEncryption(d.bridge.datapath, d.cfg.tunnelPort()) // it would stop what is sent to trusted hosts in the clear
	}
	d.protector, err = ipsec.New(ipsec.Config{Kernel: kernel, Log: d.log})
	return err
}

// tunnelPort is the UDP port of tunnels.
func (c Config) tunnelPort() uint16 { return c.Port + 1 }

// endEncryption removes what a run with a password has left, which would let nothing through in the clear. What that run sent
// by its tunnels must not go on in the clear either: if there is anything to remove, the tunnels go first, and the flows that
// lead to them.
func endEncryption(datapath string, tunnelPort uint16) error {
	left, err := encryptedPorts()
	if err != nil || len(left) == 0 {
		return err
	}
	ports := []uint16{tunnelPort}
	err = withDatapaths(func(ctx context.Context, conn *odp.Conn) error {
		for dp, err := range conn.Datapaths(ctx) {
			if err != nil {
				return err
			}
			udp, err := fastdp.TunnelPorts(ctx, conn, dp.Index)
			if err != nil {
				return err
			}
			if dp.Name != datapath && !slices.Contains(udp, tunnelPort) {
				continue // of another daemon
			}
			ports = append(ports, udp...)
			if slices.ContainsFunc(udp, func(port uint16) bool { return slices.Contains(left, port) }) {
				if err := fastdp.RemoveTunnels(ctx, conn, dp.Index); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tunnels of a run with a password: %w", err)
	}
	return resetPorts(ports)
}

// encryptedPorts returns the tunnel ports for which something that encrypts is in the kernel.
func encryptedPorts() ([]uint16, error) {
	kernel, err := ipsec.OpenKernel()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("encryption of a former run: %w", err)
	}
	ports, err := ipsec.Ports(kernel)
	return ports, errors.Join(err, kernel.Close())
}

// resetPorts removes from the kernel what encrypts tunnels that are gone.
func resetPorts(udp []uint16) error {
	var errs []error
	for _, port := range udp {
		errs = append(errs, resetEncryption(port))
	}
	return errors.Join(errs...)
}

// closeBridge leaves the bridge. What encrypts tunnels goes when they are gone, else it stays in force for the next daemon.
func (d *daemon) closeBridge() error {
	errs := []error{d.bridge.Close()}
	if d.protector != nil && d.bridge.gone {
		for _, port := range d.protector.Status().Ports { // also of tunnels to peers with another port
			errs = append(errs, d.protector.Release(port))
		}
	}
	if d.xfrm != nil {
		errs = append(errs, d.xfrm.Close())
	}
	return errors.Join(errs...)
}

// joinDatapath makes the host's end of a container's interface a port of the datapath.
func (d *daemon) joinDatapath(device string) error {
	ctx, cancel := context.WithTimeout(context.Background(), datapathTimeout)
	defer cancel()
	return d.datapath.AddPort(ctx, device)
}

// withDatapaths calls f with a connection to the kernel's datapaths.
func withDatapaths(f func(context.Context, *odp.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), datapathTimeout)
	defer cancel()
	conn, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, conn), conn.Close())
}

// ensureDatapath makes a datapath, or finds it.
func ensureDatapath(name string) error {
	return withDatapaths(func(ctx context.Context, conn *odp.Conn) error {
		_, err := conn.Datapath(ctx, name)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err = conn.CreateDatapath(ctx, odp.DatapathSpec{Name: name}); err != nil {
			return fmt.Errorf("datapath %s: %w", name, err)
		}
		return nil
	})
}

// removeDatapath removes a datapath and its tunnels, and then what encrypted these.
func removeDatapath(name string) error {
	return withDatapaths(func(ctx context.Context, conn *odp.Conn) error {
		dp, err := conn.Datapath(ctx, name)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		tunnels, err := fastdp.TunnelPorts(ctx, conn, dp.Index)
		if err == nil {
			err = fastdp.RemoveTunnels(ctx, conn, dp.Index)
		}
		if err == nil {
			err = conn.DeleteDatapath(ctx, dp.Index)
		}
		if err != nil {
			return err
		}
		return resetPorts(tunnels)
	})
}

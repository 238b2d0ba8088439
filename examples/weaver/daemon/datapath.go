package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// buildProtector makes what encrypts tunnels. Where the kernel has no ESP, encrypted links are left to user space. Without a password
// nothing must be left of a run that had one, which would let nothing through in the clear.
func (d *daemon) buildProtector() error {
	if len(d.cfg.Password) == 0 {
		return resetEncryption(d.cfg.tunnelPort())
	}
	kernel, err := ipsec.OpenKernel()
	if err == nil {
		d.xfrm = kernel
		err = ipsec.Probe()
	}
	if err != nil {
		d.log.Warn("tunnels of the kernel's datapath cannot be encrypted, links use sleeve", "error", err)
		return nil
	}
	d.protector, err = ipsec.New(ipsec.Config{Kernel: kernel, Log: d.log})
	return err
}

// tunnelPort is the UDP port of tunnels.
func (c Config) tunnelPort() uint16 { return c.Port + 1 }

// closeBridge leaves the bridge. What encrypts tunnels goes when they are gone, else it stays in force for the next daemon.
func (d *daemon) closeBridge() error {
	errs := []error{d.bridge.Close()}
	if d.protector != nil && d.bridge.gone {
		errs = append(errs, d.protector.Release(d.cfg.tunnelPort()))
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
func ensureDatapath(name string) (made bool, err error) {
	err = withDatapaths(func(ctx context.Context, conn *odp.Conn) error {
		_, err := conn.Datapath(ctx, name)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err = conn.CreateDatapath(ctx, odp.DatapathSpec{Name: name}); err != nil {
			return fmt.Errorf("datapath %s: %w", name, err)
		}
		made = true
		return nil
	})
	return made, err
}

func removeDatapath(name string) error {
	return withDatapaths(func(ctx context.Context, conn *odp.Conn) error {
		dp, err := conn.Datapath(ctx, name)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return conn.DeleteDatapath(ctx, dp.Index)
	})
}

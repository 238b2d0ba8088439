package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/odp"
)

// Reset removes what daemons have left on this host: the interfaces of containers, the bridge and its firewall rules, datapaths
// with their tunnels, and last what encrypted these. Only Bridge, Port, HTTPAddr and DBPrefix of the config count. The files
// stay: they say which addresses are ours, and the containers that had them may come back. It refuses while a daemon runs that
// has the files, the control socket, or the port.
func Reset(c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	st, err := openState(c)
	if err != nil {
		return err
	}
	if err = noDaemon(c); err == nil {
		err = reset(c, st)
	}
	if err != nil {
		return errors.Join(err, st.Close())
	}
	return errors.Join(resetEncryption(c.tunnelPort()), st.Close())
}

// noDaemon fails if there are signs of a running daemon, which may have its files elsewhere.
func noDaemon(c Config) error {
	if c.HTTPAddr != "" {
		network := "tcp"
		if filepath.IsAbs(c.HTTPAddr) {
			network = "unix"
		}
		if conn, err := net.DialTimeout(network, c.HTTPAddr, time.Second); err == nil {
			return errors.Join(fmt.Errorf("a daemon runs: it answers at %s; stop it first", c.HTTPAddr), conn.Close())
		}
	}
	socket, err := net.ListenPacket("udp", fmt.Sprintf(":%d", c.Port))
	if err != nil {
		return fmt.Errorf("a daemon seems to run, since its port is taken; stop it first: %w", err)
	}
	return socket.Close()
}

// reset removes devices and firewall rules. Tunnels that stay, as it failed, have to stay encrypted.
func reset(c Config, st *state) error {
	attached, err := st.attachments()
	errs := []error{err}
	for _, a := range attached {
		errs = append(errs, device.RemovePair(a.Port), st.remove(a.ID))
	}
	if err := withDatapaths(func(context.Context, *odp.Conn) error { return nil }); err == nil {
		errs = append(errs, removeDatapath(c.Bridge), removeDatapath(datapathName))
	}
	errs = append(errs, device.RemovePair(innerName), device.RemoveBridge(c.Bridge), device.RemoveFirewall(c.Bridge), st.setWiring(wiring{}))
	return errors.Join(errs...)
}

// resetEncryption removes what a daemon with a password has put into the kernel, which lets nothing through in the clear.
func resetEncryption(tunnelPort uint16) error {
	kernel, err := ipsec.OpenKernel()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("encryption of a former run: %w", err)
	}
	return errors.Join(ipsec.Reset(kernel, tunnelPort), kernel.Close())
}

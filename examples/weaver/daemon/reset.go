package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/odp"
)

// Reset removes what daemons have left on this host: the interfaces of containers, the bridge, datapaths with their tunnels, and
// last what encrypted these. Only Bridge, Port and DBPrefix of the config count. The files stay: they say which addresses are ours,
// and the containers that had them may come back. It refuses while a daemon uses the files.
func Reset(c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	st, err := openState(c)
	if err != nil {
		return err
	}
	attached, err := st.attachments()
	errs := []error{err}
	for _, a := range attached {
		errs = append(errs, device.RemovePair(hostName(a.ID)), st.remove(a.ID))
	}
	if err := withDatapaths(func(context.Context, *odp.Conn) error { return nil }); err == nil {
		errs = append(errs, removeDatapath(c.Bridge), removeDatapath(datapathName))
	}
	errs = append(errs, device.RemovePair(innerName), device.RemoveBridge(c.Bridge))
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, st.Close()) // tunnels that are still there stay encrypted
	}
	return errors.Join(resetEncryption(c.tunnelPort()), st.Close())
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

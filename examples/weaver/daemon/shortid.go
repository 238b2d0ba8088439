package daemon

import (
	"context"

	"github.com/overweave/overweave/mesh/overlay"
)

// keepShortID remembers the short id that the mesh gives this peer, so that the next run has the same one: the flows that
// this host and others have in their kernels name it.
func (d *daemon) keepShortID(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	stop := d.sw.Forwarder().Watch(func(overlay.Change) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	for {
		if id, ok := d.sw.Forwarder().Routes().ShortID(d.cfg.Name); ok {
			if err := d.state.setShortID(id); err != nil {
				d.log.Warn("remembering the short id", "err", err)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/overweave/overweave/mesh"
)

const (
	// startupWindow is how long after its start a daemon gives up on what its peers say of it. Later it goes on: what is
	// wrong then may be wrong with the others.
	startupWindow   = 10 * time.Second
	startupInterval = 100 * time.Millisecond
)

// checkStart watches the first connections. If all peers have our name, or other passwords, that will not get better by trying
// again: whoever started this daemon wants to know, rather than find it in a log. But who has containers to serve goes on.
func (d *daemon) checkStart(ctx context.Context) error {
	tick := time.NewTicker(startupInterval)
	defer tick.Stop()
	end := time.NewTimer(startupWindow)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-end.C:
			return nil
		case <-tick.C:
		}
		st := d.router.Status()
		if len(st.Connections) > 0 || len(d.attach.List()) > 0 {
			return nil
		}
		if err := hopeless(st.Targets); err != nil {
			return err
		}
	}
}

// hopeless returns why there is no use in going on: the error of a target, if each of them says that our name is taken or our
// password is wrong. Those that are ourselves do not count.
func hopeless(targets []mesh.TargetStatus) (why error) {
	for _, t := range targets {
		switch {
		case errors.Is(t.Err, mesh.ErrNameTaken), errors.Is(t.Err, mesh.ErrPassword):
			if why == nil {
				why = t.Err
			}
		case t.State == "never": // ourselves
		default:
			return nil
		}
	}
	return why
}

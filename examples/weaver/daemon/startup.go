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

// checkStart watches the first connections. A peer that has our name, or passwords that do not match, will not get better by
// trying again: whoever started this daemon wants to know, rather than find it in a log.
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
		if len(st.Connections) > 0 {
			return nil
		}
		if err := hopeless(st.Targets); err != nil {
			return err
		}
	}
}

// hopeless returns why there is no use in going on: the error of a target that says that our name is taken; or, if all
// targets have failed, of one that has another password.
func hopeless(targets []mesh.TargetStatus) error {
	var password error
	failed := 0
	for _, t := range targets {
		if errors.Is(t.Err, mesh.ErrNameTaken) {
			return t.Err
		}
		if t.Err != nil {
			failed++
		}
		if errors.Is(t.Err, mesh.ErrPassword) {
			password = t.Err
		}
	}
	if failed == len(targets) {
		return password
	}
	return nil
}

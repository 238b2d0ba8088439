package daemon

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
)

// lookInterval is how long it takes at least until the host is looked at again because of something that failed.
const lookInterval = time.Second

// verdict is what is to be done about attachments. Each is in one of the lists, or was lost earlier and has time left.
type verdict struct {
	alive []api.Attachment     // their interface is there
	lost  []api.Attachment     // it was there when last looked: they have no names any more
	over  []api.Attachment     // it has been gone for all of the grace: nothing of them is to stay
	since map[string]time.Time // when the loss of those that are not alive was seen, by ID
	next  time.Time            // when the grace of another one ends; zero if there is none
	grace time.Duration        // how long addresses stay with a container that is gone
}

// reconcile compares the attachments that are known with the veth devices that the host has, going on from the last
// verdict. What else there is stays: devices that no attachment has, and addresses whose owner is unknown, may be those of a
// daemon of Weave Net that this host changed over from.
func reconcile(known []api.Attachment, links map[string]bool, last verdict, now time.Time) verdict {
	v := verdict{grace: last.grace, since: map[string]time.Time{}}
	for _, att := range known {
		if links[att.Port] {
			v.alive = append(v.alive, att)
			continue
		}
		lost, before := last.since[att.ID]
		if !before {
			lost = now
			v.lost = append(v.lost, att)
		}
		v.since[att.ID] = lost
		end := lost.Add(v.grace)
		switch {
		case !end.After(now):
			v.over = append(v.over, att)
		case v.next.IsZero() || end.Before(v.next):
			v.next = end
		}
	}
	return v
}

// Run gives the host its address, and keeps what is attached in step with what is there. It returns when ctx ends.
func (a *attacher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if a.d.cfg.Expose {
		g.Go(func() error { a.keepExposed(ctx); return nil })
	}
	g.Go(func() error { a.watch(ctx); return nil })
	g.Go(func() error { a.keepReconciled(ctx); return nil })
	return g.Wait()
}

// watch has the host looked at whenever an interface has gone, and whenever that may have been missed.
func (a *attacher) watch(ctx context.Context) {
	look := func() {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	for ctx.Err() == nil {
		err := device.WatchRemovals(ctx, look)
		if err == nil {
			return
		}
		a.d.log.Warn("watching interface removals failed, polling", "err", err)
		select {
		case <-time.After(lookInterval):
		case <-ctx.Done():
		}
	}
}

// keepReconciled acts on verdicts. With the first one it does what was done for attachments before the restart and is not in
// the kernel nor on disk.
func (a *attacher) keepReconciled(ctx context.Context) {
	v := verdict{grace: a.d.cfg.Grace}
	act := a.revive
	for {
		if links, err := device.Veths(); err == nil {
			v = reconcile(a.List(), links, v, time.Now())
			act(v.alive)
			act = func([]api.Attachment) {}
		} else {
			a.d.log.Warn("listing the interfaces of containers failed, retrying", "err", err)
			v.lost, v.over, v.next = nil, nil, time.Now()
		}
		again := a.bury(ctx, v)
		var timer <-chan time.Time
		if again || !v.next.IsZero() {
			timer = time.After(max(time.Until(v.next), lookInterval))
		}
		select {
		case <-timer:
		case <-a.wake:
		case <-ctx.Done():
			return
		}
	}
}

// revive registers the names of attachments, since names live in memory, and makes sure of their ports.
func (a *attacher) revive(alive []api.Attachment) {
	for _, att := range alive {
		a.withLock(att, func() {
			if err := a.register(att); err != nil {
				a.d.log.Warn("name not registered again after restart", "attachment", att.ID, "err", err)
			}
			if a.d.bridge.mode != ModeDirect {
				return
			}
			if err := a.d.joinDatapath(att.Port); err != nil {
				a.d.log.Warn("port not rejoined to the datapath after restart", "attachment", att.ID, "err", err)
			}
		})
	}
}

// bury withdraws the names of those that are lost, and ends those whose time is over. It reports whether there is some left
// to do. Attachments that a request is working on are its business; they are looked at again.
func (a *attacher) bury(ctx context.Context, v verdict) (again bool) {
	for _, att := range v.lost {
		done := a.withLock(att, func() {
			a.unregister(att.ID)
			a.d.log.Warn("the interface of a container is gone: it has no names any more, and its addresses for a while",
				"attachment", att.ID, "port", att.Port, "names", att.Names, "addresses", att.Addresses, "grace", a.d.cfg.Grace)
		})
		if !done {
			delete(v.since, att.ID)
			again = true
		}
	}
	for _, att := range v.over {
		done := a.withLock(att, func() {
			if there, err := linkThere(att.Port); there || err != nil {
				again = true // attached again in the meantime
				return
			}
			if err := a.end(ctx, att); err != nil {
				again = true
				a.d.log.Warn("tidying up after a container failed, retrying", "attachment", att.ID, "err", err)
				return
			}
			a.d.log.Info("nothing of a dead container is left", "attachment", att.ID, "addresses", att.Addresses)
		})
		again = again || !done
	}
	return again
}

// withLock calls f if no request works on the attachment, and it is still as it was.
func (a *attacher) withLock(att api.Attachment, f func()) (done bool) {
	unlock, _ := a.tryLock("id " + att.ID)
	if unlock == nil {
		return false
	}
	defer unlock()
	if now, known := a.get(att.ID); known && now.Port == att.Port {
		f()
	}
	return true
}

// linkThere reports whether there is a veth device of a name; it is true with an error, since nobody knows then.
func linkThere(port string) (bool, error) {
	links, err := device.Veths()
	return err != nil || links[port], err
}

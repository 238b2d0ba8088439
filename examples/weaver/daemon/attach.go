package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/ipam"
)

// attacher gives namespaces their interfaces, addresses and names, and takes them away again. Requests are served one at a
// time for each namespace and for each attachment. It is safe for concurrent use.
//
// An attachment is remembered before anything is done for it, and forgotten when all of it is undone. So whatever a daemon
// that was killed has left belongs to an attachment, and one whose interface is missing is tidied up: see reconcile.
type attacher struct {
	d    *daemon
	wake chan struct{} // something of the host has changed

	mu       sync.Mutex // guards what is below; not held while anything waits
	attached map[string]api.Attachment
	busy     map[string]chan struct{} // by namespace and by ID; closed when the request that is served ends
	host     []netip.Prefix           // the host's own addresses
	trouble  error                    // why it has none
}

// newAttacher remembers what was attached before the daemon started.
func newAttacher(d *daemon) (*attacher, error) {
	a := &attacher{d: d, wake: make(chan struct{}, 1), attached: map[string]api.Attachment{}, busy: map[string]chan struct{}{}}
	known, err := d.state.attachments()
	for _, att := range known {
		a.attached[att.ID] = att
	}
	return a, err
}

// List returns all attachments in order of their IDs.
func (a *attacher) List() []api.Attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.attached), func(x, y api.Attachment) int { return strings.Compare(x.ID, y.ID) })
}

// Attach gives a namespace an interface. Addresses come first, since they may take long; then the names, then the interface.
// If a step fails, what this request has done is undone, and what others have done stays.
func (a *attacher) Attach(ctx context.Context, r api.AttachRequest) (att api.Attachment, err error) {
	if r.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Wait)
		defer cancel()
	}
	r.Interface = cmp.Or(r.Interface, device.DefaultInterface)
	ns, unlock, err := a.lockNamespace(ctx, r.NetNS, r.Interface)
	if err != nil {
		return att, err
	}
	defer unlock()
	id, err := a.identify(ns, r.ID)
	if err != nil {
		return att, err
	}
	unlockID, err := a.lock(ctx, "id "+id)
	if err != nil {
		return att, err
	}
	defer unlockID()
	before, known := a.get(id)
	if known && before.Port != ns.port {
		if before, known, err = a.inherit(ctx, before, r); err != nil {
			return att, err
		}
	}
	att = api.Attachment{
		ID: id, NetNS: ns.path, Interface: r.Interface, Port: cmp.Or(ns.port, hostName(id)),
		Addresses: before.Addresses, Names: before.Names, Gateway: before.Gateway,
	}
	if other, taken := a.ofPort(att.Port); taken && other != id {
		return att, fmt.Errorf("the interface of %s would be called as that of %s is: choose another name with --id", id, other)
	}
	var undo rollback
	if err := a.attach(ctx, &att, r, &undo); err != nil {
		undone := undo.run(ctx)
		if undone == nil {
			undone = a.restore(id, before, known)
		}
		return att, errors.Join(err, undone)
	}
	a.d.log.Info("attached", "attachment", id, "addresses", att.Addresses, "names", att.Names)
	return att, nil
}

// attach does the steps of Attach, and says how to undo them.
func (a *attacher) attach(ctx context.Context, att *api.Attachment, r api.AttachRequest, undo *rollback) error {
	before := *att
	if err := a.put(before); err != nil {
		return err
	}
	held := a.holds(att.ID)
	undo.add(func(ctx context.Context) error { return a.freeBut(ctx, att.ID, held) })
	addrs, err := a.addresses(ctx, att.ID, r)
	if err != nil {
		return err
	}
	if r.DefaultRoute {
		if att.Gateway, err = a.gateway(ctx, addrs); err != nil {
			return err
		}
	}
	att.Addresses = mergeSorted(before.Addresses, addrs, netip.Prefix.Compare)
	att.Names = mergeSorted(before.Names, r.Names, strings.Compare)
	undo.add(func(context.Context) error {
		a.unregister(att.ID)
		return a.register(before)
	})
	if err := a.register(*att); err != nil {
		return err
	}
	if err := a.put(*att); err != nil {
		return err
	}
	att.MAC, err = a.wire(ctx, *att, r.NoMulticastRoute, undo)
	return err
}

// wire makes the interface, or gives it what it lacks, and returns its MAC address. It is the last step, and undoes itself if
// it fails.
func (a *attacher) wire(ctx context.Context, att api.Attachment, noMulticast bool, undo *rollback) (string, error) {
	to := device.Attachment{
		Bridge: a.d.cfg.Bridge, NetNS: att.NetNS, HostName: att.Port, Interface: att.Interface,
		MTU: a.d.cfg.MTU, Addresses: att.Addresses, Gateway: att.Gateway, NoMulticastRoute: noMulticast,
	}
	if a.d.bridge.mode == ModeDirect {
		to.Join = func(port string) error {
			undo.add(func(ctx context.Context) error { return a.d.datapath.RemovePort(ctx, port) })
			return a.d.joinDatapath(port)
		}
	}
	done, err := device.Attach(ctx, to)
	return done.MAC.String(), err
}

// inherit is for a container that comes back under its ID, in a new namespace: it keeps its addresses, unless it asks for
// some. Names are those of the new one alone. It waits a moment for the kernel to tidy up the old namespace.
func (a *attacher) inherit(ctx context.Context, old api.Attachment, r api.AttachRequest) (api.Attachment, bool, error) {
	if err := a.awaitEnd(ctx, old); err != nil {
		return old, true, err
	}
	if len(r.Addresses) > 0 {
		return api.Attachment{}, false, a.end(ctx, old)
	}
	a.unregister(old.ID)
	old.Names, old.Gateway = nil, netip.Addr{}
	return old, true, nil
}

const (
	tidyTime = 2 * time.Second // how long the kernel may take to remove the interfaces of a namespace
	tidyPoll = 20 * time.Millisecond
)

func (a *attacher) awaitEnd(ctx context.Context, old api.Attachment) error {
	tick := time.NewTicker(tidyPoll)
	defer tick.Stop()
	late := time.NewTimer(tidyTime)
	defer late.Stop()
	for {
		if there, err := linkThere(old.Port); !there {
			return err
		}
		select {
		case <-tick.C:
		case <-late.C:
			return fmt.Errorf("%s is attached already, as %s in %s: detach it first", old.ID, old.Interface, old.NetNS)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// addresses returns what the namespace is to have: what was asked for, claimed, or what the allocator gives.
func (a *attacher) addresses(ctx context.Context, id string, r api.AttachRequest) ([]netip.Prefix, error) {
	if len(r.Addresses) == 0 {
		if a.d.ipam == nil {
			return nil, fmt.Errorf("%w: no address was asked for, and it runs without --ipalloc-range", errUnfit)
		}
		addr, err := a.d.ipam.Allocate(ctx, id, r.Subnet)
		if err != nil {
			return nil, err
		}
		return []netip.Prefix{addr}, nil
	}
	for _, addr := range r.Addresses {
		if a.d.ipam == nil {
			break
		}
		if err := a.d.ipam.Claim(ctx, id, addr); err != nil {
			return nil, err
		}
	}
	return r.Addresses, nil
}

// holds lists the addresses that the allocator has on record for an attachment.
func (a *attacher) holds(id string) []netip.Prefix {
	if a.d.ipam == nil {
		return nil
	}
	for _, o := range a.d.ipam.Owners() {
		if o.Owner == id {
			return o.Addrs
		}
	}
	return nil
}

// freeBut frees what an attachment has, but for what it is to keep.
func (a *attacher) freeBut(ctx context.Context, id string, keep []netip.Prefix) error {
	var errs []error
	for _, addr := range a.holds(id) {
		if !slices.Contains(keep, addr) {
			errs = append(errs, a.d.ipam.Free(ctx, id, addr.Addr()))
		}
	}
	return errors.Join(errs...)
}

// Detach takes an attachment away, or what else the allocator gave in its name.
func (a *attacher) Detach(ctx context.Context, r api.DetachRequest) error {
	id := r.ID
	if id == "" {
		var err error
		if id, err = a.find(r.NetNS); err != nil {
			return err
		}
	}
	if err := checkID(id); err != nil {
		return err
	}
	unlock, err := a.lock(ctx, "id "+id)
	if err != nil {
		return err
	}
	defer unlock()
	att, known := a.get(id)
	if !known && len(a.holds(id)) == 0 {
		return fmt.Errorf("%s is %w", id, api.ErrNotAttached)
	}
	att.ID = id
	if err := a.end(context.WithoutCancel(ctx), att); err != nil {
		return err
	}
	a.d.log.Info("detached", "attachment", id)
	return nil
}

// end takes away all of an attachment that there is, and then forgets it. The host's end of the interface is removed, and the
// other end with it, so that it does not matter what has become of the namespace.
func (a *attacher) end(ctx context.Context, att api.Attachment) error {
	a.unregister(att.ID)
	var errs []error
	if att.Port != "" {
		if a.d.bridge.mode == ModeDirect {
			errs = append(errs, a.d.datapath.RemovePort(ctx, att.Port))
		}
		errs = append(errs, device.RemovePair(att.Port))
	}
	if a.d.ipam != nil {
		if err := a.d.ipam.FreeAll(ctx, att.ID); !errors.Is(err, ipam.ErrNotOwned) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return a.restore(att.ID, api.Attachment{}, false)
}

// mergeSorted returns the union of two lists, sorted, each element once.
func mergeSorted[T comparable](x, y []T, compare func(a, b T) int) []T {
	all := slices.Concat(x, y)
	slices.SortFunc(all, compare)
	return slices.Compact(all)
}

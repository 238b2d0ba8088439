package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/ipam"
)

// exposeOwner owns the host's own addresses on the overlay.
const exposeOwner = "weave:expose"

// attacher gives namespaces their interfaces, addresses and names, and takes them away again. Requests are served one at a
// time for each attachment. It is safe for concurrent use.
type attacher struct {
	d *daemon

	mu       sync.Mutex // guards what is below; not held while anything waits
	attached map[string]api.Attachment
	busy     map[string]chan struct{} // by ID; closed when the request that is served ends
	host     []netip.Prefix           // the host's own addresses
}

// newAttacher remembers what was attached before the daemon started.
func newAttacher(d *daemon) (*attacher, error) {
	a := &attacher{d: d, attached: map[string]api.Attachment{}, busy: map[string]chan struct{}{}}
	known, err := d.state.attachments()
	for _, att := range known {
		a.attached[att.ID] = att
	}
	return a, err
}

// inUse lists the addresses that containers of an earlier run have, and those of the host, so that nobody else is given them
// should the allocator's file be lost.
func (d *daemon) inUse() (list []ipam.Holding, err error) {
	known, err := d.state.attachments()
	if err != nil {
		return nil, err
	}
	for _, att := range known {
		for _, addr := range att.Addresses {
			list = append(list, ipam.Holding{Owner: att.ID, Addr: addr})
		}
	}
	if !d.cfg.Expose {
		return list, nil
	}
	own, err := device.Addresses(d.cfg.Bridge)
	for _, addr := range own {
		if d.cfg.Range.Contains(addr.Addr()) {
			list = append(list, ipam.Holding{Owner: exposeOwner, Addr: addr})
		}
	}
	return list, err
}

// Run registers the names of what was attached before, since names live in memory, and gives the host its address. It
// returns when ctx ends.
func (a *attacher) Run(ctx context.Context) error {
	for _, att := range a.List() {
		if err := a.register(att); err != nil {
			a.d.log.Warn("a name from before the restart", "attachment", att.ID, "error", err)
		}
		if a.d.bridge.mode != ModeDirect {
			continue
		}
		if err := a.d.joinDatapath(hostName(att.ID)); err != nil {
			a.d.log.Warn("an interface from before the restart", "attachment", att.ID, "error", err)
		}
	}
	if a.d.cfg.Expose {
		if err := a.expose(ctx); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// expose puts an address of the overlay on the host's bridge. It waits until there is one.
func (a *attacher) expose(ctx context.Context) error {
	addr, err := a.d.ipam.Allocate(ctx, exposeOwner, netip.Prefix{})
	if err != nil {
		return fmt.Errorf("an address for the host: %w", err)
	}
	if _, err := device.AddAddress(a.d.cfg.Bridge, addr); err != nil {
		return err
	}
	a.mu.Lock()
	a.host = []netip.Prefix{addr}
	a.mu.Unlock()
	a.d.log.Info("host is on the overlay", "address", addr)
	return nil
}

// hide takes the host's addresses away.
func (a *attacher) hide() error {
	a.mu.Lock()
	addrs := a.host
	a.host = nil
	a.mu.Unlock()
	var errs []error
	for _, addr := range addrs {
		errs = append(errs, device.RemoveAddress(a.d.cfg.Bridge, addr))
	}
	return errors.Join(errs...)
}

func (a *attacher) exposed() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.host)
}

// List returns all attachments in order of their IDs.
func (a *attacher) List() []api.Attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.attached), func(x, y api.Attachment) int { return strings.Compare(x.ID, y.ID) })
}

// lock waits for its turn to work on an attachment.
func (a *attacher) lock(ctx context.Context, id string) (unlock func(), err error) {
	for {
		a.mu.Lock()
		before, taken := a.busy[id]
		if !taken {
			done := make(chan struct{})
			a.busy[id] = done
			a.mu.Unlock()
			return func() {
				a.mu.Lock()
				delete(a.busy, id)
				a.mu.Unlock()
				close(done)
			}, nil
		}
		a.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Attach gives a namespace an interface. Addresses come first, since they may take long; then the interface, then the
// names. If a step fails, what the request has done is undone; what an earlier request for this attachment has done stays.
func (a *attacher) Attach(ctx context.Context, r api.AttachRequest) (att api.Attachment, err error) {
	path, id, err := identify(r.NetNS, r.ID)
	if err != nil {
		return att, err
	}
	unlock, err := a.lock(ctx, id)
	if err != nil {
		return att, err
	}
	defer unlock()
	before, again := a.get(id)
	att = api.Attachment{ID: id, NetNS: path, Interface: device.DefaultInterface, Addresses: before.Addresses,
		Names: mergeSorted(before.Names, r.Names, strings.Compare)}
	defer func() {
		if err != nil && !again {
			err = errors.Join(err, a.undo(ctx, att))
		}
	}()
	addrs, err := a.addresses(ctx, id, r.Addresses)
	att.Addresses = mergeSorted(before.Addresses, addrs, netip.Prefix.Compare)
	if err != nil {
		return att, err
	}
	if err := a.wire(ctx, att); err != nil {
		return att, err
	}
	a.mu.Lock()
	a.attached[id] = att
	a.mu.Unlock()
	a.d.log.Info("attached", "id", id, "addresses", att.Addresses, "names", att.Names)
	return att, nil
}

func (a *attacher) get(id string) (att api.Attachment, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	att, ok = a.attached[id]
	return att, ok
}

// identify returns the path of a namespace, and what to call its attachment if id does not say: its name if it has one,
// else its number, which is that of no other namespace of this host.
func identify(ref, id string) (path, _ string, err error) {
	if path, err = device.ResolveNetNS(ref); err != nil || id != "" {
		return path, id, err
	}
	if filepath.Base(path) == ref {
		return path, ref, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	return path, fmt.Sprintf("netns-%d", st.Ino), nil
}

// hostName is the name of the host's end of an attachment's veth pair. IDs are longer than what fits, hence the hash.
func hostName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return device.HostName(hex.EncodeToString(sum[:]))
}

// addresses returns what the namespace is to have: what was asked for, claimed, or what the allocator gives.
func (a *attacher) addresses(ctx context.Context, id string, asked []netip.Prefix) ([]netip.Prefix, error) {
	if len(asked) == 0 {
		if a.d.ipam == nil {
			return nil, errors.New("no address was asked for, and the daemon gives none out: it runs without --ipalloc-range")
		}
		addr, err := a.d.ipam.Allocate(ctx, id, netip.Prefix{})
		if err != nil {
			return nil, err
		}
		return []netip.Prefix{addr}, nil
	}
	for _, addr := range asked {
		if a.d.ipam == nil {
			break
		}
		if err := a.d.ipam.Claim(ctx, id, addr); err != nil {
			return nil, err
		}
	}
	return asked, nil
}

// wire makes the interface, remembers the attachment, and registers its names.
func (a *attacher) wire(ctx context.Context, att api.Attachment) error {
	to := device.Attachment{
		Bridge: a.d.cfg.Bridge, NetNS: att.NetNS, HostName: hostName(att.ID), Interface: att.Interface,
		MTU: a.d.cfg.MTU, Addresses: att.Addresses,
	}
	if a.d.bridge.mode == ModeDirect {
		to.Join = a.d.joinDatapath
	}
	if _, err := device.Attach(ctx, to); err != nil {
		return err
	}
	if err := a.d.state.put(att); err != nil {
		return fmt.Errorf("remembering the attachment: %w", err)
	}
	return a.register(att)
}

// register makes the names of an attachment known.
func (a *attacher) register(att api.Attachment) error {
	if a.d.names == nil {
		return nil
	}
	for _, name := range att.Names {
		for _, addr := range att.Addresses {
			if err := a.d.names.Register(a.qualify(name), att.ID, addr.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// qualify puts a name that has no domain into ours.
func (a *attacher) qualify(name string) string {
	if strings.Contains(strings.TrimSuffix(name, "."), ".") {
		return name
	}
	return strings.TrimSuffix(name, ".") + "." + a.d.cfg.DNSDomain
}

// undo takes away all of an attachment that there is. The host's end of the interface is removed, and the other end with
// it, so that it does not matter what has become of the namespace.
func (a *attacher) undo(ctx context.Context, att api.Attachment) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	if a.d.names != nil {
		a.d.names.Unregister(dns.Match{Owner: att.ID})
	}
	if a.d.bridge.mode == ModeDirect {
		errs = append(errs, a.d.datapath.RemovePort(ctx, hostName(att.ID)))
	}
	errs = append(errs, device.RemovePair(hostName(att.ID)))
	if a.d.ipam != nil {
		if err := a.d.ipam.FreeAll(ctx, att.ID); !errors.Is(err, ipam.ErrNotOwned) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, a.d.state.remove(att.ID))...)
}

// Detach takes an attachment away.
func (a *attacher) Detach(ctx context.Context, r api.DetachRequest) error {
	id := r.ID
	if id == "" {
		var err error
		if _, id, err = identify(r.NetNS, ""); err != nil {
			return err
		}
	}
	unlock, err := a.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	att, ok := a.get(id)
	if !ok {
		return fmt.Errorf("%s is not attached", id)
	}
	if err := a.undo(ctx, att); err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.attached, id)
	a.mu.Unlock()
	a.d.log.Info("detached", "id", id)
	return nil
}

// mergeSorted returns the union of two lists, sorted, each element once.
func mergeSorted[T comparable](x, y []T, compare func(a, b T) int) []T {
	all := slices.Concat(x, y)
	slices.SortFunc(all, compare)
	return slices.Compact(all)
}

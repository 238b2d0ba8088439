package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/ipam"
)

// reserved is what the names of owners begin with that are no attachments.
const reserved = "weave:"

// checkID refuses what would clash with other owners of addresses.
func checkID(id string) error {
	if strings.HasPrefix(id, reserved) || id == ipam.Anonymous {
		return fmt.Errorf("an attachment cannot be called %q: such names are reserved", id)
	}
	return nil
}

// hostName is the name of the host's end of an attachment's veth pair. IDs are longer than what fits, hence the hash.
func hostName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return device.HostName(strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])))
}

// namespace is a network namespace that a request is about, and an interface in it.
type namespace struct {
	ref   string // what the request calls it
	path  string
	iface string
	port  string // the host's end of the interface, if it is there already; "" if not
}

// lockNamespace finds a namespace and waits for its turn to work on it, by whatever name others call it. It fails if the
// interface is there and is not ours.
func (a *attacher) lockNamespace(ctx context.Context, ref, iface string) (ns namespace, unlock func(), err error) {
	ns = namespace{ref: ref, iface: iface}
	if ns.path, err = device.ResolveNetNS(ref); err != nil {
		return ns, nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(ns.path, &st); err != nil {
		return ns, nil, fmt.Errorf("%s: %w", ns.path, err)
	}
	if unlock, err = a.lock(ctx, fmt.Sprintf("namespace %d:%d", st.Dev, st.Ino)); err != nil {
		return ns, nil, err
	}
	if ns.port, err = device.PortOf(ns.path, iface, a.d.cfg.Bridge); err != nil {
		unlock()
		return ns, nil, err
	}
	return ns, unlock, nil
}

// identify returns what to call an attachment: what it is called already; else what the request says; else the name of the
// namespace if it has one; else something random, as the kernel gives the numbers of the dead to the living.
func (a *attacher) identify(ns namespace, asked string) (string, error) {
	id, known := a.ofPort(ns.port)
	switch {
	case known && asked != "" && asked != id:
		return "", fmt.Errorf("%s is attached already, as %s: detach that first", ns.ref, id)
	case known:
		return id, nil
	case asked != "":
		id = asked
	case filepath.Base(ns.path) == ns.ref && ns.iface == device.DefaultInterface:
		id = ns.ref
	case filepath.Base(ns.path) == ns.ref:
		id = ns.ref + "/" + ns.iface
	default:
		id = "netns-" + strings.ToLower(rand.Text())
	}
	return id, checkID(id)
}

// find returns the ID of the attachment that a namespace has. One that is gone is found by the name that it had.
func (a *attacher) find(ref string) (string, error) {
	path, err := device.ResolveNetNS(ref)
	if err != nil {
		if _, known := a.get(ref); known {
			return ref, nil
		}
		return "", err
	}
	ports, err := device.Ports(path)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, port := range ports {
		if id, known := a.ofPort(port); known {
			ids = append(ids, id)
		}
	}
	switch _, known := a.get(ref); {
	case len(ids) == 1:
		return ids[0], nil
	case len(ids) > 1:
		return "", fmt.Errorf("%s has %d attachments, %s: say which one by its ID", ref, len(ids), strings.Join(ids, ", "))
	case known && filepath.Base(path) == ref:
		return ref, nil
	}
	return "", fmt.Errorf("%s is %w", ref, api.ErrNotAttached)
}

// ofPort returns the ID of the attachment that has a port.
func (a *attacher) ofPort(port string) (id string, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, att := range a.attached {
		if port != "" && att.Port == port {
			return att.ID, true
		}
	}
	return "", false
}

func (a *attacher) get(id string) (att api.Attachment, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	att, known = a.attached[id]
	return att, known
}

// put remembers an attachment over a restart.
func (a *attacher) put(att api.Attachment) error {
	if err := a.d.state.put(att); err != nil {
		return fmt.Errorf("remembering the attachment: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.attached[att.ID] = att
	return nil
}

// restore has an attachment remembered as it was before, or forgotten if it was not known.
func (a *attacher) restore(id string, before api.Attachment, known bool) error {
	if known {
		return a.put(before)
	}
	if err := a.d.state.remove(id); err != nil {
		return fmt.Errorf("forgetting the attachment: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.attached, id)
	return nil
}

// lock waits for its turn to work on something. Namespaces are locked before IDs.
func (a *attacher) lock(ctx context.Context, what string) (unlock func(), err error) {
	for {
		unlock, before := a.tryLock(what)
		if unlock != nil {
			return unlock, nil
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryLock takes a turn if it can be had at once; otherwise it returns what is closed when the one that is taken ends.
func (a *attacher) tryLock(what string) (unlock func(), before <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if before, taken := a.busy[what]; taken {
		return nil, before
	}
	done := make(chan struct{})
	a.busy[what] = done
	return func() {
		a.mu.Lock()
		delete(a.busy, what)
		a.mu.Unlock()
		close(done)
	}, nil
}

// rollback is what takes back the steps done so far.
type rollback []func(context.Context) error

func (r *rollback) add(step func(context.Context) error) { *r = append(*r, step) }

// run takes the steps back, the last one first, also if ctx has ended.
func (r *rollback) run(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, step := range slices.Backward(*r) {
		errs = append(errs, step(ctx))
	}
	return errors.Join(errs...)
}

package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// A new port comes up at once, or, if both ends of the pair happen to have the same index, within a second. After portWait
	// it is used all the same.
	portWait = 1500 * time.Millisecond
	portPoll = time.Millisecond
)

// Attach connects a container to a bridge: with a new veth pair, or by the one that it has from an earlier call, which then
// only gets the addresses that it lacks. It tells the neighbours of new addresses.
//
// If it fails, or ctx ends, what it made is gone again. The error wraps [ErrNoNetNS] or [ErrOwnNetNS] if the namespace is
// none that can be meant, [ErrNoDevice] if there is no such bridge, [ErrWrongKind] if the container has an interface of
// that name which does not lead to the bridge, [ErrAttached] if it leads there by another port than a.HostName, and
// [ErrRouted] if it is to have a default route and has one that leads elsewhere.
func Attach(ctx context.Context, a Attachment) (Attached, error) {
	if a.Interface == "" {
		a.Interface = DefaultInterface
	}
	if err := errors.Join(checkNames(a.HostName, a.Interface), checkAddresses(a.Addresses...), checkGateway(a.Gateway)); err != nil {
		return Attached{}, err
	}
	kind := "bridge"
	if a.Join != nil {
		kind = "openvswitch"
	}
	bridge, err := linkOfType(a.Bridge, kind)
	if err != nil {
		return Attached{}, failed(err, "bridge %s", a.Bridge)
	}
	if a.MTU == 0 {
		a.MTU = bridge.Attrs().MTU
	}
	ns, err := openContainer(a.NetNS)
	if err != nil {
		return Attached{}, err
	}
	defer ns.Close()

	at := attacher{Attachment: a, bridge: bridge, ns: ns}
	if err := at.attach(ctx); err != nil {
		return Attached{}, failed(errors.Join(err, at.undo.run()), "attaching %s", a.NetNS)
	}
	return at.done, nil
}

// openContainer opens a network namespace that is not this one.
func openContainer(path string) (*NetNS, error) {
	ns, err := OpenNetNS(path)
	if err != nil {
		return nil, err
	}
	if err := notOurs(ns); err != nil {
		_ = ns.Close()
		return nil, failed(err, "%s", path)
	}
	return ns, nil
}

func notOurs(ns *NetNS) error {
	own, err := CurrentNetNS()
	if err != nil {
		return err
	}
	defer own.Close()
	same, err := ns.same(own)
	if err == nil && same {
		err = ErrOwnNetNS
	}
	return err
}

// attacher is one call of Attach.
type attacher struct {
	Attachment
	bridge netlink.Link
	ns     *NetNS
	host   netlink.Link // the port of the bridge
	done   Attached
	undo   rollback
}

func (at *attacher) attach(ctx context.Context) error {
	found, err := at.find()
	if err != nil {
		return err
	}
	if !found {
		if err := at.create(); err != nil {
			return err
		}
	}
	if err := at.ns.Do(at.configure); err != nil {
		return err
	}
	if len(at.done.Added) != 0 {
		if err := at.waitForPort(ctx); err != nil {
			return err
		}
		if err := at.ns.Do(at.announce); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// find looks for a pair from an earlier call.
func (at *attacher) find() (bool, error) {
	host, err := at.ns.portOf(at.Interface, at.bridge)
	if errors.Is(err, ErrNoDevice) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if name := host.Attrs().Name; name != at.HostName {
		return false, fmt.Errorf("%w by %s, not by %s", ErrAttached, name, at.HostName)
	}
	at.host = host
	return true, nil
}

// create makes the pair with one end in the container, and the other a port of the bridge.
func (at *attacher) create() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = at.HostName, at.MTU
	veth := netlink.NewVeth(attrs)
	veth.PeerName = at.Interface
	veth.PeerHardwareAddr = at.MAC
	veth.PeerNamespace = netlink.NsFd(at.ns.Fd())
	if err := netlink.LinkAdd(veth); err != nil {
		return failed(err, "making the veth pair %s, %s", at.HostName, at.Interface)
	}
	at.undo.add(func() error { return remove(at.HostName, "veth") })
	at.done.Created = true

	host, err := linkByName(at.HostName)
	if err != nil {
		return err
	}
	at.host = host
	ignoreRouterAdvertisements(at.HostName)
	return failed(at.join(), "making %s a port of %s", at.HostName, at.Bridge)
}

// join makes the host's end a port.
func (at *attacher) join() error {
	if at.Join == nil {
		return addPort(at.bridge, at.host)
	}
	if err := netlink.LinkSetUp(at.host); err != nil {
		return err
	}
	return at.Join(at.HostName)
}

// configure gives the container's end what it shall have. It runs inside, as the further steps do.
func (at *attacher) configure() error {
	guest, err := linkByName(at.Interface)
	if err != nil {
		return err
	}
	at.done.MAC = guest.Attrs().HardwareAddr
	hastenNeighbours(at.Interface)
	for _, addr := range at.Addresses {
		added, err := addAddress(guest, addr)
		if err != nil {
			return failed(err, "adding address %s", addr)
		}
		if added {
			at.done.Added = append(at.done.Added, addr)
			at.undo.add(func() error { return at.ns.Do(func() error { return removeAddress(guest, addr) }) })
		}
	}
	if err := netlink.LinkSetUp(guest); err != nil {
		return failed(err, "putting %s up", at.Interface)
	}
	return at.addRoutes(guest)
}

// waitForPort waits until the bridge forwards frames of the new port, or is late with it.
func (at *attacher) waitForPort(ctx context.Context) error {
	late := time.NewTimer(portWait)
	defer late.Stop()
	tick := time.NewTicker(portPoll)
	defer tick.Stop()
	for {
		host, err := netlink.LinkByIndex(at.host.Attrs().Index)
		if err != nil {
			return failed(err, "waiting for %s", at.HostName)
		}
		if host.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-tick.C:
		case <-late.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// announce tells the neighbours of the new addresses. They would find out without it, only later.
func (at *attacher) announce() error {
	guest, err := linkByName(at.Interface)
	if err != nil {
		return err
	}
	for _, addr := range at.done.Added {
		_ = announce(guest, addr.Addr())
	}
	return nil
}

// rollback is what takes back the steps done so far.
type rollback []func() error

func (r *rollback) add(step func() error) { *r = append(*r, step) }

// run takes the steps back, the last one first.
func (r *rollback) run() error {
	var errs []error
	for _, step := range slices.Backward(*r) {
		errs = append(errs, step())
	}
	return errors.Join(errs...)
}

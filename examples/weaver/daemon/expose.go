package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/ipam"
)

// exposeOwner owns the host's own addresses on the overlay.
const exposeOwner = reserved + "expose"

const (
	firstExposeRetry = time.Second
	lastExposeRetry  = time.Minute
)

// keepExposed puts an address of the overlay on the host's bridge. Whatever is wrong with that is tried again, and no reason
// to stop anything else.
func (a *attacher) keepExposed(ctx context.Context) {
	for wait := firstExposeRetry; ; wait = min(2*wait, lastExposeRetry) {
		err := a.expose(ctx)
		if ctx.Err() != nil || errors.Is(err, ipam.ErrReleased) {
			err = nil // it is not to have one any more
		}
		a.mu.Lock()
		a.trouble = err
		a.mu.Unlock()
		if err == nil {
			return
		}
		a.d.log.Warn("the host has no address on the overlay", "err", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// expose waits until there is an address.
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
	a.d.firewall.addressesChanged()
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
	a.d.firewall.addressesChanged()
	return errors.Join(errs...)
}

// exposed returns the host's addresses, or why there are none.
func (a *attacher) exposed() (addrs []netip.Prefix, trouble string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.trouble != nil {
		trouble = a.trouble.Error()
	}
	return slices.Clone(a.host), trouble
}

// exposedSubnets are those that the host has addresses in.
func (d *daemon) exposedSubnets() (list []netip.Prefix, err error) {
	own, err := d.hostAddresses()
	for _, addr := range own {
		list = append(list, addr.Masked())
	}
	return list, err
}

// checkRange refuses a range that the host has routes into: containers would not reach what is there, nor it them. If containers
// are attached already it is too late to refuse.
func (d *daemon) checkRange() error {
	if !d.cfg.Range.IsValid() {
		return nil
	}
	route, err := device.Overlap(d.cfg.Range, d.cfg.Bridge)
	if err != nil || route == "" {
		return err
	}
	containers, err := d.state.alive()
	if err == nil && containers == 0 {
		return fmt.Errorf("the range %s overlaps with a route of this host, to %s: choose another with --ipalloc-range", d.cfg.Range, route)
	}
	d.log.Warn("the range overlaps with a route of this host", "range", d.cfg.Range, "route", route)
	return err
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
	own, err := d.hostAddresses()
	for _, addr := range own {
		list = append(list, ipam.Holding{Owner: exposeOwner, Addr: addr})
	}
	return list, err
}

// hostAddresses lists the addresses on the overlay that the host has, also from an earlier run, if it is to have one.
func (d *daemon) hostAddresses() (list []netip.Prefix, err error) {
	if !d.cfg.Expose {
		return nil, nil
	}
	list, err = device.Addresses(d.cfg.Bridge)
	return slices.DeleteFunc(list, func(addr netip.Prefix) bool { return !d.cfg.Range.Contains(addr.Addr()) }), err
}

package ipsec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Release removes everything of a tunnel port from the kernel, also what a former run left, last of all the block: what is sent
// to that port afterwards is in the clear. It is for hosts that do without encryption from now on. Remove the tunnel device
// before. Tunnels that are open fail. Where no protector runs, [Reset] does it.
func (g *Protector) Release(port uint16) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.kick()
	if err := g.guard(port); err != nil {
		return err
	}
	var errs []error
	for id, p := range g.pairs {
		if id.port != port {
			continue
		}
		for _, t := range p.open {
			t.fail(errors.New("ipsec: the port was released"))
		}
		p.open, p.held = nil, Block
		errs = append(errs, g.forget(p))
	}
	for _, p := range blocks(port) {
		errs = append(errs, g.drop(p))
	}
	delete(g.ports, port)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ipsec: release port %d: %w", port, err)
	}
	return nil
}

// Reset removes from a kernel what protectors have put there for a tunnel port, or for all if port is 0, the blocks last:
// what is sent to the port afterwards is in the clear. It is for hosts on which none runs: to clean up for good, once the
// tunnel device is gone, and before tunnels are used without a protector, which the blocks would stop. Flows of a former run
// that lead to a tunnel go on in the clear then: [fastdp.RemoveTunnels] goes first. What cannot be removed is left, and the
// errors are joined.
func Reset(kernel Kernel, port uint16) error {
	policies, associations, err := kernel.List()
	if err != nil {
		return fmt.Errorf("ipsec: reset: %w", err)
	}
	var errs []error
	remove := func(of uint16, request func() error) {
		if port == 0 || port == of {
			errs = append(errs, gone(request()))
		}
	}
	for _, p := range policies {
		if p.Action != Block {
			remove(p.Port, func() error { return kernel.DeletePolicy(p) })
		}
	}
	for _, a := range associations {
		remove(a.Port, func() error { return kernel.DeleteAssociation(a) })
	}
	for _, p := range policies {
		if p.Action == Block {
			remove(p.Port, func() error { return kernel.DeletePolicy(p) })
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ipsec: reset: %w", err)
	}
	return nil
}

// Ports returns the tunnel ports for which protectors have put something into a kernel, in no order.
func Ports(kernel Kernel) ([]uint16, error) {
	policies, associations, err := kernel.List()
	if err != nil {
		return nil, fmt.Errorf("ipsec: %w", err)
	}
	ports := map[uint16]bool{}
	for _, p := range policies {
		ports[p.Port] = true
	}
	for _, a := range associations {
		ports[a.Port] = true
	}
	return slices.Collect(maps.Keys(ports)), nil
}

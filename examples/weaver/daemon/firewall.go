package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
)

// firewallInterval is how often to look whether the rules are still there: others that set up a firewall anew remove them.
const firewallInterval = 10 * time.Second

// firewall keeps those rules of the host's packet filter without which it may drop what containers send. Whatever is wrong with
// that is told and tried again, and no reason to stop anything else.
type firewall struct {
	bridge     string
	masquerade bool
	exposed    func() ([]netip.Prefix, error) // the subnets in which the host has addresses
	log        *slog.Logger
	moved      chan struct{} // the host's addresses have changed

	mu     sync.Mutex // guards what follows
	made   bool       // the rules have been there
	status api.FirewallStatus
}

// openFirewall makes the rules before anything can be attached. They go with the bridge.
func (d *daemon) openFirewall() error {
	if err := d.bridge.record(part{partFirewall, d.cfg.Bridge}); err != nil {
		return err
	}
	d.firewall = &firewall{
		bridge: d.cfg.Bridge, masquerade: !d.cfg.NoMasquerade, exposed: d.exposedSubnets, log: d.log, moved: make(chan struct{}, 1),
	}
	d.firewall.status.Masquerade = d.firewall.masquerade
	d.firewall.look()
	return nil
}

// Run looks after the rules until ctx ends.
func (f *firewall) Run(ctx context.Context) error {
	tick := time.NewTicker(firewallInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-f.moved:
		}
		f.look()
	}
}

// addressesChanged says that the host has got or lost an address on the overlay.
func (f *firewall) addressesChanged() {
	select {
	case f.moved <- struct{}{}:
	default: // it is going to look anyway
	}
}

// look makes the rules what they have to be. While the host's addresses are not known the rules stay as they are.
func (f *firewall) look() {
	var done device.Firewalled
	subnets, err := f.exposed()
	if err == nil {
		done, err = device.EnsureFirewall(device.Firewall{Bridge: f.bridge, Exposed: subnets, Masquerade: f.masquerade})
	}
	trouble := done.Obstacles
	if err != nil {
		trouble = append(trouble, err.Error())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range trouble {
		if !slices.Contains(f.status.Trouble, t) {
			f.log.Warn("firewall", "trouble", t)
		}
	}
	f.status.Trouble = trouble
	if err != nil {
		return
	}
	added := strings.Join(done.Added, ", ")
	switch {
	case len(done.Added)+done.Removed == 0:
	case f.made && slices.Equal(subnets, f.status.Exposed):
		f.status.Repairs++
		f.log.Warn("rules of the firewall were missing, they are there again", "added", added, "removed", done.Removed)
	default:
		f.log.Info("rules of the firewall", "added", added, "removed", done.Removed)
	}
	f.made, f.status.Exposed = true, subnets
}

// report returns what is known of the rules.
func (f *firewall) report() api.FirewallStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

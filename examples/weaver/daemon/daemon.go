// Package daemon composes the packages of Overweave into the reference daemon: one Ethernet across hosts, with addresses
// and names for containers. It holds wiring and little else; read Run from top to bottom to see how the parts fit, or to
// compose a daemon of your own.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/dns/dnsserver"
	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve"
)

// ipamFile is the allocator's file.
const ipamFile = "ipam.db"

// daemon is a composed daemon. Its fields are constant once open has filled them; the parts guard themselves.
type daemon struct {
	cfg     Config
	log     *slog.Logger
	started time.Time

	state     *state
	bridge    *bridge
	firewall  *firewall
	sleeve    *sleeve.Overlay
	datapath  *fastdp.Datapath // nil without
	protector *ipsec.Protector // nil without
	xfrm      *ipsec.XFRM      // of the protector
	sw        *overlay.Switch
	router    *mesh.Router
	targets   targetList // of the router
	groups    *gossip.State[overlay.Memberships]
	ipam      *ipam.Allocator   // nil if off
	names     *dns.Table        // nil if off
	dns       *dnsserver.Server // nil if off
	attach    *attacher
	api       net.Listener // nil if off
	metrics   net.Listener // nil if off

	closers []func() error // in the order of opening
}

// Run runs a daemon until ctx ends or a part of it fails. If it fails to start it leaves nothing behind that was not there
// before. Once it runs, the bridge and the containers' interfaces stay when it ends, so that the next daemon finds the
// containers attached; a bridge that nobody uses is removed.
func Run(ctx context.Context, c Config) (err error) {
	c, err = c.withDefaults()
	if err != nil {
		return err
	}
	d := &daemon{cfg: c, log: c.Log, started: time.Now()}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(); err != nil {
		return err
	}
	return d.run(ctx)
}

// open builds the parts, each on those before it, and starts nothing.
func (d *daemon) open() error {
	steps := []func() error{d.openState, d.openSockets, d.checkRange, d.openBridge, d.openFirewall, d.buildMesh, d.buildIPAM, d.buildDNS, d.buildAttacher}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// onClose remembers what to undo; the last is undone first.
func (d *daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

func (d *daemon) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

func (d *daemon) openState() (err error) {
	if d.state, err = openState(d.cfg); err != nil {
		return err
	}
	d.onClose(d.state.Close)
	d.cfg.Name = chooseName(d.cfg, d.state.name())
	d.log.Info("starting", "peer", d.cfg.Name, "nickname", d.cfg.Nickname)
	return d.state.setName(d.cfg.Name)
}

// openSockets takes the addresses first that others may hold, before anything is changed on the host.
func (d *daemon) openSockets() error {
	if d.cfg.HTTPAddr != "" {
		l, err := listenAPI(d.cfg.HTTPAddr)
		if err != nil {
			return err
		}
		d.api = l
		d.onClose(func() error { return ignoreClosed(l.Close()) })
	}
	if d.cfg.MetricsAddr != "" {
		l, err := net.Listen("tcp", d.cfg.MetricsAddr)
		if err != nil {
			return fmt.Errorf("metrics address: %w", err)
		}
		d.metrics = l
		d.onClose(func() error { return ignoreClosed(l.Close()) })
	}
	socket, err := sleeve.Listen(netip.AddrPortFrom(d.cfg.Host, d.cfg.Port))
	if err != nil {
		return fmt.Errorf("UDP port %d for frames: %w", d.cfg.Port, err)
	}
	d.onClose(func() error { return ignoreClosed(socket.Close()) })
	d.sleeve, err = sleeve.New(sleeve.Config{Self: d.cfg.Name, Socket: socket, Log: d.log})
	return err
}

func (d *daemon) openBridge() (err error) {
	if d.bridge, err = openBridge(d.cfg, d.state); err != nil {
		return err
	}
	d.onClose(d.closeBridge)
	forwarder := overlay.NewForwarder(d.cfg.Name)
	if err := d.buildDatapath(forwarder); err != nil {
		return err
	}
	overlays := d.overlays()
	if len(overlays) == 0 {
		return fmt.Errorf("none of the overlays %s can be had in mode %s", strings.Join(d.cfg.Overlays, ", "), d.bridge.mode)
	}
	d.sw, err = overlay.NewSwitch(overlay.SwitchConfig{
		Self: d.cfg.Name, Overlays: overlays, Port: d.bridge.port, Forwarder: forwarder, Announce: d.announceGroups, Log: d.log,
	})
	return err
}

// overlays returns the overlays that are there and wanted, the best first.
func (d *daemon) overlays() (list []overlay.Overlay) {
	if d.datapath != nil {
		list = append(list, d.datapath.Overlay2(), d.datapath.Overlay())
	}
	list = append(list, d.sleeve.Sleeve2(), d.sleeve)
	if len(d.cfg.Overlays) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(o overlay.Overlay) bool { return !slices.Contains(d.cfg.Overlays, o.Name()) })
}

func (d *daemon) buildMesh() (err error) {
	d.router, err = mesh.New(mesh.Config{
		Name: d.cfg.Name, ShortID: d.state.shortID(), Nickname: d.cfg.Nickname,
		Listen: netip.AddrPortFrom(d.cfg.Host, d.cfg.Port), DefaultPort: d.cfg.Port,
		Password: d.cfg.Password, TrustedSubnets: d.cfg.TrustedSubnets, MinProtocol: d.cfg.MinProtocol,
		Targets: d.targets.open(d.cfg, d.state), ConnLimit: d.cfg.ConnLimit, NoDiscovery: d.cfg.NoDiscovery,
		Switch: d.sw, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.groups, err = gossip.NewState(d.router, overlay.MulticastChannel, nil, overlay.ParseMemberships, d.sw.Forwarder().SetMemberships)
	return err
}

// announceGroups tells the other peers which groups the stations of this host are members of. The switch calls it once it runs.
func (d *daemon) announceGroups(m overlay.Memberships) {
	d.groups.Change(func(overlay.Memberships) overlay.Memberships { return m })
}

func (d *daemon) buildIPAM() error {
	if !d.cfg.Range.IsValid() {
		return nil
	}
	var store ipam.Store
	if d.cfg.DBPrefix != "" {
		path, err := d.cfg.file(ipamFile)
		if err != nil {
			return err
		}
		s, err := ipam.OpenStore(path)
		if err != nil {
			return err
		}
		d.onClose(s.Close)
		store = s
	}
	liveTargets := func() int { _, live := d.router.Targets(); return live }
	inUse, err := d.inUse()
	if err != nil {
		return err
	}
	d.ipam, err = ipam.New(ipam.Config{
		Bus: d.router, Universe: d.cfg.Range, DefaultSubnet: d.cfg.DefaultSubnet, Adopt: inUse,
		Birth: d.cfg.Birth, ReclaimAfter: d.cfg.ReclaimAfter, Targets: liveTargets, Store: store, Log: d.log,
	})
	return err
}

func (d *daemon) buildDNS() (err error) {
	if d.cfg.NoDNS {
		return nil
	}
	if d.names, err = dns.New(dns.Config{Bus: d.router, Domain: d.cfg.DNSDomain, Log: d.log}); err != nil {
		return err
	}
	sockets, err := dnsserver.Listen(d.cfg.DNSListen)
	if err != nil {
		return fmt.Errorf("listening for DNS at %s (choose another place with --dns-listen-address, or --no-dns): %w", d.cfg.DNSListen, err)
	}
	d.onClose(func() error { return ignoreClosed(sockets.Close()) })
	d.dns, err = dnsserver.New(dnsserver.Config{
		Sockets: sockets, Zone: d.names, Domain: d.cfg.DNSDomain, TTL: d.cfg.DNSTTL,
		ResolvConf: d.cfg.ResolvConf, Allow: d.dnsClients(), ForwardTimeout: d.cfg.DNSForwardTimeout, Log: d.log,
	})
	return err
}

func (d *daemon) buildAttacher() (err error) {
	if d.attach, err = newAttacher(d); err != nil {
		return err
	}
	d.bridge.inUse = func() bool { return len(d.attach.List()) > 0 }
	return nil
}

// run runs all parts until ctx ends or one of them fails. What asks the others, on behalf of clients, ends before these do.
func (d *daemon) run(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	parts := newGroup(base)
	d.runParts(parts)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(parts.ctx, cancel)
	front := newGroup(ctx)
	front.run("attachments", d.attach.Run)
	if d.api != nil {
		front.run("control socket", d.serveAPI)
	}
	if d.metrics != nil {
		front.run("metrics", d.serveMetrics)
	}
	err := front.Wait()
	stop()
	return errors.Join(err, parts.Wait())
}

func (d *daemon) runParts(g *group) {
	g.run("firewall", d.firewall.Run)
	g.run("frames", d.sleeve.Run)
	if d.protector != nil {
		g.run("encryption in the kernel", d.protector.Run)
	}
	if d.datapath != nil {
		g.run("datapath", d.datapath.Run)
	}
	g.run("switch", d.sw.Run)
	g.run("mesh", d.router.Run)
	g.check("peers", d.checkStart)
	g.run("short id", d.keepShortID)
	if d.ipam != nil {
		g.run("addresses", d.ipam.Run)
	}
	if d.names != nil {
		g.run("names", d.names.Run)
		g.run("DNS server", d.dns.Run)
	}
}

// errEnded is why a daemon ends of which a part has ended and does not say why.
var errEnded = errors.New("ended unexpectedly")

// group runs parts until its context ends, which it does when one of them fails.
type group struct {
	*errgroup.Group
	ctx context.Context
}

func newGroup(ctx context.Context) *group {
	g, ctx := errgroup.WithContext(ctx)
	return &group{g, ctx}
}

// run runs a part that ends with the group's context. One that ends before, even without an error, ends the group.
func (g *group) run(what string, part func(context.Context) error) {
	g.check(what, func(ctx context.Context) error {
		err := part(ctx)
		if err == nil && ctx.Err() == nil {
			return errEnded
		}
		return err
	})
}

// check runs something that may come to its end without an error.
func (g *group) check(what string, f func(context.Context) error) {
	g.Go(func() error {
		err := f(g.ctx)
		switch {
		case err == nil, errors.Is(err, context.Canceled):
			return nil
		case err == errEnded:
			return fmt.Errorf("%s %w", what, err)
		}
		return fmt.Errorf("%s: %w", what, err)
	})
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// listenAPI opens the control socket. A Unix socket is for its owner alone; one that a dead daemon left is replaced.
func listenAPI(address string) (net.Listener, error) {
	if !filepath.IsAbs(address) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("control address: %w", err)
		}
		return l, nil
	}
	return listenUnix(address)
}

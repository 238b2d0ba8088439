package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

const (
	underlayMTU  = 1500
	setupTimeout = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// errLeftOut is wrapped by errors of the set-up that are not faults: what the mode needs is not here.
var errLeftOut = errors.New("left out")

// pair is two hosts with a container each, joined by one mode:
//
//	container 1          container 2
//	     |                    |
//	host 1 ---- 1500 ---- host 2
//
// Each mode has a pair of its own, all at once.
type pair struct {
	mode       mode
	lab        *lab.Lab
	dir        string // for sockets
	profile    string // folder for CPU profiles; empty: none
	hosts      [2]*lab.Host
	underlay   [2]netip.Addr
	devices    [2]string // of the underlay
	containers [2]*lab.Namespace
	addrs      [2]netip.Addr // of the containers
	mtu        int           // of the containers
	daemons    []*child      // none if the kernel does it all
}

func openPair(ctx context.Context, m mode, profile string) (p *pair, err error) {
	if m.setup == nil {
		return nil, fmt.Errorf("%w: %s", errLeftOut, m.missing)
	}
	p = &pair{
		mode: m, profile: profile,
		underlay: [2]netip.Addr{netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("10.99.0.2")},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
			p = nil
		}
	}()
	if p.dir, err = os.MkdirTemp("", "overweave-bench-"); err != nil {
		return p, err
	}
	if err = p.hostsAndLink(); err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, setupTimeout, fmt.Errorf("not set up within %s", setupTimeout))
	defer cancel()
	if err = m.setup(ctx, p); err != nil {
		return p, err
	}
	return p, p.reach(ctx)
}

func (p *pair) hostsAndLink() (err error) {
	if p.lab, err = lab.New(); err != nil {
		return err
	}
	for i := range p.hosts {
		if p.hosts[i], err = p.lab.Host(fmt.Sprintf("host%d", i+1)); err != nil {
			return err
		}
	}
	link, err := p.lab.Link(p.hosts[0], p.hosts[1], lab.LinkConfig{
		MTU: underlayMTU, A: netip.PrefixFrom(p.underlay[0], 24), B: netip.PrefixFrom(p.underlay[1], 24),
	})
	if err != nil {
		return err
	}
	p.devices = [2]string{link.Device(p.hosts[0]), link.Device(p.hosts[1])}
	return nil
}

// reach waits until the containers hear each other.
func (p *pair) reach(ctx context.Context) error {
	for {
		_, err := p.ping(ctx, pingConfig{To: p.addrs[1], Count: 1})
		if err == nil {
			return nil
		}
		if pause(ctx, pollInterval) != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// Close ends the daemons and removes everything.
func (p *pair) Close() error {
	var errs []error
	for _, d := range p.daemons {
		errs = append(errs, d.stop())
	}
	if p.lab != nil {
		errs = append(errs, p.lab.Close())
	}
	if p.dir != "" {
		errs = append(errs, os.RemoveAll(p.dir))
	}
	return errors.Join(errs...)
}

// profileFile is where the daemon of a host writes its CPU profile; empty: nowhere.
func (p *pair) profileFile(host int) string {
	if p.profile == "" {
		return ""
	}
	return filepath.Join(p.profile, fmt.Sprintf("%s-host%d.pprof", p.mode.name, host+1))
}

// daemon starts a daemon on a host and waits until it is ready, or ctx ends. It lives until Close, which lets it end in
// order.
func (p *pair) daemon(ctx context.Context, host int, kind string, config any) error {
	d, err := startChild(context.WithoutCancel(ctx), p.hosts[host].Namespace, kind, config)
	if err != nil {
		return err
	}
	p.daemons = append(p.daemons, d)
	stop := context.AfterFunc(ctx, func() { _ = d.cmd.Process.Kill() })
	defer stop()
	return d.next(&struct{}{})
}

// Package demo shows the main job of Overweave on one machine: hosts and containers as network namespaces, a real daemon
// process on each host, and between the containers one Ethernet with addresses and names. It measures what it shows, and
// leaves nothing behind.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/mesh"
)

const (
	setupTimeout = 45 * time.Second
	pollInterval = 50 * time.Millisecond
	bestTimeout  = 10 * time.Second
	pings        = 20
)

// Config configures a demo.
type Config struct {
	// Hosts is how many; at least 2, at most 32.
	Hosts int
	// Password of the peers; empty: nothing is encrypted.
	Password string
	// Stream is how long to measure TCP.
	Stream time.Duration
	// Daemon is the path of weaver, and Flags are more flags for its launch.
	Daemon string
	Flags  []string
	// Progress shows what happens; nil: silence. Terminal says that it can redraw a line.
	Progress io.Writer
	Terminal bool
	// Keep is called when all is done and everything still runs; nil: it is taken down at once.
	Keep func(ctx context.Context, c *Cluster)
}

// Run runs the demo. The report is not nil, and says how far it came, even if there is an error.
func Run(ctx context.Context, c Config) (report *Report, err error) {
	r := &run{cfg: c, report: &Report{DNS: map[string]string{}, Seconds: map[string]float64{}}, start: time.Now()}
	r.progress = &progress{out: c.Progress, terminal: c.Terminal, start: r.start}
	defer func() {
		r.report.OK = err == nil
		if err != nil {
			r.report.Error = err.Error()
		}
	}()
	err = r.all(ctx)
	return r.report, err
}

// run is one run of the demo.
type run struct {
	cfg      Config
	report   *Report
	progress *progress
	start    time.Time
	cluster  *Cluster
}

func (r *run) all(ctx context.Context) (err error) {
	defer func() {
		if r.cluster != nil {
			err = errors.Join(err, r.cluster.Close())
		}
	}()
	setup, cancel := context.WithTimeoutCause(ctx, setupTimeout, fmt.Errorf("not done after %s", setupTimeout))
	defer cancel()
	steps := []struct {
		name string
		ctx  context.Context
		do   func(context.Context) error
	}{
		{"hosts and containers", setup, r.build},
		{"daemons", setup, r.launch},
		{"links established", setup, r.waitLinks},
		{"addresses allocated", setup, r.attach},
		{"names resolvable", setup, r.waitNames},
		{"ping", ctx, r.ping},
		{"TCP throughput", ctx, r.throughput},
	}
	for _, s := range steps {
		r.progress.begin(s.name)
		if err := s.do(s.ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, explain(s.ctx, err))
		}
		r.report.Seconds[s.name] = time.Since(r.start).Seconds()
		r.progress.done()
	}
	if r.cfg.Keep != nil {
		r.cfg.Keep(ctx, r.cluster)
	}
	return nil
}

// explain adds to the error of a step that was cut short the reason for that; if it was interrupted, there is no other.
func explain(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, context.Canceled):
		return cause
	default:
		return errors.Join(cause, err)
	}
}

func (r *run) build(context.Context) (err error) {
	r.cluster, err = NewCluster(ClusterConfig{Hosts: r.cfg.Hosts, Password: r.cfg.Password, Daemon: r.cfg.Daemon, Flags: r.cfg.Flags})
	return err
}

func (r *run) launch(ctx context.Context) error {
	for _, h := range r.cluster.Hosts {
		if err := h.Launch(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waitLinks waits until every host has an established link to every other, encrypted if there is a password.
func (r *run) waitLinks(ctx context.Context) error {
	want := r.cfg.Hosts - 1
	for _, h := range r.cluster.Hosts {
		err := h.until(ctx, func(rep api.Report) bool {
			n := 0
			for _, c := range rep.Router.Connections {
				if c.State == "established" && c.Encrypted == (r.cfg.Password != "") {
					n++
				}
			}
			r.progress.detail("%s has %d of %d", h.Name, n, want)
			return n >= want
		})
		if err != nil {
			return err
		}
	}
	r.report.Encrypted = r.cfg.Password != ""
	return r.waitBest(ctx)
}

// waitBest gives the links some time to go over to the best overlay, which is not always the first to be there. It is not an error
// if they do not: not every kernel or network lets them.
func (r *run) waitBest(ctx context.Context) error {
	some, cancel := context.WithTimeout(ctx, bestTimeout)
	defer cancel()
	for _, h := range r.cluster.Hosts {
		err := h.until(some, func(rep api.Report) bool {
			r.progress.detail("%s tries %s", h.Name, rep.Switch.Overlays[0])
			return !slices.ContainsFunc(rep.Router.Connections, func(c mesh.ConnStatus) bool {
				return c.State == "established" && c.Link.Overlay != rep.Switch.Overlays[0]
			})
		})
		if err != nil && some.Err() == nil {
			return err
		}
	}
	return ctx.Err()
}

func (r *run) attach(ctx context.Context) error {
	for _, h := range r.cluster.Hosts {
		if err := h.Attach(ctx); err != nil {
			return err
		}
		rep, err := h.Client.Report(ctx)
		if err != nil {
			return err
		}
		r.report.Hosts = append(r.report.Hosts, HostReport{
			Name: h.Name, Peer: h.Peer.String(), Underlay: h.Underlay, Port: rep.Bridge.Port,
			Container: h.Container.Name(), Address: h.Address, DNSName: h.DNSName(),
		})
		r.progress.detail("%s has %s", h.Container.Name(), h.Address)
	}
	return nil
}

// waitNames asks the name server of each host, from its container, for the container of the next host.
func (r *run) waitNames(ctx context.Context) error {
	for i, h := range r.cluster.Hosts {
		other := r.cluster.Hosts[(i+1)%len(r.cluster.Hosts)]
		if err := h.Named(ctx, other); err != nil {
			return err
		}
		r.report.DNS[other.DNSName()] = other.Address.Addr().String()
	}
	return nil
}

// noteOverlay notes what carries the frames by now: overlays come up one after the other, and the best is not always first.
func (r *run) noteOverlay(ctx context.Context) error {
	first, _ := r.ends()
	rep, err := first.Client.Report(ctx)
	if err != nil {
		return err
	}
	for _, c := range rep.Router.Connections {
		if c.State == "established" {
			r.report.Overlay = c.Link.Overlay
		}
	}
	return nil
}

// ping lets every container ping every other once, then measures between the first and the last.
func (r *run) ping(ctx context.Context) error {
	for _, from := range r.cluster.Hosts {
		for _, to := range r.cluster.Hosts {
			if from == to {
				continue
			}
			if err := from.Reach(ctx, to.Address.Addr()); err != nil {
				return err
			}
		}
	}
	first, last := r.ends()
	trips, err := first.Ping(ctx, last.Address.Addr(), pings)
	if err != nil {
		return err
	}
	r.report.PingMS = summarize(trips)
	return r.noteOverlay(ctx)
}

func (r *run) ends() (first, last *Host) {
	return r.cluster.Hosts[0], r.cluster.Hosts[len(r.cluster.Hosts)-1]
}

func summarize(trips []time.Duration) PingReport {
	slices.Sort(trips)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return PingReport{
		Min: ms(trips[0]), Median: ms(trips[len(trips)/2]), Max: ms(trips[len(trips)-1]),
		Sent: pings, Lost: pings - len(trips),
	}
}

// throughput sends one TCP stream from the first container to the last.
func (r *run) throughput(ctx context.Context) error {
	first, last := r.ends()
	l, err := last.Container.Listen("tcp4", netip.AddrPortFrom(last.Address.Addr(), 0).String())
	if err != nil {
		return err
	}
	defer l.Close()
	conn, err := first.Container.DialContext(ctx, "tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() { sent <- send(ctx, conn, r.cfg.Stream) }()
	n, d, err := receive(l)
	if err := cmp.Or(<-sent, err); err != nil {
		return err
	}
	r.report.TCPMbitS = float64(n) * 8 / d.Seconds() / 1e6
	return nil
}

// giveUp wraps an error after which waiting longer is of no use.
type giveUp struct{ error }

func (g giveUp) Unwrap() error { return g.error }

// poll calls f until it returns nil or gives up, or ctx ends; then it returns the last error.
func poll(ctx context.Context, f func() error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || errors.As(err, new(giveUp)) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

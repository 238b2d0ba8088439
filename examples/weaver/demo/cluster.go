package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	overlayRange = "10.32.0.0/12"
	domain       = "weave.local"
	maxHosts     = 32
	stopTimeout  = 5 * time.Second
)

// underlay is the network that the hosts share. It exists in namespaces only.
var underlay = netip.MustParsePrefix("10.99.0.0/24")

// ClusterConfig configures a Cluster.
type ClusterConfig struct {
	Hosts    int    // 2 to 32
	Password string // empty: nothing is encrypted
	Daemon   string // path of weaver
	Flags    []string
}

// Cluster is a number of hosts on one network, each with a daemon process and a container, all in namespaces of this
// machine:
//
//	container c1          container c2
//	     |                     |
//	host1 + daemon        host2 + daemon    ...
//	     | 10.99.0.1           | 10.99.0.2
//	     +------- bridge ------+
//
// When this process ends, in whatever way, nothing of it is left but the folder of the daemons' files; Close removes that too.
type Cluster struct {
	Hosts []*Host
	lab   *lab.Lab
	dir   string
	cfg   ClusterConfig
}

// Host is one host of a Cluster.
type Host struct {
	Name      string
	Peer      peer.Name
	Underlay  netip.Addr
	Address   netip.Prefix // of the container; set by Attach
	Client    *api.Client
	Container *lab.Namespace

	cluster *Cluster
	ns      *lab.Host
	socket  string
	daemon  *lab.Cmd // nil: none runs
	exited  chan struct{}
}

// NewCluster makes the namespaces; no daemon runs yet.
func NewCluster(c ClusterConfig) (cluster *Cluster, err error) {
	if c.Hosts < 2 || c.Hosts > maxHosts {
		return nil, fmt.Errorf("%d hosts: want 2 to %d", c.Hosts, maxHosts)
	}
	cluster = &Cluster{cfg: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, cluster.Close())
			cluster = nil
		}
	}()
	if cluster.dir, err = os.MkdirTemp("", "weaver-demo-"); err != nil {
		return cluster, err
	}
	if cluster.lab, err = lab.New(); err != nil {
		return cluster, err
	}
	sw, err := cluster.lab.Switch("underlay")
	if err != nil {
		return cluster, err
	}
	addr := underlay.Addr()
	for i := range c.Hosts {
		addr = addr.Next()
		h, err := cluster.newHost(i+1, addr, sw)
		if err != nil {
			return cluster, err
		}
		cluster.Hosts = append(cluster.Hosts, h)
	}
	return cluster, nil
}

func (c *Cluster) newHost(number int, addr netip.Addr, sw *lab.Switch) (*Host, error) {
	name := fmt.Sprintf("host%d", number)
	h := &Host{
		Name: name, Peer: peer.MustParse(fmt.Sprintf("0a:00:00:00:00:%02x", number)), Underlay: addr,
		cluster: c, socket: filepath.Join(c.dir, name+".sock"),
	}
	h.Client = api.NewClient(h.socket)
	var err error
	if h.ns, err = c.lab.Host(name); err != nil {
		return nil, err
	}
	if _, err = sw.Join(h.ns, netip.PrefixFrom(addr, underlay.Bits())); err != nil {
		return nil, err
	}
	h.Container, err = h.ns.Container(fmt.Sprintf("c%d", number))
	return h, err
}

// Close ends the daemons and removes everything.
func (c *Cluster) Close() error {
	var errs []error
	for _, h := range c.Hosts {
		errs = append(errs, h.Stop())
	}
	if c.lab != nil {
		errs = append(errs, c.lab.Close())
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// Launch starts the host's daemon and waits until it answers.
func (h *Host) Launch(ctx context.Context) error {
	c := h.cluster
	args := []string{
		"launch", "--name", h.Peer.String(), "--nickname", h.Name, "--host", h.Underlay.String(),
		"--ipalloc-range", overlayRange, "--ipalloc-init", fmt.Sprintf("consensus=%d", c.cfg.Hosts),
		"--expose", "--http-addr", h.socket, "--db-prefix", h.DBPrefix(), "--log-level", "warning",
	}
	args = append(args, c.cfg.Flags...)
	for _, other := range c.Hosts {
		if other != h {
			args = append(args, other.Underlay.String())
		}
	}
	log, err := os.OpenFile(h.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := h.ns.Command(context.WithoutCancel(ctx), c.cfg.Daemon, args...)
	cmd.Env = append(os.Environ(), "WEAVE_PASSWORD="+c.cfg.Password)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("daemon of %s: %w", h.Name, err)
	}
	h.daemon, h.exited = cmd, make(chan struct{})
	go func(exited chan<- struct{}) {
		_ = cmd.Wait() // how it ended is in its ProcessState
		close(exited)
	}(h.exited)
	return h.until(ctx, func(api.Report) bool { return true })
}

// Do calls f on a thread in the host's network namespace.
func (h *Host) Do(f func() error) error { return h.ns.Do(f) }

func (h *Host) logFile() string { return filepath.Join(h.cluster.dir, h.Name+".log") }

// lastWords returns the end of what the daemon wrote.
func (h *Host) lastWords() string {
	const most = 500
	b, _ := os.ReadFile(h.logFile())
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// Stop ends the daemon as an operator would, and waits for it.
func (h *Host) Stop() error { return h.end(syscall.SIGTERM) }

// Kill ends the daemon without a chance to tidy up, and waits for it.
func (h *Host) Kill() error { return h.end(syscall.SIGKILL) }

func (h *Host) end(signal syscall.Signal) error {
	if h.daemon == nil {
		return nil
	}
	cmd := h.daemon
	h.daemon = nil
	_ = cmd.Process.Signal(signal) // if it has ended already, Wait says how
	select {
	case <-h.exited:
	case <-time.After(stopTimeout):
		_ = cmd.Process.Kill()
		<-h.exited
		return fmt.Errorf("daemon of %s did not stop within %s", h.Name, stopTimeout)
	}
	if err := cmd.Wait(); err != nil && signal != syscall.SIGKILL {
		return fmt.Errorf("daemon of %s: %w: %s", h.Name, err, h.lastWords())
	}
	return nil
}

// until asks the daemon for its report until ok says that it is as it should be.
func (h *Host) until(ctx context.Context, ok func(api.Report) bool) error {
	return poll(ctx, func() error {
		select {
		case <-h.exited:
			return giveUp{fmt.Errorf("daemon of %s ended: %s", h.Name, h.lastWords())}
		default:
		}
		r, err := h.Client.Report(ctx)
		if err != nil {
			return err
		}
		if !ok(r) {
			return fmt.Errorf("%s is not there yet", h.Name)
		}
		return nil
	})
}

// Attach attaches the container and gives it its name.
func (h *Host) Attach(ctx context.Context) error {
	a, err := h.Client.Attach(ctx, api.AttachRequest{NetNS: h.Container.Path(), ID: h.Container.Name(), Names: []string{h.Container.Name()}})
	if err != nil {
		return err
	}
	h.Address = a.Addresses[0]
	return nil
}

// Socket is the path of the daemon's control socket.
func (h *Host) Socket() string { return h.socket }

// DBPrefix is what the names of the daemon's files begin with.
func (h *Host) DBPrefix() string { return filepath.Join(h.cluster.dir, h.Name+"-") }

// DNSName is the name of the container.
func (h *Host) DNSName() string { return h.Container.Name() + "." + domain }

// Resolve asks the host's name server, from within the container.
func (h *Host) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	r, err := h.Client.Report(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.Bridge.Addresses) == 0 {
		return nil, fmt.Errorf("%s has no address on the overlay yet", h.Name)
	}
	server := netip.AddrPortFrom(r.Bridge.Addresses[0].Addr(), 53).String()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.Container.DialContext(ctx, network, server)
	}}
	return resolver.LookupNetIP(ctx, "ip4", name+".")
}

// Named waits until the host's name server knows the container of another host.
func (h *Host) Named(ctx context.Context, other *Host) error {
	want := []netip.Addr{other.Address.Addr()}
	return poll(ctx, func() error {
		addrs, err := h.Resolve(ctx, other.DNSName())
		if err == nil && !slices.Equal(addrs, want) {
			err = fmt.Errorf("%s is said to be at %v, not at %v", other.DNSName(), addrs, want)
		}
		return err
	})
}

// Reach waits until the container gets an answer from an address. The first packet between two containers may be lost to
// address resolution and path discovery.
func (h *Host) Reach(ctx context.Context, to netip.Addr) error {
	return poll(ctx, func() error {
		_, err := h.Ping(ctx, to, 1)
		return err
	})
}

// Ping sends pings from the container, one after the other, and returns the round trips of those that were answered; an
// error if none was.
func (h *Host) Ping(ctx context.Context, to netip.Addr, count int) (trips []time.Duration, err error) {
	var p *pinger
	if err := h.Container.Do(func() (err error) { p, err = newPinger(); return err }); err != nil {
		return nil, err
	}
	defer p.Close()
	for range count {
		var trip time.Duration
		if trip, err = p.ping(ctx, to); err == nil {
			trips = append(trips, trip)
		}
	}
	if len(trips) == 0 {
		return nil, err
	}
	return trips, nil
}

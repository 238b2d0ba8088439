package fastdp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

var (
	errRunTwice   = errors.New("fastdp: Run was called before")
	errNotRunning = errors.New("fastdp: the datapath is not running")
	errGone       = errors.New("fastdp: the datapath is gone")
)

const (
	restartDelay    = time.Second
	maxRestartDelay = 30 * time.Second
)

// Datapath runs one datapath of the kernel as the switch of this host, and tunnels to other peers. It is safe for concurrent
// use.
type Datapath struct {
	// constant
	cfg     Config
	log     *slog.Logger
	changes *changes
	touched chan struct{} // ports may have changed
	devices devices

	table   table
	index   index
	brief   briefList
	stats   counters
	spread  shares    // of frames that user space sends on
	batches sync.Pool // of *odp.Batch, for links
	safe    safeTunnels
	testMu  sync.Mutex // held while a frame of a self-test is sent

	// atomic
	gen     atomic.Uint64 // counts what makes decisions void
	sweepNo atomic.Uint64
	kernel  atomic.Pointer[kernel] // nil: not running
	ran     atomic.Bool
	trouble atomic.Pointer[string] // why nothing works now
	resync  atomic.Bool            // the next sweep compares everything

	portsMu sync.Mutex      // serializes changes of ports in the kernel
	wantMu  sync.Mutex      // guards what follows
	wanted  map[string]bool // devices
	udp     map[uint16]int  // ports of tunnels: how many links they have
	seconds map[uint64]bool // connections with a link of fastdp2
}

// kernel is the datapath while it is there.
type kernel struct {
	conn    *odp.Conn
	dp      odp.Index
	sockets atomic.Pointer[sockets] // of the readers

	mu      sync.Mutex
	readers []*reader // changed by the goroutine of the session only; a changed list is another one
}

// New makes a Datapath; it starts nothing.
func New(c Config) (*Datapath, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("fastdp: %w", err)
	}
	d := &Datapath{
		cfg: c, log: c.Log, changes: newChanges(), touched: make(chan struct{}, 1), devices: kernelDevices{c.ODP.NetNS},
		wanted: map[string]bool{}, udp: map[uint16]int{c.Port: 1}, seconds: map[uint64]bool{},
	}
	d.table.fwd = c.Forwarder
	d.table.ports.Store(newPortMap(nil))
	d.batches.New = func() any { return new(odp.Batch) }
	return d, nil
}

// Overlay returns the overlay "fastdp", with which peers of Weave Net 2.8 and new ones connect.
func (d *Datapath) Overlay() overlay.Overlay { return &tunnels{d: d, name: Name} }

// changed notes that decisions are void.
func (d *Datapath) changed(c overlay.Change) {
	d.gen.Add(1)
	d.changes.add(c)
}

// touch has the ports looked at.
func (d *Datapath) touch() {
	select {
	case d.touched <- struct{}{}:
	default:
	}
}

// Run sets up the datapath and keeps its flows right until ctx ends. It fails if the datapath cannot be set up at first, with
// an error that wraps [odp.ErrNotSupported] if the kernel cannot do it; later it tries again. What was made stays in the
// kernel, and goes on forwarding what it has flows for. It may be called once.
func (d *Datapath) Run(ctx context.Context) error {
	if d.ran.Swap(true) {
		return errRunTwice
	}
	defer d.cfg.Forwarder.Watch(d.changed)()
	for delay, first := restartDelay, true; ; first = false {
		began := time.Now()
		up, err := d.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if first && !up {
			return fmt.Errorf("fastdp: %w", err)
		}
		if up && time.Since(began) > maxRestartDelay {
			delay = restartDelay
		}
		d.log.Warn("fastdp: datapath lost, setting it up again", "err", err, "in", delay)
		d.stats.restarts.Add(1)
		d.setTrouble(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay *= 2
		if delay > maxRestartDelay {
			delay = maxRestartDelay
		}
	}
}

func (d *Datapath) setTrouble(err error) {
	if err == nil {
		d.trouble.Store(nil)
		return
	}
	text := err.Error()
	d.trouble.Store(&text)
}

// problem says why nothing works, "" if it does.
func (d *Datapath) problem() string {
	if p := d.trouble.Load(); p != nil {
		return *p
	}
	return ""
}

// session sets the datapath up and runs it until ctx ends or it is gone. up is true if it came to run.
func (d *Datapath) session(ctx context.Context) (up bool, err error) {
	conn, err := odp.Open(ctx, d.cfg.ODP)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	events, err := conn.Subscribe(odp.DatapathEvents | odp.VportEvents) // before anything is listed
	if err != nil {
		return false, err
	}
	defer func() { _ = events.Close() }()
	s := &session{Datapath: d, kernel: &kernel{conn: conn}}
	defer s.close()
	if err := s.setUp(ctx); err != nil {
		return false, err
	}
	d.setTrouble(nil)
	d.kernel.Store(s.kernel)
	defer d.kernel.Store(nil)
	d.changed(overlay.Change{})
	var wg sync.WaitGroup
	defer wg.Wait()
	s.serve = func(r *reader) {
		wg.Go(func() {
			if err := r.supervise(ctx); err != nil {
				cancel(err)
			}
		})
	}
	for _, r := range s.kernel.list() {
		s.serve(r)
	}
	wg.Go(func() { cancel(s.watch(ctx, events)) })
	cancel(s.maintain(ctx))
	if err = context.Cause(ctx); isGone(err) {
		d.index.clear()
	}
	return true, err
}

// Overlay2 returns the overlay "fastdp2", for new peers only: it notices losses within three seconds, measures what the path
// takes, and works over IPv6 too. It is to be offered before "fastdp"; a connection has a link of only one of them.
func (d *Datapath) Overlay2() overlay.Overlay { return &tunnels{d: d, name: Name2} }

// hasSecond reports whether a connection has a link of fastdp2.
func (d *Datapath) hasSecond(p overlay.Params) bool {
	d.wantMu.Lock()
	defer d.wantMu.Unlock()
	return d.seconds[p.ConnUID]
}

// noteSecond notes that a connection has, or has no more, a link of fastdp2.
func (d *Datapath) noteSecond(uid uint64, has bool) {
	d.wantMu.Lock()
	defer d.wantMu.Unlock()
	if has {
		d.seconds[uid] = true
	} else {
		delete(d.seconds, uid)
	}
}

// isGone reports whether an error says that there is no such datapath.
func isGone(err error) bool { return errors.Is(err, errGone) || errors.Is(err, os.ErrNotExist) }

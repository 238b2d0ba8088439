package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// meshResult is what the mesh measurement prints.
type meshResult struct {
	Peers       int     `json:"peers"`
	Limit       int     `json:"limit"` // 0: none
	Wire        string  `json:"wire"`
	Converged   float64 `json:"converged_s"` // until all know all
	CPU         float64 `json:"cpu_s"`       // of the whole process until then
	RSS         float64 `json:"rss_mib"`     // the most so far, at the end
	Links       float64 `json:"links"`       // of a peer, on average
	SteadyCores float64 `json:"steady_cores"`
	SteadyBytes float64 `json:"steady_bytes_per_link_s"` // sent by one end of a link
	Broadcast   float64 `json:"broadcast_ms"`            // until all have 1 kB, median of 20
	Goroutines  int     `json:"goroutines"`
}

// memoryLimit is from where on the collector works harder, in bytes. What the kernel has for the sockets is not counted.
const memoryLimit = 1500 << 20

type meshOptions struct {
	peers, limit int
	wire         string
	steady       time.Duration
	settle       time.Duration
	timeout      time.Duration
	json         bool
	profile      string
}

// runMesh runs many peers in this process over TCP on loopback. Each has an address of its own in 127.0.0.0/8 and the same
// port, as hosts have; peer i joins through peer (i-1)/2.
func runMesh(ctx context.Context, args []string, out io.Writer) error {
	var o meshOptions
	fs := flag.NewFlagSet("mesh", flag.ContinueOnError)
	fs.IntVar(&o.peers, "peers", 100, "number of peers")
	fs.IntVar(&o.limit, "limit", 0, "connection limit of each peer, 0 for none")
	fs.StringVar(&o.wire, "wire", "new", "new, or old: only what Weave Net 2.8 speaks")
	fs.DurationVar(&o.steady, "steady", 60*time.Second, "how long the steady state is measured")
	fs.DurationVar(&o.settle, "settle", 30*time.Second, "how long to wait after convergence before that")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "give up if the peers have not converged by then")
	fs.StringVar(&o.profile, "profile", "", "write a CPU profile of the time until convergence to this file")
	fs.BoolVar(&o.json, "json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.peers < 2 || o.peers > 60000 || o.wire != "new" && o.wire != "old" {
		return errors.New("mesh: want --peers from 2 to 60000, --wire new or old")
	}
	debug.SetMemoryLimit(memoryLimit) // many peers in one process: memory counts for more than it does to one
	m := &meshBench{o: o}
	res, err := m.measure(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(out).Encode(res)
	}
	_, err = fmt.Fprintf(out, "%d peers, limit %d, %s wire: all know all after %.1f s and %.1f CPU-s; %.1f links each, %.0f MiB, %d goroutines\n"+
		"steady: %.4f cores, %.0f bytes/s per link; broadcast of 1 kB to all: %.1f ms\n",
		res.Peers, res.Limit, res.Wire, res.Converged, res.CPU, res.Links, res.RSS, res.Goroutines,
		res.SteadyCores, res.SteadyBytes, res.Broadcast)
	return err
}

type meshBench struct {
	o       meshOptions
	routers []*mesh.Router
	senders []gossip.Sender
	got     atomic.Int64 // broadcasts received
}

func (m *meshBench) address(i int) netip.AddrPort {
	n := i + 2
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)}), 26783)
}

func (m *meshBench) measure(ctx context.Context) (*meshResult, error) {
	res := &meshResult{Peers: m.o.peers, Limit: m.o.limit, Wire: m.o.wire}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if err := m.build(); err != nil {
		return nil, err
	}
	failed := make(chan error, len(m.routers))
	start, cpu := time.Now(), cpuTime()
	for _, r := range m.routers {
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				failed <- err
			}
		})
	}
	stop, err := profile(m.o.profile)
	if err != nil {
		return nil, err
	}
	err = m.converge(ctx, failed)
	stop()
	if err != nil {
		return nil, err
	}
	res.Converged, res.CPU = time.Since(start).Seconds(), (cpuTime() - cpu).Seconds()
	if err := pause(ctx, m.o.settle); err != nil {
		return nil, err
	}
	if err := m.steady(ctx, res); err != nil {
		return nil, err
	}
	if err := m.broadcasts(ctx, res); err != nil {
		return nil, err
	}
	res.Goroutines = runtime.NumGoroutine()
	res.RSS, err = memoryMiB(os.Getpid(), "VmHWM")
	return res, err
}

func (m *meshBench) build() error {
	for i := range m.o.peers {
		c := mesh.Config{
			Name: peer.Name(0x020000000001 + i), Nickname: "host" + strconv.Itoa(i), Listen: m.address(i), DefaultPort: m.address(i).Port(),
			ConnLimit: m.o.limit, NoDeltas: m.o.wire == "old",
		}
		if m.o.limit == 0 {
			c.ConnLimit = -1
		}
		if i > 0 {
			c.Targets = []string{m.address((i - 1) / 2).String()}
		}
		r, err := mesh.New(c)
		if err != nil {
			return err
		}
		s, err := r.Join("bench", &benchReceiver{m: m})
		if err != nil {
			return err
		}
		m.routers, m.senders = append(m.routers, r), append(m.senders, s)
	}
	return nil
}

// notConverged says what a peer is waiting for that does not know all others.
func (m *meshBench) notConverged(i int) error {
	st := m.routers[i].Status()
	text := fmt.Sprintf("mesh: not converged after %s: peer %d knows %d and has %d links", m.o.timeout, i, len(st.Peers), len(st.Connections))
	for _, t := range st.Targets {
		text += fmt.Sprintf("; target %s is %s, next %s: %s", t.Address, t.State, time.Until(t.Next).Round(time.Second), t.Reason)
	}
	for _, e := range st.Ended {
		text += fmt.Sprintf("; %s ended: %s", e.Address, e.Reason)
	}
	return errors.New(text)
}

// converge waits until all know all.
func (m *meshBench) converge(ctx context.Context, failed <-chan error) error {
	deadline := time.Now().Add(m.o.timeout)
	for i := 0; i < len(m.routers); {
		if members := m.routers[i].Members(); len(members) == m.o.peers && !slices.ContainsFunc(members, func(x gossip.Member) bool { return x.UID == 0 }) {
			i++
			continue
		}
		select {
		case err := <-failed:
			return err
		default:
		}
		if time.Now().After(deadline) {
			return m.notConverged(i)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// steady measures what a mesh costs in which nothing happens.
func (m *meshBench) steady(ctx context.Context, res *meshResult) error {
	before, _ := m.traffic()
	start, cpu := time.Now(), cpuTime()
	if err := pause(ctx, m.o.steady); err != nil {
		return err
	}
	elapsed := time.Since(start).Seconds()
	res.SteadyCores = (cpuTime() - cpu).Seconds() / elapsed
	after, links := m.traffic()
	res.SteadyBytes = (after - before) / elapsed / max(1, links)
	for _, r := range m.routers {
		res.Links += float64(len(r.Status().Connections)) / float64(len(m.routers))
	}
	return nil
}

// traffic adds up what a sample of the peers has sent, and their links.
func (m *meshBench) traffic() (sent, links float64) {
	for i := 0; i < len(m.routers); i += 1 + len(m.routers)/20 {
		for _, c := range m.routers[i].Status().Connections {
			sent, links = sent+float64(c.Sent), links+1
		}
	}
	return sent, links
}

func (m *meshBench) broadcasts(ctx context.Context, res *meshResult) error {
	var took []float64
	for i := range 20 {
		m.got.Store(0)
		start := time.Now()
		m.senders[i*7%len(m.senders)].Broadcast(benchData{make([]byte, 1000)})
		for m.got.Load() < int64(m.o.peers-1) {
			if time.Since(start) > 30*time.Second {
				return fmt.Errorf("mesh: a broadcast reached %d of %d peers in 30 s", m.got.Load(), m.o.peers-1)
			}
			if err := pause(ctx, time.Millisecond/2); err != nil {
				return err
			}
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	slices.Sort(took)
	res.Broadcast = took[len(took)/2]
	return nil
}

// benchReceiver counts broadcasts and passes them on.
type benchReceiver struct{ m *meshBench }

func (benchReceiver) OnUnicast(peer.Name, []byte) error { return nil }

func (b benchReceiver) OnBroadcast(_ peer.Name, msg []byte) (gossip.Data, error) {
	b.m.got.Add(1)
	return benchData{msg}, nil
}

func (benchReceiver) OnGossip([]byte) (gossip.Data, error) { return nil, nil }
func (benchReceiver) OnPeerGone(peer.Name)                 {}
func (benchReceiver) State() gossip.Data                   { return nil }

type benchData struct{ b []byte }

func (d benchData) Encode() [][]byte              { return [][]byte{d.b} }
func (d benchData) Merge(gossip.Data) gossip.Data { return d }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// profile starts a CPU profile, if a file is given for it.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// cpuTime returns what the process has used so far, in user and system mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

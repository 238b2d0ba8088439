package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const fastdpDevice = "datapath"

// node is fastdp on a host, with the switch that chooses it.
type node struct {
	name peer.Name
	addr netip.AddrPort
	fwd  *overlay.Forwarder
	dp   *fastdp.Datapath
	sw   *overlay.Switch
	stop func() error
}

type nodeConfig struct {
	name    peer.Name
	addr    netip.Addr
	mtu     int
	encrypt bool
}

// openNode starts fastdp on a host and waits until it runs.
func openNode(ctx context.Context, h *lab.Host, c nodeConfig) (n *node, err error) {
	n = &node{name: c.name, addr: netip.AddrPortFrom(c.addr, 6783), fwd: overlay.NewForwarder(c.name)}
	runs := &group{}
	defer func() {
		if err != nil {
			err = errors.Join(err, runs.stop())
		}
	}()
	ns, err := device.OpenNetNS(h.Path())
	if err != nil {
		return nil, err
	}
	runs.closers = append(runs.closers, ns.Close)
	cfg := fastdp.Config{Self: c.name, Forwarder: n.fwd, Name: fastdpDevice, MTU: c.mtu, ODP: odp.Config{NetNS: ns.Fd()}}
	if c.encrypt {
		if cfg.Protector, err = protector(h, runs); err != nil {
			return nil, err
		}
	}
	if n.dp, err = fastdp.New(cfg); err != nil {
		return nil, err
	}
	n.sw, err = overlay.NewSwitch(overlay.SwitchConfig{Self: c.name, Overlays: []overlay.Overlay{n.dp.Overlay()}, Forwarder: n.fwd})
	if err != nil {
		return nil, err
	}
	runs.run(n.dp.Run)
	runs.run(n.sw.Run)
	n.stop = runs.stop
	for !n.dp.Status().Running {
		if pause(ctx, pollInterval) != nil {
			return nil, fmt.Errorf("fastdp does not run: %w: %s", context.Cause(ctx), n.dp.Status().Problem)
		}
	}
	return n, nil
}

// protector opens the IPsec of a host.
func protector(h *lab.Host, runs *group) (*ipsec.Protector, error) {
	var kernel *ipsec.XFRM
	err := h.Do(func() (err error) {
		kernel, err = ipsec.OpenKernel()
		return err
	})
	if err != nil {
		return nil, err
	}
	runs.closers = append(runs.closers, kernel.Close)
	p, err := ipsec.New(ipsec.Config{Kernel: kernel})
	if err == nil {
		runs.run(p.Run)
	}
	return p, err
}

// group is a number of engines that end together.
type group struct {
	wg      sync.WaitGroup
	cancels []context.CancelFunc
	closers []func() error
	mu      sync.Mutex
	errs    []error
}

func (g *group) run(engine func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancels = append(g.cancels, cancel)
	g.wg.Go(func() {
		err := engine(ctx)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.errs = append(g.errs, err)
	})
}

func (g *group) stop() error {
	for _, cancel := range g.cancels {
		cancel()
	}
	g.wg.Wait()
	for _, c := range g.closers {
		g.errs = append(g.errs, c())
	}
	g.closers = nil
	return errors.Join(g.errs...)
}

// joined are two nodes with a connection.
type joined struct {
	ends  [2]*overlay.Bundle
	inbox [2]chan control
	done  chan struct{}
	pumps sync.WaitGroup
}

type control struct {
	tag     byte
	payload []byte
}

// join connects nodes as if the first had dialled the second, and waits until fastdp carries their frames.
func join(ctx context.Context, a, b *node, key *[32]byte) (*joined, error) {
	j := &joined{done: make(chan struct{})}
	nodes, uid := [2]*node{a, b}, uint64(time.Now().UnixNano())
	for i := range j.inbox {
		j.inbox[i] = make(chan control, 64)
	}
	for i, self := range nodes {
		other := nodes[1-i]
		p := overlay.Params{
			Self: self.name, Remote: other.name, Local: self.addr, RemoteAddr: other.addr, Outbound: i == 0,
			ConnUID: uid, Key: key, Features: map[string]string{overlay.FeatureKey: other.sw.Offer()},
		}
		if i == 1 { // it was dialled from some port
			p.RemoteAddr = netip.AddrPortFrom(other.addr.Addr(), 40000)
		}
		send := func(tag byte, payload []byte) error {
			select {
			case j.inbox[1-i] <- control{tag, bytes.Clone(payload)}:
			case <-j.done:
			}
			return nil
		}
		var err error
		if j.ends[i], err = self.sw.Prepare(p, send, func(overlay.Event) {}); err != nil {
			return nil, err
		}
	}
	for i := range j.ends {
		j.pumps.Go(func() { j.pump(i) })
	}
	for i, n := range nodes {
		n.fwd.SetRoutes(newStar(n.name, nodes[1-i].name))
		j.ends[i].Confirm()
	}
	return j, j.await(ctx)
}

func (j *joined) pump(i int) {
	for {
		select {
		case c := <-j.inbox[i]:
			j.ends[i].Control(c.tag, c.payload)
		case <-j.done:
			return
		}
	}
}

func (j *joined) await(ctx context.Context) error {
	for {
		a, b := j.ends[0].Status(), j.ends[1].Status()
		if a.Established && b.Established {
			return nil
		}
		if pause(ctx, pollInterval) != nil {
			return fmt.Errorf("%w: %s, %s", context.Cause(ctx), a.Reason, b.Reason)
		}
	}
}

func (j *joined) close() error {
	close(j.done)
	j.pumps.Wait()
	j.ends[0].Close()
	j.ends[1].Close()
	return nil
}

// star is a mesh in which a peer is connected to all others, and knows nothing of what they are connected to.
type star struct {
	self   peer.Name
	others []peer.Name
	ids    map[peer.Name]peer.ShortID
	named  map[peer.ShortID]peer.Name
}

// newStar numbers the peers by their names: the last 12 bits are the short id.
func newStar(self peer.Name, others ...peer.Name) *star {
	s := &star{self: self, others: others, ids: map[peer.Name]peer.ShortID{}, named: map[peer.ShortID]peer.Name{}}
	for _, name := range append([]peer.Name{self}, others...) {
		id := peer.ShortID(name) & peer.MaxShortID
		s.ids[name], s.named[id] = id, name
	}
	return s
}

func (s *star) NextHop(dst peer.Name) (peer.Name, bool) {
	_, ok := s.ids[dst]
	return dst, ok && dst != s.self
}

func (s *star) Flood(src peer.Name) []peer.Name {
	if src == s.self {
		return s.others
	}
	return nil
}

func (s *star) FloodHop(src, dst peer.Name) (peer.Name, bool) {
	hop, ok := s.NextHop(dst)
	return hop, ok && src == s.self
}

func (s *star) Peers() []peer.Name { return append([]peer.Name{s.self}, s.others...) }

func (s *star) ShortID(name peer.Name) (peer.ShortID, bool) {
	id, ok := s.ids[name]
	return id, ok
}

func (s *star) Named(id peer.ShortID) (peer.Name, bool) {
	name, ok := s.named[id]
	return name, ok
}

package fastdp_test

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestMain(m *testing.M) {
	labtest.Enter()
	goleak.VerifyTestMain(m)
}

const patience = 20 * time.Second

// world stands for the mesh: it knows who is connected to whom, and gives everyone routes.
type world struct {
	mu    sync.Mutex
	peers map[peer.Name]*node
	edges map[[2]peer.Name]bool
	uid   uint64
}

// node is one peer: a datapath and the switch that shares its decisions.
type node struct {
	name peer.Name
	id   peer.ShortID
	addr netip.AddrPort
	fwd  *overlay.Forwarder
	dp   *fastdp.Datapath
	sw   *overlay.Switch
	stop func()
}

func newWorld() *world {
	return &world{peers: map[peer.Name]*node{}, edges: map[[2]peer.Name]bool{}, uid: 0x1234_0000}
}

// nodeSpec says what a peer is like.
type nodeSpec struct {
	name   peer.Name
	id     peer.ShortID
	addr   netip.AddrPort
	config func(*fastdp.Config)
	port   overlay.Port      // of the switch; nil: none
	others []overlay.Overlay // less preferred
	second bool              // offer fastdp2 as well
}

// join starts a peer. It ends with the test, or by its stop.
func (w *world) join(t testing.TB, s nodeSpec) *node {
	t.Helper()
	n := &node{name: s.name, id: s.id, addr: s.addr, fwd: overlay.NewForwarder(s.name)}
	cfg := fastdp.Config{Self: s.name, Forwarder: n.fwd}
	s.config(&cfg)
	var err error
	n.dp, err = fastdp.New(cfg)
	require.NoError(t, err)
	overlays := []overlay.Overlay{n.dp.Overlay()}
	if s.second {
		overlays = []overlay.Overlay{n.dp.Overlay2(), n.dp.Overlay()}
	}
	n.sw, err = overlay.NewSwitch(overlay.SwitchConfig{Self: s.name, Overlays: append(overlays, s.others...), Forwarder: n.fwd, Port: s.port})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	wg.Go(func() { errs <- n.dp.Run(ctx) })
	wg.Go(func() { errs <- n.sw.Run(ctx) })
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			require.NoError(t, <-errs)
			require.NoError(t, <-errs)
		})
	}
	t.Cleanup(n.stop)
	w.mu.Lock()
	w.peers[s.name] = n
	w.mu.Unlock()
	w.route()
	return n
}

// leave takes a peer out of the mesh, as the other peers see it when it ends.
func (w *world) leave(n *node) {
	w.mu.Lock()
	delete(w.peers, n.name)
	others := slices.Collect(maps.Values(w.peers))
	w.mu.Unlock()
	w.route()
	for _, other := range others {
		other.fwd.ForgetPeer(n.name)
	}
}

// connection is a connection of the mesh between two nodes.
type connection struct {
	w      *world
	a, b   *node
	ends   [2]*overlay.Bundle
	events chan overlay.Event
	key    *[32]byte

	closing chan struct{}
	once    sync.Once
	pumps   sync.WaitGroup
}

type controlMessage struct {
	tag     byte
	payload []byte
}

// connect connects two nodes as if a had dialled b.
func (w *world) connect(t testing.TB, a, b *node, key *[32]byte) *connection {
	t.Helper()
	return w.connectWith(t, a, b, connectSpec{at: [2]netip.Addr{a.addr.Addr(), b.addr.Addr()}, key: key})
}

// connectAt connects two nodes between two of their addresses.
func (w *world) connectAt(t testing.TB, a, b *node, atA, atB netip.Addr) *connection {
	t.Helper()
	return w.connectWith(t, a, b, connectSpec{at: [2]netip.Addr{atA, atB}})
}

type connectSpec struct {
	at  [2]netip.Addr
	key *[32]byte
}

func (w *world) connectWith(t testing.TB, a, b *node, spec connectSpec) *connection {
	t.Helper()
	key := spec.key
	w.mu.Lock()
	w.uid++
	uid := w.uid
	w.mu.Unlock()
	c := &connection{w: w, a: a, b: b, events: make(chan overlay.Event, 64), closing: make(chan struct{}), key: key}
	var inbox [2]chan controlMessage
	nodes := [2]*node{a, b}
	for i := range inbox {
		inbox[i] = make(chan controlMessage, 1024)
	}
	for i, self := range nodes {
		other := nodes[1-i]
		local, remote := netip.AddrPortFrom(spec.at[i], self.addr.Port()), netip.AddrPortFrom(spec.at[1-i], other.addr.Port())
		if i == 1 {
			remote = netip.AddrPortFrom(remote.Addr(), 40000)
		}
		p := overlay.Params{
			Self: self.name, Remote: other.name, Local: local, RemoteAddr: remote, Outbound: i == 0, ConnUID: uid, Key: key,
			Features: map[string]string{overlay.FeatureKey: other.sw.Offer()},
		}
		send := func(tag byte, payload []byte) error {
			select {
			case inbox[1-i] <- controlMessage{tag, bytes.Clone(payload)}:
			case <-c.closing:
			}
			return nil
		}
		report := func(e overlay.Event) {
			select {
			case c.events <- e:
			default:
			}
		}
		var err error
		c.ends[i], err = self.sw.Prepare(p, send, report)
		require.NoError(t, err)
	}
	for i := range nodes {
		c.pumps.Go(func() {
			for {
				select {
				case m := <-inbox[i]:
					c.ends[i].Control(m.tag, m.payload)
				case <-c.closing:
					return
				}
			}
		})
	}
	c.ends[0].Confirm()
	c.ends[1].Confirm()
	w.setEdge(a, b, true)
	t.Cleanup(c.close)
	return c
}

func (c *connection) close() {
	c.once.Do(func() {
		close(c.closing)
		c.pumps.Wait()
		c.ends[0].Close()
		c.ends[1].Close()
		c.w.setEdge(c.a, c.b, false)
	})
}

// awaitUse waits until both ends use an overlay that is established.
func (c *connection) awaitUse(t testing.TB, name string) {
	t.Helper()
	c.awaitUseWithin(t, name, patience)
}

func (c *connection) awaitUseWithin(t testing.TB, name string, patience time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, b := range c.ends {
			if st := b.Status(); st.Overlay != name || !st.Established {
				return false
			}
		}
		return true
	}, patience, 5*time.Millisecond, "%+v\n%+v", c.ends[0].Statuses(), c.ends[1].Statuses())
}

func (w *world) setEdge(a, b *node, up bool) {
	w.mu.Lock()
	e := [2]peer.Name{min(a.name, b.name), max(a.name, b.name)}
	if up {
		w.edges[e] = true
	} else {
		delete(w.edges, e)
	}
	w.mu.Unlock()
	w.route()
}

// route gives everyone routes by the rules of section 7 of the overlay specification.
func (w *world) route() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.peers {
		n.fwd.SetRoutes(w.routesOf(n.name))
	}
}

func (w *world) routesOf(self peer.Name) overlaytest.Routes {
	r := overlaytest.Routes{
		Hops: map[peer.Name]peer.Name{}, Floods: map[peer.Name][]peer.Name{}, Trees: map[peer.Name]map[peer.Name]peer.Name{},
		IDs: map[peer.Name]peer.ShortID{},
	}
	for name, n := range w.peers {
		r.IDs[name] = n.id
	}
	hop, _, _ := w.walk(self, 0)
	r.Hops = hop
	for src := range w.peers {
		_, reached, stopped := w.walk(src, self)
		if !stopped {
			continue
		}
		for _, n := range w.neighbours(self) {
			if !reached[n] {
				r.Floods[src] = append(r.Floods[src], n)
			}
		}
	}
	return r
}

func (w *world) neighbours(of peer.Name) (out []peer.Name) {
	for e := range w.edges {
		if e[0] == of {
			out = append(out, e[1])
		} else if e[1] == of {
			out = append(out, e[0])
		}
	}
	slices.SortFunc(out, cmp.Compare[peer.Name])
	return out
}

func (w *world) walk(from, stop peer.Name) (hop map[peer.Name]peer.Name, reached map[peer.Name]bool, stopped bool) {
	hop, reached = map[peer.Name]peer.Name{}, map[peer.Name]bool{from: true}
	for level := []peer.Name{from}; len(level) > 0; {
		var next []peer.Name
		slices.SortFunc(level, cmp.Compare[peer.Name])
		for _, p := range level {
			if p == stop {
				return hop, reached, true
			}
			for _, q := range w.neighbours(p) {
				if reached[q] {
					continue
				}
				reached[q], next = true, append(next, q)
				if hop[q] = q; p != from {
					hop[q] = hop[p]
				}
			}
		}
		level = next
	}
	return maps.Clone(hop), reached, false
}

package fastdp

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// rig is a datapath over a kernel in memory, with the peers of the decision tests.
type rig struct {
	t    testing.TB
	k    *odptest.Kernel
	conn *odp.Conn // the test's own
	*Datapath
	fwd    *overlay.Forwarder
	sw     *overlay.Switch
	routes overlaytest.Routes
	stop   func()

	prepare func(*Datapath) // called before it runs; nil: nothing is to be done

	mu      sync.Mutex
	sockets []odp.Socket
	onSend  func() // called before requests are sent, once
}

// bubble runs a test with a rig in a bubble of synctest.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, k: odptest.New()}
		var err error
		r.conn, err = odp.Open(t.Context(), odp.Config{Dial: r.k.Dial})
		require.NoError(t, err)
		defer r.conn.Close()
		r.start(nil)
		defer func() { r.stop() }()
		test(t, r)
	})
}

func testRoutes() overlaytest.Routes {
	return overlaytest.Routes{
		Hops:   map[peer.Name]peer.Name{nameB: nameB, nameC: nameC, nameD: nameB},
		Floods: map[peer.Name][]peer.Name{self: {nameC, nameB}, nameB: {nameC}, nameD: {nameC}, nameC: {nameB}},
		IDs:    map[peer.Name]peer.ShortID{self: id(self), nameB: id(nameB), nameC: id(nameC), nameD: id(nameD)},
	}
}

// start starts a datapath, which takes over what is in the kernel.
func (r *rig) start(change func(*Config)) {
	t := r.t
	r.fwd = overlay.NewForwarder(self)
	c := Config{
		Self: self, Forwarder: r.fwd, Readers: 2, Sweep: time.Hour,
		ODP: odp.Config{Dial: r.dial, Timeout: 200 * time.Millisecond, ReceiveBuffer: 64 << 10},
	}
	if change != nil {
		change(&c)
	}
	d, err := New(c)
	require.NoError(t, err)
	r.Datapath = d
	if r.prepare != nil {
		r.prepare(d)
	}
	r.sw, err = overlay.NewSwitch(overlay.SwitchConfig{Self: self, Forwarder: r.fwd, Overlays: []overlay.Overlay{d.Overlay2(), d.Overlay(), overlaytest.NewNetwork().Overlay(self, "sleeve")}})
	require.NoError(t, err)
	require.NoError(t, d.AddPort(t.Context(), "a"))
	require.NoError(t, d.AddPort(t.Context(), "b"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	synctest.Wait()
	require.True(t, d.Status().Running, d.Status().Problem)
}

// mesh connects the peers and gives routes.
func (r *rig) mesh() (toB *overlay.Bundle) {
	r.routes = testRoutes()
	r.fwd.SetRoutes(r.routes)
	return r.connect(nameB, addrB, "fastdp sleeve")
}

// connect connects a peer with the overlays that it offers.
func (r *rig) connect(name peer.Name, at netip.Addr, offer string) *overlay.Bundle {
	b, err := r.sw.Prepare(overlay.Params{
		Self: self, Remote: name, Local: addrPort(selfAddr), RemoteAddr: addrPort(at), Outbound: true,
		ConnUID: uint64(name), Features: map[string]string{overlay.FeatureKey: offer},
	}, func(byte, []byte) error { return nil }, func(overlay.Event) {})
	require.NoError(r.t, err)
	b.Confirm()
	r.t.Cleanup(b.Close)
	r.settle()
	return b
}

// dial opens a socket that the test can close or watch.
func (r *rig) dial(o odp.SocketOptions) (odp.Socket, error) {
	if o.Protocol == odp.ProtocolRoute {
		return nil, errors.ErrUnsupported // the kernel in memory has no devices
	}
	s, err := r.k.Dial(o)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	watched := &watchedSocket{s, r}
	r.sockets = append(r.sockets, watched)
	return watched, nil
}

type watchedSocket struct {
	odp.Socket
	r *rig
}

func (s *watchedSocket) Send(b []byte) error {
	s.r.mu.Lock()
	f := s.r.onSend
	s.r.onSend = nil
	s.r.mu.Unlock()
	if f != nil {
		f()
	}
	return s.Socket.Send(b)
}

// settle lets all that has been set off come to an end, but not the next sweep.
func (r *rig) settle() {
	synctest.Wait()
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
}

func (r *rig) dp() odp.Index {
	r.t.Helper()
	d, err := r.conn.Datapath(r.t.Context(), "datapath")
	require.NoError(r.t, err)
	return d.Index
}

func (r *rig) number(name string) uint32 {
	r.t.Helper()
	v, err := r.conn.Vport(r.t.Context(), name)
	require.NoError(r.t, err)
	return v.Number
}

// upcallPIDs returns the sockets that a port sends to what it misses.
func (r *rig) upcallPIDs(device string) []uint32 {
	r.t.Helper()
	v, err := r.conn.Vport(r.t.Context(), device)
	require.NoError(r.t, err)
	return v.UpcallPIDs
}

// flows returns the flows in the kernel.
func (r *rig) flows() map[flowKey][]step {
	r.t.Helper()
	out := map[flowKey][]step{}
	for f, err := range r.conn.Flows(r.t.Context(), r.dp(), odp.DumpOptions{}) {
		require.NoError(r.t, err)
		k, ok := parseKey(f.Match, f.UFID)
		require.True(r.t, ok, "%v", f)
		out[k], ok = parseActions(f.Actions)
		require.True(r.t, ok)
	}
	return out
}

// consistent checks that the index and the kernel agree.
func (r *rig) consistent() map[flowKey][]step {
	r.t.Helper()
	have := r.flows()
	n := 0
	r.index.each(func(k flowKey, e *entry) {
		n++
		steps, ok := have[k]
		require.True(r.t, ok, "not in the kernel: %+v", k)
		require.True(r.t, sameSteps(e.steps, steps), "%+v: %+v", k, steps)
	})
	require.Len(r.t, have, n)
	return have
}

// miss has a frame missed that a station of this host sends.
func (r *rig) miss(device string, dst, src overlay.MAC) (delivered bool) {
	return r.missAt(r.dp(), r.number(device), dst, src)
}

func (r *rig) missAt(dp odp.Index, port uint32, dst, src overlay.MAC) (delivered bool) {
	return r.k.Miss(dp, port, frameFor(dst, src), odptest.Key(odp.InPort(port), odp.Ethernet{Src: odp.MAC(src), Dst: odp.MAC(dst)}, odp.EtherType(0x88b5)))
}

// missFromB has a frame missed that came from B, after those before have been dealt with, and waits until it is too: tunnels have
// readers of their own.
func (r *rig) missFromB(v vni, dst, src overlay.MAC) {
	r.t.Helper()
	synctest.Wait()
	port := r.number("vxlan-6784")
	key := odptest.Key(odp.InPort(port), odp.Tunnel{ID: uint64(v), Src: fromB.src, Dst: fromB.dst, TTL: 64, SrcPort: 5, DstPort: 6784},
		odp.Ethernet{Src: odp.MAC(src), Dst: odp.MAC(dst)}, odp.EtherType(0x88b5))
	require.True(r.t, r.k.Miss(r.dp(), port, frameFor(dst, src), key))
	synctest.Wait()
}

func frameFor(dst, src overlay.MAC) []byte {
	b := append(append([]byte(nil), dst[:]...), src[:]...)
	b = binary.BigEndian.AppendUint16(b, 0x88b5)
	return append(b, make([]byte, 46)...)
}

// executed returns what was done to packets since it was last asked.
func (r *rig) executed(seen *int) (out [][]step) {
	all := r.k.Executed()
	for _, p := range all[*seen:] {
		list, err := p.Actions.Actions()
		require.NoError(r.t, err)
		steps, ok := parseActions(list)
		require.True(r.t, ok)
		out = append(out, steps)
	}
	*seen = len(all)
	return out
}

func notExist(err error) bool { return errors.Is(err, os.ErrNotExist) }

package ipsec_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/fastdp/ipsec/ipsectest"
	"github.com/overweave/overweave/mesh/peer"
)

const tunnelPort = 6784

var (
	addrA, addrB = netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("192.168.77.2")
	nameA, nameB = peer.MustParse("0a:00:00:00:00:01"), peer.MustParse("0a:00:00:00:00:02")
)

// host is one end: a kernel, and a protector that runs on it, until stop. Tests use it in a bubble.
type host struct {
	t      *testing.T
	name   peer.Name
	addr   netip.Addr
	kernel *ipsectest.Kernel
	cfg    ipsec.Config
	p      *ipsec.Protector
	stop   func()
}

// start runs a protector, anew after stop: what is in the kernel is what the former left.
func (h *host) start() {
	h.cfg.Kernel = h.kernel
	p, err := ipsec.New(h.cfg)
	require.NoError(h.t, err)
	require.NoError(h.t, p.Guard(tunnelPort))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(h.t, p.Run(ctx)) })
	h.p, h.stop = p, sync.OnceFunc(func() { cancel(); wg.Wait() })
	h.t.Cleanup(h.stop)
}

func twoHosts(t *testing.T, cfg ipsec.Config) (a, b *host) {
	a = &host{t: t, name: nameA, addr: addrA, kernel: ipsectest.NewKernel(), cfg: cfg}
	b = &host{t: t, name: nameB, addr: addrB, kernel: ipsectest.NewKernel(), cfg: cfg}
	a.start()
	b.start()
	return a, b
}

// connection joins two protections as a control connection does: what is sent arrives in order, later.
type connection struct {
	t      *testing.T
	ends   [2]fastdp.Protection
	queue  [2]chan []byte // to each end
	mu     sync.Mutex
	told   [2][]error // reports
	sent   [2][][]byte
	closed bool
	again  bool // protections take the place of others
	wg     sync.WaitGroup
}

type link struct {
	key    byte // of the session; the remote's is otherKey if that is not 0
	other  byte
	rekeys bool
}

func connect(t *testing.T, a, b *host, l link) *connection {
	c := &connection{t: t, queue: [2]chan []byte{make(chan []byte, 64), make(chan []byte, 64)}}
	keys := [2]byte{l.key, l.key}
	if l.other != 0 {
		keys[1] = l.other
	}
	for i, h := range []*host{a, b} {
		peers := [2]*host{b, a}
		c.ends[i] = c.protect(h, peers[i], i, [32]byte{keys[i]}, l.rekeys)
	}
	for i := range c.ends {
		c.wg.Go(func() {
			for payload := range c.queue[i] {
				c.ends[i].Control(payload)
			}
		})
	}
	t.Cleanup(c.close)
	return c
}

func (c *connection) protect(h, remote *host, i int, key [32]byte, rekeys bool) fastdp.Protection {
	tunnel := fastdp.Tunnel{Self: h.name, Remote: remote.name, Local: h.addr, RemoteAddr: remote.addr, Port: tunnelPort, Key: &key, Rekeys: rekeys, Again: c.again}
	send := func(payload []byte) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		payload = append([]byte(nil), payload...)
		c.sent[i] = append(c.sent[i], payload)
		if !c.closed {
			c.queue[1-i] <- payload
		}
		return nil
	}
	report := func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.told[i] = append(c.told[i], err)
	}
	p, err := h.p.Protect(tunnel, send, report)
	require.NoError(c.t, err)
	return p
}

// sever ends the connection without the ends being closed.
func (c *connection) sever() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.queue[0])
		close(c.queue[1])
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func (c *connection) close() {
	c.sever()
	for _, p := range c.ends {
		p.Close()
	}
}

// reports returns what an end was told so far.
func (c *connection) reports(end int) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]error(nil), c.told[end]...)
}

func (c *connection) announcements(end int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent[end])
}

// payload returns the last announcement of an end.
func (c *connection) payload(end int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[end][len(c.sent[end])-1]
}

func (c *connection) requireReady() {
	c.t.Helper()
	synctest.Wait()
	for end := range c.ends {
		require.Equal(c.t, []error{nil}, c.reports(end))
		require.True(c.t, c.ends[end].Status().Encrypted, c.ends[end].Status().Reason)
	}
}

// packet says what becomes of one.
func packet(from, to *host) ipsectest.Trace {
	return ipsectest.Send(from.kernel, to.kernel, ipsectest.Packet{Src: from.addr, Dst: to.addr, Port: tunnelPort})
}

// requireBoth requires an outcome of packets in both directions.
func requireBoth(t *testing.T, a, b *host, want ipsectest.Outcome) {
	t.Helper()
	require.Equal(t, want, packet(a, b).Outcome, "from A to B")
	require.Equal(t, want, packet(b, a).Outcome, "from B to A")
}

// neverExposed fails the test if after any change a packet is in the clear on its way.
func neverExposed(t *testing.T, a, b *host) {
	check := func() {
		if packet(a, b).Exposed || packet(b, a).Exposed {
			t.Error("a packet was in the clear")
		}
	}
	a.kernel.OnChange(check)
	b.kernel.OnChange(check)
}

// after lets time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

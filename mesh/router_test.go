package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a router that runs, for tests.
type running struct {
	*Router
	stop func()
}

// start runs a router until stop is called, or the test ends.
func start(t testing.TB, c Config, join ...func(*Router)) *running {
	t.Helper()
	if testing.Verbose() && os.Getenv("MESHLOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("self", c.Name)
	}
	r, err := New(c)
	require.NoError(t, err)
	for _, j := range join {
		j(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return &running{r, stop}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, 2*time.Millisecond, what)
}

func name(i int) peer.Name { return peer.Name(0x0a0000000000 + i) }

func loopback(i int, targets ...string) Config {
	return Config{
		Name: name(i), Nickname: fmt.Sprint("host", i), Listen: netip.MustParseAddrPort("127.0.0.1:0"), Targets: targets,
	}
}

func knows(n int, rs ...*running) func() bool {
	return func() bool {
		for _, r := range rs {
			if len(r.Members()) != n || slices.ContainsFunc(r.Members(), func(m gossip.Member) bool { return m.UID == 0 }) {
				return false
			}
		}
		return true
	}
}

func TestMeshOverTCP(t *testing.T) {
	for _, tt := range []struct {
		name     string
		password string
		old      bool
	}{
		{"clear", "", false}, {"password", "a long enough password", false},
		{"old wire", "", true}, {"old wire with password", "a long enough password", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var rs []*running
			for i := range 5 {
				c := loopback(i + 1)
				c.Password, c.NoDeltas = []byte(tt.password), tt.old
				if i > 0 {
					addr := rs[(i-1)/2].Addr
					eventually(t, "listening", func() bool { return addr().IsValid() })
					c.Targets = []string{addr().String()}
				}
				rs = append(rs, start(t, c))
			}
			eventually(t, "all know all", knows(5, rs...))
			st := rs[1].Status()
			require.NotEmpty(t, st.Connections)
			require.Equal(t, tt.password != "", st.Connections[0].Encrypted)
			rs[4].stop()
			eventually(t, "the rest know it", knows(4, rs[:4]...))
		})
	}
}

func TestWrongPassword(t *testing.T) {
	a := loopback(1)
	a.Password = []byte("one")
	ra := start(t, a)
	eventually(t, "listening", func() bool { return ra.Addr().IsValid() })
	for _, password := range []string{"two", ""} {
		b := loopback(2, ra.Addr().String())
		b.Password = []byte(password)
		rb := start(t, b)
		eventually(t, "the dialler knows why", func() bool {
			targets := rb.Status().Targets
			return len(targets) == 1 && errors.Is(targets[0].Err, ErrPassword)
		})
		eventually(t, "the acceptor knows why", func() bool {
			return slices.ContainsFunc(ra.Status().Ended, func(e EndedStatus) bool { return errors.Is(e.Err, ErrPassword) })
		})
		rb.stop()
	}
	require.Len(t, ra.Members(), 1)
}

func TestPortTaken(t *testing.T) {
	ra := start(t, loopback(1))
	eventually(t, "listening", func() bool { return ra.Addr().IsValid() })
	c := loopback(2)
	c.Listen = ra.Addr()
	r, err := New(c)
	require.NoError(t, err)
	require.ErrorIs(t, r.Run(t.Context()), syscall.EADDRINUSE)
}

func TestNameTaken(t *testing.T) {
	ra := start(t, loopback(1))
	eventually(t, "listening", func() bool { return ra.Addr().IsValid() })
	clone := start(t, loopback(1, ra.Addr().String()))
	eventually(t, "the clone knows", func() bool {
		targets := clone.Status().Targets
		return len(targets) == 1 && errors.Is(targets[0].Err, ErrNameTaken)
	})
	given, live := clone.Targets()
	require.Equal(t, []int{1, 0}, []int{given, live})
}

// TestTwoOfOneName: a third peer that both of them connect to names both addresses.
func TestTwoOfOneName(t *testing.T) {
	ra := start(t, loopback(1))
	eventually(t, "listening", func() bool { return ra.Addr().IsValid() })
	one := start(t, loopback(2, ra.Addr().String()))
	eventually(t, "one is in", knows(2, ra, one))
	start(t, loopback(2, ra.Addr().String()))
	eventually(t, "the clash is noticed", func() bool {
		return slices.ContainsFunc(ra.Status().Ended, func(e EndedStatus) bool { return errors.Is(e.Err, ErrNameTaken) })
	})
}

func TestDialsItself(t *testing.T) {
	ra := start(t, loopback(1))
	eventually(t, "listening", func() bool { return ra.Addr().IsValid() })
	require.NoError(t, ra.Connect(false, ra.Addr().String()))
	eventually(t, "never again", func() bool { _, live := ra.Targets(); return live == 0 })
	require.Zero(t, ra.Status().Terminations)
}

// slowListener accepts nothing, and takes a while to close.
type slowListener struct{ closed chan struct{} }

func (slowListener) Accept() (net.Conn, error) { return nil, syscall.EMFILE }
func (slowListener) Addr() net.Addr            { return &net.TCPAddr{} }

func (l slowListener) Close() error {
	time.Sleep(time.Second)
	close(l.closed)
	return nil
}

type stiffNetwork struct {
	Network
	l slowListener
}

func (n stiffNetwork) Listen(context.Context, netip.AddrPort) (net.Listener, error) { return n.l, nil }

// TestPortIsFree: when Run has returned, another router can listen on the port.
func TestPortIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := stiffNetwork{l: slowListener{make(chan struct{})}}
		c := loopback(1)
		c.Network = n
		r := start(t, c)
		synctest.Wait()
		r.stop()
		select {
		case <-n.l.closed:
		default:
			t.Error("the listener is still open")
		}
	})
}

func host(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// inMemory configures a peer of a simulated network, listening on host(i):6783.
func inMemory(n *meshtest.Network, i int, targets ...int) Config {
	c := Config{Name: name(i), Network: n.Host(host(i)), Listen: netip.AddrPortFrom(host(i), 6783)}
	for _, t := range targets {
		c.Targets = append(c.Targets, host(t).String())
	}
	return c
}

func TestSimulatedMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		var rs []*running
		for i := 1; i <= 10; i++ {
			rs = append(rs, start(t, inMemory(n, i, max(1, i/2))))
		}
		time.Sleep(20 * time.Second)
		require.True(t, knows(10, rs...)())
		for _, r := range rs {
			require.Len(t, r.Status().Connections, 9, "full mesh")
		}
		n.Cut(host(1), host(2))
		time.Sleep(2 * time.Minute)
		require.True(t, knows(10, rs...)())
		require.Len(t, rs[0].Status().Connections, 8, "silence ends a link")
		n.Heal(host(1), host(2))
		time.Sleep(10 * time.Minute)
		require.Len(t, rs[0].Status().Connections, 9)
		for _, r := range rs {
			r.stop()
		}
	})
}
